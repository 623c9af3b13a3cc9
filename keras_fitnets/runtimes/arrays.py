"""Data in memory: inputs and labels as arrays, and inputs by name."""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_whole_numbers
from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.lazy import tf


class InputInfo(NamedTuple):
    """What a model expects as one of its inputs.

    Attributes:
        name: the input's name.
        shape: its shape with the batch axis in front, None where a size is free.
        dtype: the name of its dtype.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def to_arrays(data: Any) -> tuple[Any, Any]:
    """Split data into inputs and labels, both as NumPy arrays.

    Args:
        data: `x`, `(x,)`, `(x, y)`, or a `tf.data.Dataset` of batches of either. `x` is
            an array `(samples, ...)` or a list or dictionary of arrays, `y` one array
            `(samples, ...)`.

    Returns:
        `(x, y)`, where `y` is None if there are no labels.

    Raises:
        ValueError: if there are no samples, if `x` and `y` differ in their number, if
            the dataset is endless, if the tuple is longer than `(x, y)`, or if the
            labels are more than one array.
    """
    if is_tf_dataset(data):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The dataset repeats without end. Take some batches of it: "
                "`dataset.take(10)`."
            )
        batches = list(data.as_numpy_iterator())
        if not batches:
            raise ValueError(
                "The dataset is empty; at least one batch is needed. Check the split "
                "and the filters that it was made with."
            )
        return to_arrays(keras.tree.map_structure(_concatenate, *batches))
    if isinstance(data, tuple) and len(data) not in (1, 2):
        raise ValueError(
            f"Data must be `x` or `(x, y)`; received a tuple of {len(data)}. Leave "
            "sample weights out; several inputs are a list or a dictionary."
        )
    # Only a tuple separates labels from inputs: a list is a structure of inputs, as it
    # is for `keras.Model.fit`.
    x = data[0] if isinstance(data, tuple) else data
    y = data[1] if isinstance(data, tuple) and len(data) == 2 else None
    x = keras.tree.map_structure(np.asarray, x)
    y = None if y is None else _to_label_array(y)
    shapes = [array.shape for array in keras.tree.flatten(x)]
    sample_counts = {shape[:1] for shape in shapes}
    if y is not None:
        sample_counts.add(y.shape[:1])
    # `()` stands for a scalar, which has no axis of samples, and `(0,)` for no sample.
    if len(sample_counts) != 1 or sample_counts & {(), (0,)}:
        raise ValueError(
            "Data must be `x` or `(x, y)`, with the same number of samples in each, at "
            f"least one; received inputs of the shapes {sorted(set(shapes))} and "
            f"labels of the shape {None if y is None else y.shape}. Pass each input "
            "as one array with the samples first."
        )
    return x, y


def num_samples(x: Any) -> int:
    """Return the number of samples in a structure of arrays."""
    return len(keras.tree.flatten(x)[0])


def take(x: Any, indices: Any) -> Any:
    """Select samples from every array of a structure, by a slice or by positions."""
    return keras.tree.map_structure(lambda array: array[indices], x)


def describe_inputs(network: keras.Model) -> list[InputInfo]:
    """List the inputs of a Keras network; empty if it does not declare any."""
    tensors = keras.tree.flatten(graph.get_inputs(network))
    # A subclassed network without a known input shape flattens to a single None.
    return [
        InputInfo(
            tensor.name,
            tuple(tensor.shape),
            keras.backend.standardize_dtype(tensor.dtype),
        )
        for tensor in tensors
        if tensor is not None
    ]


def by_input_name(x: Any, network: keras.Model | None) -> Any:
    """Return inputs as a dictionary by the input names of a network, in its dtypes.

    Args:
        x: arrays `(samples, ...)`, in any structure that the network takes.
        network: the network; without one, or where the numbers of arrays and inputs
            differ, `x` is returned as it is.
    """
    inputs = [] if network is None else describe_inputs(network)
    arrays = keras.tree.flatten(x)
    # Keras also accepts a dictionary by name for a network built from a list of inputs.
    # Flattening would sort such a dictionary by key, so restore the network's order.
    if isinstance(x, dict) and x.keys() == {info.name for info in inputs}:
        arrays = [x[info.name] for info in inputs]
    if network is not None and not inputs and not isinstance(x, dict):
        return dict(zip(name_inputs(x), arrays, strict=True))
    if network is None or len(inputs) != len(arrays):
        return x
    return {
        info.name: cast_input(f"Network '{network.name}'", info, array)
        for info, array in zip(inputs, arrays, strict=True)
    }


def cast_input(owner: str, info: InputInfo, array: Any) -> np.ndarray:
    """Return an array in the dtype of an input.

    Args:
        owner: what takes the input, for the message.
        info: what it expects.
        array: numbers or text.

    Raises:
        ValueError: if the dtype would change the numbers.
    """
    if is_text_dtype(info.dtype):
        # NumPy has no dtype for text of any length, and runtimes read objects.
        return np.asarray(array, object)
    check_whole_numbers(owner, f"input '{info.name}'", array, info.dtype)
    # The runtimes are written in C++ and read dense memory of exactly one dtype.
    return np.ascontiguousarray(array, info.dtype)


def name_inputs(x: Any) -> list[str]:
    """Choose names for inputs that a network does not name: the keys, or numbers."""
    arrays = keras.tree.flatten(x)
    if isinstance(x, dict) and len(x) == len(arrays):
        return sorted(x)
    return [f"input_{number}" for number in range(len(arrays))]


def check_inputs(owner: str, inputs: list[InputInfo], x: Any) -> None:
    """Check that `x` has an array of the right shape for each input.

    Args:
        owner: what takes the inputs, for the message.
        inputs: what it expects.
        x: a dictionary from names to arrays `(samples, ...)`.

    Raises:
        ValueError: if a name is missing or unknown, or a shape does not fit.
    """
    names = [info.name for info in inputs]
    if not isinstance(x, dict) or x.keys() != set(names):
        array_count = f"{len(keras.tree.flatten(x))} array(s)"
        received = list(x) if isinstance(x, dict) else array_count
        raise ValueError(
            f"{owner} takes the inputs {names}; received {received}. Pass a dictionary "
            "with an array for each."
        )
    for info in inputs:
        expected, received = info.shape[1:], x[info.name].shape[1:]
        if not graph.has_same_shapes([expected], [received]):
            raise ValueError(
                f"{owner} takes samples of the shape {expected} as its input "
                f"'{info.name}'; received {received}. Reshape the data."
            )


def _to_label_array(y: Any) -> np.ndarray:
    try:
        return np.asarray(y)
    except ValueError as error:
        raise ValueError(
            f"Labels must be one array: {error}. Pass the labels of one output, as "
            "class numbers, one-hot vectors, or 0 and 1 for each unit."
        ) from error


def _concatenate(*batches: Any) -> np.ndarray:
    """Join the batches of one component of a dataset along the axis of samples."""
    shapes = sorted({np.shape(batch)[1:] for batch in batches})
    if np.ndim(batches[0]) == 0 or len(shapes) > 1:
        raise ValueError(
            "The dataset must consist of batches, of samples of one shape; received "
            f"{shapes if len(shapes) > 1 else 'single samples'}. Batch it, "
            "`dataset.batch(128)`, and pad or crop all samples to one shape."
        )
    return np.concatenate(batches)
