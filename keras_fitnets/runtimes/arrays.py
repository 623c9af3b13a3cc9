"""Data at hand: inputs and labels as arrays, some of them, and those by name."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.inspection import graph

# The name of an input, its shape with None where it is free, and its dtype.
Input = tuple[str, tuple[int | None, ...], str]


def to_arrays(data: Any) -> tuple[Any, Any]:
    """Inputs and labels as arrays; None for labels that there are none of.

    Args:
        data: `x`, `(x,)`, `(x, y)`, or a `tf.data.Dataset` of batches of either.

    Raises:
        ValueError: if there are no samples, unequally many, or no end to them; for
            more than inputs and labels, or labels that are no one array.
    """
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The dataset repeats without end. Take some batches of it: "
                "`dataset.take(10)`."
            )
        batches = list(data.as_numpy_iterator())
        if not batches:
            raise ValueError("The dataset holds no batch; nothing can be judged by it.")
        return to_arrays(keras.tree.map_structure(_concatenate, *batches))
    if isinstance(data, tuple) and len(data) not in (1, 2):
        raise ValueError(
            f"Data must be `x` or `(x, y)`; received a tuple of {len(data)}. Leave "
            "sample weights out; several inputs are a list or a dictionary."
        )
    x, y = (*data, None)[:2] if isinstance(data, tuple) else (data, None)
    x = keras.tree.map_structure(np.asarray, x)
    y = None if y is None else _labels(y)
    shapes = [array.shape for array in keras.tree.flatten(x)]
    counts = {shape[:1] for shape in [*shapes, *([] if y is None else [y.shape])]}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            "Data must be `x` or `(x, y)`, of as many samples each, at least one; "
            f"received inputs of the shapes {sorted(set(shapes))} and labels of the "
            f"shape {None if y is None else y.shape}. Each input is one array."
        )
    return x, y


def num_samples(x: Any) -> int:
    """How many samples there are."""
    return len(keras.tree.flatten(x)[0])


def take(x: Any, which: Any) -> Any:
    """Some of the samples: a slice, or their positions."""
    return keras.tree.map_structure(lambda array: array[which], x)


def describe_inputs(network: keras.Model) -> list[Input]:
    """Those that a network shows."""
    tensors = keras.tree.flatten(graph.get_inputs(network))
    return [
        (t.name, tuple(t.shape), keras.backend.standardize_dtype(t.dtype))
        for t in tensors
        if t is not None
    ]


def by_input_name(x: Any, network: keras.Model | None) -> Any:
    """Inputs by the names, and in the dtypes, that they have in the network."""
    inputs = [] if network is None else describe_inputs(network)
    arrays = keras.tree.flatten(x)
    if isinstance(x, dict) and x.keys() == {name for name, _, _ in inputs}:
        # Such a dictionary is for a list of inputs as well, in whatever order.
        arrays = [x[name] for name, _, _ in inputs]
    if network is not None and not inputs and not isinstance(x, dict):
        return dict(zip(names_of(x), arrays, strict=True))
    if len(inputs) != len(arrays):
        return x
    return {
        name: np.asarray(array, dtype)
        for (name, _, dtype), array in zip(inputs, arrays, strict=True)
    }


def names_of(x: Any) -> list[str]:
    """Names for inputs that a network does not show: the keys, or numbers."""
    arrays = keras.tree.flatten(x)
    if isinstance(x, dict) and len(x) == len(arrays):
        return sorted(x)
    return [f"input_{number}" for number in range(len(arrays))]


def check(what: str, inputs: list[Input], x: Any) -> None:
    """That there is an array for each input, of the shape that it has."""
    names = [name for name, _, _ in inputs]
    if not isinstance(x, dict) or x.keys() != set(names):
        arrays = f"{len(keras.tree.flatten(x))} array(s)"
        received = list(x) if isinstance(x, dict) else arrays
        raise ValueError(
            f"{what} takes the inputs {names}; received {received}. Pass a dictionary "
            "with an array for each."
        )
    for name, (_, *shape), _ in inputs:
        received = x[name].shape[1:]
        if not graph.has_same_shapes([tuple(shape)], [received]):
            raise ValueError(
                f"{what} takes samples of the shape {tuple(shape)} as its input "
                f"'{name}'; received {received}. Reshape the data."
            )


def _labels(y: Any) -> np.ndarray:
    try:
        return np.asarray(y)
    except ValueError as error:
        raise ValueError(f"Labels must be one array: {error}") from error


def _concatenate(*parts: Any) -> np.ndarray:
    shapes = sorted({np.shape(part)[1:] for part in parts})
    if np.ndim(parts[0]) == 0 or len(shapes) > 1:
        raise ValueError(
            "The dataset must hold batches, of samples of one shape; received "
            f"{shapes if len(shapes) > 1 else 'single samples'}. Batch it, "
            "`dataset.batch(128)`, and pad or crop all samples alike."
        )
    return np.concatenate(parts)
