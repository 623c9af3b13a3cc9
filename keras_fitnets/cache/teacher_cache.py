"""The public function: from a Distiller and a dataset to a `CachedDataset`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_fitnets.cache.augmentation import Augmentation
from keras_fitnets.cache.source import ExampleSource
from keras_fitnets.cache.storage import exclusive_lock
from keras_fitnets.cache.teacher_pass import TeacherPass
from keras_fitnets.cache.writer import CacheWriter
from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.lazy import tf

HINT_DTYPES = ("float16", "float32", "float64")


def cache_teacher(
    distiller: Distiller,
    dataset: tf.data.Dataset,
    directory: Any,
    *,
    hint_layers: Sequence[Any] = (),
    hint_dtype: str = "float16",
    augment: Callable[..., Any] | None = None,
    views: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    verbose: Any = "auto",
) -> CachedDataset:
    """Run the teacher once over `dataset` and return a dataset with its outputs.

    Use it when several epochs, students or settings are trained with one teacher:
    `fit`, `fit_stagewise` and `evaluate` of any Distiller with this teacher take what
    is returned in place of `dataset`. Its elements hold the inputs together with the
    teacher's logits and hints, so that a step costs what the student costs. λ, τ, the
    student, the seed and the hint pair may change, as long as the hint layer is in the
    cache.

    A cache belongs to the examples and to the teacher's layers and weights. Each time
    it is opened, the examples are compared with checksums of those that it was made
    of, the teacher with its fingerprint and on one batch, and each file with its
    CRC-32. A cache that differs or is damaged raises an error that says how to go on.
    After an interruption the same call writes what is missing; of several processes
    one writes, and the others wait for it. The size is printed, and compared with the
    free space on the disk, before anything is written.

    Writing goes through `dataset` twice: once to count the examples and to compute
    their checksums, once with the teacher. It folds each normalisation into the kernel
    before it, which moves the logits of a ResNet50 by a millionth.

    Args:
        distiller: a `Distiller`, compiled or not; its hint layers are cached.
        dataset: batches of `x`, `(x, y)` or `(x, y, sample_weight)`, the same in every
            pass: neither shuffled anew nor augmented at random.
        directory: of the cache, on a local or mounted disk. It is made if need be.
        hint_layers: further layers of the teacher to cache, for hint pairs to be tried
            later: paths, or `(path, member)` in an ensemble.
        hint_dtype: of the hints on disk: `"float16"`, with a relative error of at most
            2⁻¹¹ in features from 6·10⁻⁵ to 65504, `"float32"` or `"float64"`. Logits
            are not rounded.
        augment: `augment(x, seed)`, the augmentation of one example (without a batch);
            `seed` are two integers, other for each example and view, as
            `tf.image.stateless_random_flip_left_right` takes them. Where labels move
            with the pixels, as label maps and boxes do, `augment(x, y, seed)`, and
            where weights do too, `augment(x, y, sample_weight, seed)`; they return
            what they take, without the seed.
        views: how many augmented views of each example are cached; an epoch shows one,
            the next epoch the next. Data to validate on want a cache of their own.
        shuffle: whether the examples come in another order in each epoch.
        seed: of that order, which is the same again where a run is resumed.
        batch_size: of what is given back; by default that of `dataset`.
        verbose: 0 for silence, as in `fit`.

    Returns:
        A `CachedDataset` of `(CachedInputs, y, sample_weight)`, as far as `dataset`
        has them.

    Raises:
        TypeError: for a distiller, dataset or augmentation of another kind.
        ValueError: for a dataset whose elements differ between two passes; for label
            maps that `augment` would leave behind; for a cache of another teacher,
            other layers or other data, or a damaged one.
        OSError: if the disk has too little room.

    Example:

    >>> import keras, numpy as np, tempfile, tensorflow as tf
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, "relu", name="hidden"),
    ...         keras.layers.Dense(3, name="logits"),
    ...     ])
    >>> distiller = Distiller(net(16), net(2), hints=("hidden", "hidden"))
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> distiller.compile("adam", loss=loss)
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 4)), np.ones(8)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cached = cache_teacher(distiller, data.batch(4), folder, verbose=0)
    ...     history = distiller.fit(cached, shuffle=False, verbose=0)
    >>> sorted(history.history)
    ['hint_loss', 'kd_loss', 'label_loss', 'loss']
    """
    _check_arguments(distiller, dataset, hint_dtype)
    check_integer("views", views)
    check_integer("seed", seed, minimum=0)
    if views > 1 and augment is None:
        raise ValueError(
            f"Without `augment` all views are the same; received views={views}. Pass "
            "an augmentation, or leave `views` out."
        )
    augmentation = None if augment is None else Augmentation(augment)
    source = ExampleSource(distiller, dataset, augmentation, views)
    batch_size = source.batch_size if batch_size is None else batch_size
    check_integer("batch_size", batch_size)
    # The Distiller's own hint layers, and those that are to be tried later.
    provider = distiller.teacher_outputs.with_layers(_parse_layers(hint_layers))
    teacher_pass = TeacherPass(distiller.teacher, provider, hint_dtype)
    writer = CacheWriter(_parse_directory(directory), source, teacher_pass, views)
    # A complete cache is opened without the lock, so that many processes can read it
    # at once, also from a directory that they cannot write to.
    store = writer.open()
    if store is not None and store.is_complete():
        store = writer.run(store, verbose)
    else:
        with exclusive_lock(writer.directory, verbose):
            # Opened again: the process that held the lock may have written all of it.
            store = writer.run(writer.open(), verbose)
    return CachedDataset(
        store,
        source.pack,
        [name for name, *_ in source.columns],
        teacher_pass.keys,
        views=views,
        shuffle=shuffle,
        seed=seed,
        batch_size=batch_size,
    )


def _check_arguments(distiller: Any, dataset: Any, hint_dtype: str) -> None:
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`cache_teacher` caches for a keras_fitnets.Distiller; received "
            f"{distiller!r}."
        )
    if isinstance(dataset, CachedDataset):
        raise ValueError(
            "`dataset` comes out of a cache already. Pass the one that it was made of."
        )
    if not is_tf_dataset(dataset):
        raise TypeError(
            "`dataset` must be a tf.data.Dataset of batches; received a "
            f"{type(dataset).__name__}. Of arrays make one: "
            "tf.data.Dataset.from_tensor_slices((x, y)).batch(64)."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`dataset` has no end. Leave out `.repeat()`: an epoch is one pass through "
            "the cache."
        )
    check_choice("hint_dtype", hint_dtype, HINT_DTYPES)


def _parse_layers(layers: Any) -> list[tuple[str, int]]:
    """Return the path and the member of each of `hint_layers`."""
    found = [] if isinstance(layers, str) else [*layers]
    pairs = [(one, 0) if isinstance(one, str) else one for one in found]
    for pair in pairs or ([layers] if layers else []):
        if not isinstance(pair, (tuple, list)) or [*map(type, pair)] != [str, int]:
            raise TypeError(
                "`hint_layers` must be a list of paths to layers of the teacher, or of "
                f"(path, member) in an ensemble; received {layers!r}."
            )
    return pairs


def _parse_directory(directory: Any) -> Path:
    """Return a directory as an absolute path."""
    if "://" in str(directory):
        raise ValueError(
            "The cache's files are mapped into memory, so `directory` must be local "
            f"or mounted; received {directory!r}."
        )
    path = Path(directory).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"`directory` is a file: '{path}'. Pass a new or empty folder."
        )
    return path
