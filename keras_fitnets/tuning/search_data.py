"""The data of a search, in any form that `fit` takes: as a dataset, and as a digest."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.lazy import tf

# Inputs or a dataset, labels and sample weights; None for what there is not.
Data = Sequence[Any]


def to_arrays(structure: Any) -> Any:
    """Return a structure of arrays with tuples for its lists, as tf.data wants them.

    tf.data takes a list for a tensor, and Keras for several of them. A list of numbers
    is an array for both.
    """
    if _is_plain(structure):
        return np.asarray(structure)
    if isinstance(structure, (list, tuple)):
        return tuple(to_arrays(part) for part in structure)
    if isinstance(structure, dict):
        return {name: to_arrays(part) for name, part in structure.items()}
    return structure


def _is_plain(value: Any) -> bool:
    """Whether a value is a list, or a list of lists, of numbers or words."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(part, (bool, int, float, str, bytes)) or _is_plain(part)
        for part in value
    )


def to_tf_dataset(data: Data, batch_size: int) -> tf.data.Dataset:
    """Return data of any form that `fit` takes as batches, the same in every pass.

    Args:
        data: as above.
        batch_size: of arrays.

    Raises:
        ValueError: for a `keras.utils.PyDataset` without end.
    """
    if is_tf_dataset(data[0]):
        return data[0]
    if isinstance(data[0], keras.utils.PyDataset):
        return _from_py_dataset(data[0])
    parts = tuple(to_arrays(part) for part in data)
    while parts[-1] is None:
        parts = parts[:-1]
    leaves = tf.nest.flatten(parts)
    present = tuple(leaf for leaf in leaves if leaf is not None)
    dataset = tf.data.Dataset.from_tensor_slices(present).batch(batch_size)

    def pack(*tensors: Any) -> Any:
        # tf.data cannot slice a None, such as labels that are missing.
        rest = iter(tensors)
        filled = [None if leaf is None else next(rest) for leaf in leaves]
        return tf.nest.pack_sequence_as(parts, filled)

    return dataset.map(pack)


def _from_py_dataset(dataset: keras.utils.PyDataset) -> tf.data.Dataset:
    """Return the batches of a `keras.utils.PyDataset` in their order."""
    if dataset.num_batches is None:
        raise ValueError(
            "A PyDataset without end has no last example to cache. Give it a `__len__`."
        )

    def read(index: int) -> Any:
        # In one shape for all batches: inputs, and what else there is.
        parts = unpack_batch("a batch of the PyDataset", dataset[index])
        return tuple(to_arrays(part) for part in parts if part is not None)

    def specify(array: Any) -> tf.TensorSpec:
        array = np.asarray(array)
        # Sizes may differ; the cache says so where they must not.
        dtype = tf.string if array.dtype.kind in "OSU" else array.dtype
        return tf.TensorSpec((None,) * array.ndim, dtype)

    count = dataset.num_batches
    batches = tf.data.Dataset.from_generator(
        lambda: map(read, range(count)),
        output_signature=tf.nest.map_structure(specify, read(0)),
    )
    return batches.apply(tf.data.experimental.assert_cardinality(count))


def digest_data(data: Data) -> str:
    """Return a digest of all examples, in the order of one pass.

    Of data without end, or that can be read only once, it is another one each time.
    """
    batches = _iterate_batches(data)
    if batches is None:
        return uuid.uuid4().hex
    digest = hashlib.sha256()
    for batch in batches:
        for leaf in tf.nest.flatten(to_arrays(batch), expand_composites=True):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype} {array.shape}".encode())
            # The bytes of objects, such as strings, would be their addresses.
            is_object = array.dtype == object
            digest.update(
                repr(array.tolist()).encode() if is_object else array.tobytes()
            )
    return digest.hexdigest()[:16]


def _iterate_batches(data: Data) -> Iterable[Any] | None:
    """Return the batches of data, arrays being one; None if they cannot be counted."""
    source = data[0]
    if is_tf_dataset(source):
        is_endless = source.cardinality() == tf.data.INFINITE_CARDINALITY
        return None if is_endless else source
    if isinstance(source, keras.utils.PyDataset):
        count = source.num_batches
        return None if count is None else map(source.__getitem__, range(count))
    return None if isinstance(source, Iterator) else [tuple(data)]
