"""Small operations on tensors and their masks."""

from typing import Any

import keras
from keras import ops


def zero_masked(tensor: Any, mask: Any) -> Any:
    """The tensor, without its mask, with zeros where the mask leaves steps out."""
    if mask is None:
        return tensor
    while len(mask.shape) < len(tensor.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.where(ops.cast(mask, "bool"), tensor, ops.zeros_like(tensor))


def upcast_to_float32(x: Any) -> Any:
    """The tensor, in float32 if it was in less."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype in ("float32", "float64") else ops.cast(x, "float32")
