"""Data at hand: inputs and labels as arrays, and some of them."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def gathered(data: Any) -> tuple[Any, Any]:
    """Inputs and labels as arrays; None for labels that there are none of.

    Args:
        data: `x`, `(x,)`, `(x, y)`, or a `tf.data.Dataset` of batches of either.

    Raises:
        ValueError: if there are no samples, unequally many, or no end to them.
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
        return gathered(keras.tree.map_structure(_joined, *batches))
    pair = isinstance(data, tuple) and len(data) in (1, 2)
    x, y = (*data, None)[:2] if pair else (data, None)
    x = keras.tree.map_structure(np.asarray, x)
    y = None if y is None else np.asarray(y)
    shapes = [array.shape for array in keras.tree.flatten(x)]
    counts = {shape[:1] for shape in [*shapes, *([] if y is None else [y.shape])]}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            "Data must be `x` or `(x, y)`, of as many samples each, at least one; "
            f"received inputs of the shapes {shapes} and labels of the shape "
            f"{None if y is None else y.shape}."
        )
    return x, y


def count(x: Any) -> int:
    """How many samples there are."""
    return len(keras.tree.flatten(x)[0])


def taken(x: Any, which: Any) -> Any:
    """Some of the samples: a slice, or their positions."""
    return keras.tree.map_structure(lambda array: array[which], x)


def _joined(*parts: Any) -> np.ndarray:
    return np.concatenate(parts)
