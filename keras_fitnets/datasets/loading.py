"""From a dataset's name to a pipeline of images and labels."""

import contextlib
import io
import os
from typing import Any

import tensorflow as tf


def load(
    name: str,
    split: str = "train",
    batch_size: int | None = None,
    shuffle: bool | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Reads an image classification dataset through tensorflow-datasets.

    `"digits"` needs no download: its 1,797 images come with scikit-learn and
    are prepared on first use, split into `"train"` (1,097), `"validation"` (350)
    and `"test"` (350). Any other name is a dataset of tensorflow-datasets, which
    must be in `data_dir` already unless `download=True`.

    Args:
      name: the dataset, such as `"digits"`, `"cifar10"` or `"mnist"`.
      split: which part of it, in the words of tensorflow-datasets: `"test"`, or
        `"train[:90%]"` for the first nine tenths of the training images.
      batch_size: samples in a batch; None gives single samples.
      shuffle: whether each pass has a new order. None: only in a training
        split, one whose name starts with "train".
      data_dir: the folder that holds the prepared datasets. None: that of
        tensorflow-datasets, which is `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      download: whether data which is missing may be fetched from the network.
      seed: makes the orders of `shuffle` repeatable. None: they follow
        `keras.utils.set_random_seed`.

    Returns:
      A `tf.data.Dataset` of `(image, label)`: float32 images between 0 and 1 of
      shape (height, width, channels), int64 labels of shape (), both with the
      batch in front when there is a `batch_size`.

    Raises:
      ImportError: tensorflow-datasets, or scikit-learn for the digits, is not
        installed.
      TypeError: an argument has the wrong type.
      ValueError: there is no such dataset or split, the dataset is not one of
        8-bit images with a label, or `batch_size` is not positive.
      FileNotFoundError: the data is missing, and `download` is False.

    Example:

    >>> import keras_fitnets as kf
    >>> train = kf.datasets.load("digits", split="train", batch_size=128)
    >>> images, labels = next(iter(train))
    >>> images.shape, labels.shape
    (TensorShape([128, 8, 8, 1]), TensorShape([128]))
    """
    _check_arguments(name, split, batch_size, shuffle)
    builder = _prepared_builder(name, data_dir, download)
    samples = _count(builder, split)
    dataset = builder.as_dataset(split=split, as_supervised=True)
    if shuffle or (shuffle is None and split.startswith("train")):
        dataset = dataset.shuffle(samples, seed=seed)
    if batch_size is not None:
        dataset = dataset.batch(batch_size)
    return dataset.map(_scale, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(image, tf.float32) / 255.0, label


def _check_arguments(name: Any, split: Any, batch_size: Any, shuffle: Any) -> None:
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(
                f"`{argument}` must be a string. Received: {argument}={value!r}"
            )
    if batch_size is not None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool):
            raise TypeError(
                "`batch_size` must be an integer, or None for single samples. "
                f"Received: batch_size={batch_size!r}"
            )
        if batch_size < 1:
            raise ValueError(
                "`batch_size` must be at least 1, or None for single samples. "
                f"Received: batch_size={batch_size}"
            )
    if shuffle not in (True, False, None):
        raise TypeError(
            "`shuffle` must be True, False, or None to shuffle training splits. "
            f"Received: shuffle={shuffle!r}"
        )


def _prepared_builder(name: str, data_dir: Any, download: bool) -> Any:
    builder = _builder(name, data_dir)
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
        builder = _builder(name, data_dir)
    keys, features = builder.info.supervised_keys, builder.info.features
    if keys != ("image", "label") or features["image"].tf_dtype != tf.uint8:
        raise ValueError(
            "`name` must be a dataset of 8-bit images, each with a label. "
            f"Received: name={name!r}, which has {features}. Read it with "
            "`tensorflow_datasets.load` and map it to (image, label)."
        )
    return builder


def _builder(name: str, data_dir: Any) -> Any:
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
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            builder.download_and_prepare()
    except OSError:
        # Another process may have put the same data in place meanwhile.
        if not _is_prepared(builder):
            raise


def _is_prepared(builder: Any) -> bool:
    # Not `builder.is_prepared()`, which warns when the answer is no.
    return (builder.data_path / "dataset_info.json").exists()


def _count(builder: Any, split: str) -> int:
    try:
        return builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {sorted(builder.info.splits)}, or a part of "
            f"one such as 'train[:90%]'. Received: split={split!r} for the "
            f"dataset {builder.name!r}"
        ) from error
