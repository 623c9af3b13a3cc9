"""Load a dataset by its name, as a pipeline of images and labels."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.lazy import tf

# Training, validation and test split, in the syntax of tensorflow-datasets.
_SPLITS = {
    "digits": ("train", "validation", "test"),
    "mnist": ("train[:50000]", "train[50000:]", "test"),
    "fashion_mnist": ("train[:50000]", "train[50000:]", "test"),
    "cifar10": ("train[:40000]", "train[40000:]", "test"),
    "cifar100": ("train[:40000]", "train[40000:]", "test"),
    "svhn_cropped": (
        "train[:-4000]+extra[:-2000]",
        "train[-4000:]+extra[-2000:]",
        "test",
    ),
}


def splits(name: str) -> dict[str, str]:
    """Return the training, validation and test split of a dataset, as in the paper.

    Romero et al., "FitNets" (arXiv 1412.6550): 40,000 of CIFAR's training images and
    50,000 of MNIST's are trained on, the others validate; of SVHN 6,000 validate, of
    which 2,000 are extra ones (the paper takes as many of each class).

    Args:
      name: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"cifar10"`, `"cifar100"` or
        `"svhn_cropped"`.

    Returns:
      A dict with `"train"`, `"validation"` and `"test"`, each for `split` of `load`.

    Raises:
      ValueError: the dataset is none of these.

    Example:

    >>> import keras_fitnets as kf
    >>> kf.datasets.splits("cifar10")["validation"]
    'train[40000:]'
    """
    if name not in _SPLITS:
        raise ValueError(
            f"`name` must be one of {sorted(_SPLITS)}. Received: name={name!r}. Any "
            "other dataset of tensorflow-datasets can be divided in the same way: "
            "split='train[:90%]', split='train[90%:]'."
        )
    return dict(zip(("train", "validation", "test"), _SPLITS[name], strict=True))


def load(
    name: str,
    split: str = "train",
    batch_size: int | None = None,
    shuffle: bool | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int | None = None,
    flip: bool = False,
    drop_remainder: bool = False,
    input_context: Any = None,
) -> tf.data.Dataset:
    """Load an image classification dataset through tensorflow-datasets.

    `"digits"` needs no download: its 1,797 images come with scikit-learn and
    are prepared on first use and split into `"train"` (1,097), `"validation"` (350)
    and `"test"` (350). Any other name is a dataset of tensorflow-datasets, which
    must be in `data_dir` already unless `download=True`.

    Args:
      name: the dataset, such as `"digits"`, `"cifar10"` or `"mnist"`.
      split: the part to read, in the syntax of tensorflow-datasets: `"test"`, or
        `"train[:90%]"` for the first nine tenths of the training images.
      batch_size: samples in a batch; None gives single samples.
      shuffle: whether each pass has a new order. None: only in a training
        split, one whose name starts with "train".
      data_dir: the folder that holds the prepared datasets. None: that of
        tensorflow-datasets, which is `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      download: whether data which is missing may be fetched from the network.
      seed: makes the orders of `shuffle`, and `flip`, repeatable. None: they
        follow `keras.utils.set_random_seed`.
      flip: whether each image is mirrored, left to right, in half of the passes.
        For `cache_teacher` flip in its `augment` instead.
      drop_remainder: whether a last, smaller batch is left out, as a TPU asks for.
      input_context: the `tf.distribute.InputContext` of a worker, whose part of
        the samples is read: each is read by one worker.

    Returns:
      A `tf.data.Dataset` of `(image, label)`: float32 images between 0 and 1 of
      shape (height, width, channels), int64 labels of shape (), both with the
      batch in front when there is a `batch_size`.

    Raises:
      ImportError: tensorflow-datasets, or scikit-learn for the digits, is not
        installed.
      TypeError: an argument has the wrong type.
      ValueError: there is no such dataset or split, the dataset is not one of
        8-bit images with a label, `batch_size` is not positive, or there is a
        remainder to drop without it.
      FileNotFoundError: the data is missing, and `download` is False.

    Example:

    >>> import keras_fitnets as kf
    >>> train = kf.datasets.load("digits", split="train", batch_size=128)
    >>> images, labels = next(iter(train))
    >>> images.shape, labels.shape
    (TensorShape([128, 8, 8, 1]), TensorShape([128]))
    """
    _check_arguments(name, split, batch_size, shuffle, flip, drop_remainder)
    builder = _prepare_builder(name, data_dir, download)
    num_samples = _count_samples(builder, split)
    dataset = builder.as_dataset(split=split, as_supervised=True)
    if input_context is not None:
        # Before shuffling: workers shuffle differently, and would then read some
        # samples twice and others not at all.
        dataset = dataset.shard(
            input_context.num_input_pipelines, input_context.input_pipeline_id
        )
    if shuffle or (shuffle is None and split.startswith("train")):
        # A buffer of all samples, or the order would stay close to that of the files.
        dataset = dataset.shuffle(num_samples, seed=seed)
    if flip:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        dataset = tf.data.Dataset.zip((dataset, seeds)).map(_flip, tf.data.AUTOTUNE)
    if batch_size is not None:
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    # Scale whole batches: one operation on many images is cheaper than many on one.
    return dataset.map(_scale, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(image, tf.float32) / 255.0, label


def _flip(pair: Any, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    image, label = pair
    # Each image has a seed of its own, so that the result does not depend on which
    # thread maps it. The stateless operation wants a seed of two numbers.
    seed = tf.stack([number, tf.zeros_like(number)])
    return tf.image.stateless_random_flip_left_right(image, seed), label


def _check_arguments(
    name: Any,
    split: Any,
    batch_size: Any,
    shuffle: Any,
    flip: Any,
    drop_remainder: Any,
) -> None:
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(
                f"`{argument}` must be a string. Received: {argument}={value!r}"
            )
    if batch_size is not None:
        advice = "Pass None for single samples."
        check_integer("batch_size", batch_size, advice=advice)
    if shuffle not in (True, False, None):
        raise TypeError(
            "`shuffle` must be True, False, or None to shuffle training splits. "
            f"Received: shuffle={shuffle!r}"
        )
    for argument, value in (("flip", flip), ("drop_remainder", drop_remainder)):
        if not isinstance(value, bool):
            raise TypeError(
                f"`{argument}` must be True or False. Received: {argument}={value!r}"
            )
    if drop_remainder and batch_size is None:
        raise ValueError("`drop_remainder=True` needs a `batch_size`. Received: None")


def _prepare_builder(name: str, data_dir: Any, download: bool) -> Any:
    builder = _create_builder(name, data_dir)
    if not _is_prepared(builder):
        if name == "digits":
            _prepare_digits(builder)
        elif download:
            builder.download_and_prepare()
        else:
            raise FileNotFoundError(
                f"The dataset {name!r} was not found in {builder.data_dir}. Pass "
                "`download=True` to fetch and prepare it there, or `data_dir`, "
                "the folder of tensorflow-datasets that has it."
            )
        # A builder reads what is on the disk when it is created.
        builder = _create_builder(name, data_dir)
    keys, features = builder.info.supervised_keys, builder.info.features
    if keys != ("image", "label") or features["image"].tf_dtype != tf.uint8:
        raise ValueError(
            "`name` must be a dataset of 8-bit images, each with a label. "
            f"Received: name={name!r}, which has {features}. Read it with "
            "`tensorflow_datasets.load` and map it to (image, label)."
        )
    return builder


def _create_builder(name: str, data_dir: Any) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "`keras_fitnets.datasets` reads its data with tensorflow-datasets, "
            "which is not installed. Install it with "
            "`pip install tensorflow-datasets`."
        ) from error
    if name == "digits":
        from keras_fitnets.datasets.digits import Digits

        return Digits(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            "`name` must be 'digits' or a dataset of tensorflow-datasets; "
            f"`tensorflow_datasets.list_builders()` lists them. "
            f"Received: name={name!r}"
        ) from error


def _prepare_digits(builder: Any) -> None:
    """Prepare the digits without the progress bars, which take longer than the work."""
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            builder.download_and_prepare()
    except OSError:
        # The final renaming fails if another process has prepared the same data
        # meanwhile, which is as good.
        if not _is_prepared(builder):
            raise


def _is_prepared(builder: Any) -> bool:
    # `builder.is_prepared()` looks for this file too, but logs a warning without it.
    return (builder.data_path / "dataset_info.json").exists()


def _count_samples(builder: Any, split: str) -> int:
    try:
        return builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {sorted(builder.info.splits)}, or a part of "
            f"one such as 'train[:90%]'. Received: split={split!r} for the "
            f"dataset {builder.name!r}"
        ) from error
