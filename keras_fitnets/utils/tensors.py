"""Small operations on tensors and their masks."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.lazy import tf


def zero_masked(tensor: Any, mask: Any) -> Any:
    """Return the tensor with zeros where the mask is False, and without its mask.

    Args:
        tensor: any tensor.
        mask: None, or booleans for the first dimensions of the tensor.
    """
    if mask is None:
        return tensor
    while len(mask.shape) < len(tensor.shape):
        mask = ops.expand_dims(mask, -1)
    # A product with the mask would keep a NaN or infinity in a masked step, since
    # 0 · NaN is NaN.
    return ops.where(ops.cast(mask, "bool"), tensor, ops.zeros_like(tensor))


def flatten_present(structure: Any) -> list[Any]:
    """Return the leaves of a structure as a list, without those that are None."""
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def combine_masks(*masks: Any) -> Any:
    """Return the mask of what every one of some masks leaves; None is no mask."""
    present = [ops.cast(mask, "bool") for mask in masks if mask is not None]
    if not present:
        return None
    rank = max(len(mask.shape) for mask in present)
    combined: Any = None
    for mask in present:
        while len(mask.shape) < rank:
            mask = ops.expand_dims(mask, -1)
        combined = mask if combined is None else ops.logical_and(combined, mask)
    return combined


def convert_text(structure: Any) -> Any:
    """Return a structure of arrays with tensors for NumPy's arrays of text.

    `fit` of Keras 3.15 knows no dtype of NumPy for text ("Invalid dtype: str32").
    """

    def convert(array: Any) -> Any:
        is_text = isinstance(array, np.ndarray) and is_text_dtype(array.dtype)
        return tf.constant(array) if is_text else array

    return keras.tree.map_structure(convert, structure)


def upcast_to_float32(x: Any) -> Any:
    """Return the tensor in float32, or unchanged if it is in float32 or float64."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype in ("float32", "float64") else ops.cast(x, "float32")


def cast_to_widest_dtype(tensors: list[Any]) -> list[Any]:
    """Cast the tensors to the dtype that holds them all."""
    dtype = find_widest_dtype(*(tensor.dtype for tensor in tensors))
    return [ops.cast(tensor, dtype) for tensor in tensors]


def find_widest_dtype(*dtypes: Any) -> str:
    """Return the dtype that holds the values of all these."""
    # Keras' `result_type` knows no 64 bits on JAX and PyTorch.
    names = [keras.backend.standardize_dtype(dtype) for dtype in dtypes]
    return "float64" if "float64" in names else keras.backend.result_type(*names)


def divide_or_zero(total: Any, count: Any) -> Any:
    """Return the quotient of tensors of one dtype, 0 where the divisor is 0."""
    # Keras' `divide_no_nan` computes in 32 bits on PyTorch.
    is_zero = ops.equal(count, 0)
    quotient = total / ops.where(is_zero, ops.ones_like(count), count)
    return ops.where(is_zero, ops.zeros_like(quotient), quotient)
