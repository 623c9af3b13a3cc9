"""A dataset whose batches carry the teacher's outputs, wherever they are stored."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import keras
import numpy as np

from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.teacher_outputs import find_cached
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.lazy import tf

# A teacher output: the fingerprint of its network, and its name.
Key = tuple[str, str]


class Table(Protocol):
    """What a `CachedDataset` reads: rows of columns, each row one view of an example.

    The views stand one after the other: all examples in view 0, then all in view 1.
    """

    @property
    def columns(self) -> Mapping[str, tf.TensorSpec]:
        """The specification of one row of each column."""

    @property
    def num_rows(self) -> int:
        """The number of rows, of all views together."""

    def read_rows(self, column: str, rows: np.ndarray) -> np.ndarray:
        """Read the rows of a column at these positions, in this order."""

    def fingerprint(self) -> str:
        """Return a digest of all that the table holds."""


class EpochCounter(keras.callbacks.Callback):
    """Numbers the passes through a cached dataset by the epochs of `fit`.

    A `Distiller` adds it to its callbacks by itself. Pass it to `fit` with a plain
    dataset that was derived from a `CachedDataset`, so that there too an interrupted
    run goes on with the views and the order that it would have had.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._next = epoch

    def start_pass(self) -> int:
        """Return the number of the pass that begins now."""
        self._next += 1
        return self._next - 1


class CachedDataset:
    """Batches of examples together with the teacher's outputs, as `fit` takes them.

    `cache_teacher` makes it. `fit`, `evaluate` and `predict` of a `Distiller`,
    `fit_stagewise` and a search take it wherever they take a `tf.data.Dataset`, and
    then do two things that a plain dataset cannot. They read only the teacher outputs
    that the running stage needs. And they tie views and order to the number of the
    epoch, so that a run that was interrupted goes on as if it had not been.

    It is not itself a `tf.data.Dataset`, but has the methods of one: `.map`, `.take`,
    `.prefetch`, `.batch` and all others are those of `as_tf_dataset()` and return a
    plain `tf.data.Dataset`. That one reads all teacher outputs in every stage, and
    counts its passes from the beginning of the process. Where a resumed run must see
    the views and the order of its epochs, pass `callbacks=[cached.epoch_counter]` to
    `fit` with it.

    Args:
        table: the stored columns.
        pack: makes inputs, labels and sample weights, each None where there are none,
            out of a dictionary of columns.
        example_columns: the columns that `pack` takes.
        keys: the teacher outputs that are given back by default.
        views: how many views of each example the table holds; each pass shows one.
        shuffle: whether each pass has an order of its own.
        seed: of these orders.
        batch_size: how many examples make up a batch.

    Attributes:
        epoch_counter: the `keras.callbacks.Callback` that ties views and order to the
            epochs of `fit`.

    Example:

    >>> import keras, numpy as np, tempfile, tensorflow as tf
    >>> from keras_fitnets import Distiller, cache_teacher
    >>> def net(): return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 4)), np.ones(8)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cached = cache_teacher(Distiller(net(), net()), data.batch(4), folder,
    ...                            verbose=0)
    ...     batches = len(cached)
    ...     inputs = cached.map(lambda x, y: x.inputs)
    ...     shapes = [tuple(one.shape) for one in inputs]
    >>> batches, shapes
    (2, [(4, 4), (4, 4)])
    """

    def __init__(
        self,
        table: Table,
        pack: Callable[[dict[str, Any]], Sequence[Any]],
        example_columns: Sequence[str],
        keys: Collection[Key],
        views: int,
        shuffle: bool,
        seed: int,
        batch_size: int,
    ) -> None:
        self.epoch_counter = EpochCounter()
        self._table = table
        self._pack = pack
        self._example_columns = example_columns
        self._keys = keys
        self._views = views
        self._num_examples = table.num_rows // views
        self._shuffle = shuffle
        self._seed = seed
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """A digest of the examples, their order, and the teacher's outputs."""
        order = [self._views, self._shuffle, self._seed, self._batch_size]
        return hashlib.sha256(
            f"{self._table.fingerprint()} {order}".encode()
        ).hexdigest()

    @functools.cached_property
    def element_spec(self) -> Any:
        """The specification of a batch, as of a `tf.data.Dataset`."""
        return self.as_tf_dataset().element_spec

    def cardinality(self) -> tf.Tensor:
        """The number of batches in a pass, as of a `tf.data.Dataset`."""
        return tf.constant(len(self), tf.int64)

    def __len__(self) -> int:
        return -(-self._num_examples // self._batch_size)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.as_tf_dataset())

    def __getattr__(self, name: str) -> Any:
        # Only names that this class lacks come here. Private ones are not looked up,
        # so that copying an instance before it has its attributes does not recurse.
        if name.startswith("_") or not hasattr(tf.data.Dataset, name):
            raise AttributeError(f"A CachedDataset has no attribute {name!r}.")
        return getattr(self.as_tf_dataset(), name)

    def __repr__(self) -> str:
        return (
            f"<CachedDataset of {self._num_examples} examples in {len(self)} batches, "
            f"views={self._views}, shuffle={self._shuffle}>"
        )

    def as_tf_dataset(self, keys: Collection[Key] | None = None) -> tf.data.Dataset:
        """Return a plain `tf.data.Dataset` that reads only some teacher outputs.

        Args:
            keys: the teacher outputs to read, each the fingerprint of its network and
                its name; their masks come with them. None reads all of them, an empty
                list the examples alone.

        Returns:
            A dataset of `(CachedInputs, y, sample_weight)`, as far as the examples
            have labels and weights.
        """
        wanted = self._keys if keys is None else keys
        outputs = [name for name in self._table.columns if is_among(name, wanted)]
        # A pass is made of row numbers. With a full last batch its size is static,
        # as XLA and a TPU want it.
        even = self._num_examples % self._batch_size == 0
        dataset = tf.data.Dataset.range(1).flat_map(self._list_rows)
        dataset = dataset.batch(self._batch_size, drop_remainder=even)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        dataset = dataset.map(lambda rows: self._read_batch(outputs, rows))
        options = tf.data.Options()
        # One map and one prefetch leave nothing to tune; TensorFlow 2.21 may wait half
        # a minute for its tuning at the end of a pass.
        options.autotune.enabled = False
        # There are no input files that tf.data could divide among several workers.
        policy = tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = policy
        return dataset.prefetch(2).with_options(options)

    def _list_rows(self, _: Any) -> tf.data.Dataset:
        """The numbers of the rows of one pass, in its order."""
        # A Python function, so that each pass asks the counter anew.
        rows = tf.numpy_function(self._order_rows, [], "int64")
        rows.set_shape((self._num_examples,))
        return tf.data.Dataset.from_tensor_slices(rows)

    def _order_rows(self) -> np.ndarray:
        number, order = self.epoch_counter.start_pass(), np.arange(self._num_examples)
        if self._shuffle:
            # The order depends on nothing but the seed and the number of the pass.
            order = np.random.default_rng([self._seed, number]).permutation(order)
        return order + number % self._views * self._num_examples

    def _read_batch(self, outputs: Sequence[str], rows: tf.Tensor) -> Any:
        """The examples in these rows, with these columns of teacher outputs."""
        names = [*self._example_columns, *outputs]
        specs = [self._table.columns[name] for name in names]
        arrays = tf.numpy_function(
            lambda rows: [self._table.read_rows(name, rows) for name in names],
            [rows],
            [spec.dtype for spec in specs],
        )
        for array, spec in zip(arrays, specs, strict=True):
            array.set_shape((*rows.shape, *spec.shape))
        columns = dict(zip(names, arrays, strict=True))
        by_network: dict[str, dict[str, Any]] = {}
        for column in outputs:
            fingerprint, name = column.split(" ", 1)
            by_network.setdefault(fingerprint, {})[name] = columns[column]
        inputs, labels, weights = self._pack(columns)
        cached = CachedInputs(inputs, by_network)
        if weights is not None:
            return cached, labels, weights
        return (cached,) if labels is None else (cached, labels)


def is_dataset(data: Any) -> bool:
    """Whether `fit` reads data batch by batch, with a specification known before."""
    return isinstance(data, CachedDataset) or is_tf_dataset(data)


def is_among(column: str, keys: Collection[Key]) -> bool:
    """Return whether a column holds one of these teacher outputs, or its mask."""
    fingerprint, _, name = column.partition(" ")
    if name.startswith("mask "):
        name = name.replace("mask ", "hint ", 1)
    of_network = [what for network, what in keys if network == fingerprint]
    return find_cached(name, of_network) is not None
