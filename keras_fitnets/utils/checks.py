"""Checks of arguments that many functions share."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def check_number(name: str, value: Any, sign: str = "non-negative") -> float:
    """Return `value` as a float, or raise if it is no finite number of that sign.

    Args:
        name: the argument's name, for the message.
        value: what the user passed for it.
        sign: "non-negative", or "positive" to exclude zero as well.

    Raises:
        ValueError: if `value` is not one finite number of that sign.

    Example:

    >>> check_number("temperature", 3, "positive")
    3.0
    """
    try:
        # bool is a subclass of int, and float("3") parses: neither is meant here.
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # The number is used in float32, where smaller ones round to zero and larger ones,
    # once squared or summed, to infinity. NaN fails every comparison.
    is_large_enough = number > 1e-30 or (number == 0 and sign == "non-negative")
    if not (is_large_enough and number < 1e30):
        raise ValueError(
            f"`{name}` must be one finite, {sign} number; received {value!r}. Pass a "
            "Python float, for example 1.0."
        )
    return number


def is_integer(value: Any, minimum: int | None = 1) -> bool:
    """Whether `value` is an integer, Python's or NumPy's, of at least `minimum`.

    With `minimum=None` any integer is one.
    """
    # bool is a subclass of int, but True is never meant as the number 1 here.
    is_integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integral and (minimum is None or value >= minimum)


def check_integer(name: str, value: Any, minimum: int = 1, advice: str = "") -> int:
    """Return `value` as an int, or raise if it is no integer of at least `minimum`.

    Args:
        name: the argument's name, for the message.
        value: what the user passed for it.
        minimum: the smallest integer allowed.
        advice: a sentence that ends the message: what to pass instead.

    Raises:
        ValueError: if `value` is not such an integer. True and 2.0 are none.

    Example:

    >>> check_integer("batch_size", 0)
    Traceback (most recent call last):
        ...
    ValueError: `batch_size` must be an integer of at least 1; received 0.
    """
    if not is_integer(value, minimum):
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}; received {value!r}."
            + (f" {advice}" if advice else "")
        )
    return int(value)


def is_text_dtype(dtype: Any) -> bool:
    """Whether a dtype, of NumPy, TensorFlow or Keras, or its name, is one of text."""
    name = getattr(dtype, "name", str(dtype))
    return name.startswith(("str", "bytes", "object"))


def check_whole_numbers(owner: str, argument: str, array: Any, dtype: Any) -> None:
    """Raise for numbers that an integer dtype would change.

    Keras casts inputs to the dtype of a network without a word, so that pixels between
    0 and 1 become zeros where a network takes integers.

    Args:
        owner: what takes the numbers, for the message.
        argument: what the array was passed as.
        array: an array of any kind.
        dtype: what it is going to be cast to, or its name.

    Raises:
        ValueError: for fractions, and numbers out of the dtype's range.

    Example:

    >>> import numpy as np
    >>> check_whole_numbers("Network 'a'", "`x`", np.array([0.0, 3.0]), "uint8")
    >>> check_whole_numbers("Network 'a'", "`x`", np.array([0.5]), "uint8")
    Traceback (most recent call last):
        ...
    ValueError: Network 'a' takes whole numbers (uint8); received `x` with the ...
    """
    name = "string" if is_text_dtype(dtype) else keras.backend.standardize_dtype(dtype)
    given = getattr(array.dtype, "name", str(array.dtype))
    if not keras.backend.is_int_dtype(name) or is_text_dtype(given):
        return
    is_float = "float" in given
    if not is_float and (given == "bool" or np.can_cast(given, name)):
        return
    numbers = np.asarray(array)
    is_whole = numbers == np.floor(numbers) if is_float else True
    limits = np.iinfo(name)
    is_inside = (numbers >= limits.min) & (numbers <= limits.max)
    is_kept = np.ravel(is_whole & is_inside)
    if not is_kept.all():
        wrong = numbers.reshape(-1)[np.argmin(is_kept)]
        raise ValueError(
            f"{owner} takes whole numbers ({name}); received {argument} with the "
            f"number {wrong}, which would be changed to one. Scale and round it, as "
            f'`(255 * x).round().astype("{name}")` does for pixels between 0 and 1, or '
            "build the network for floats: where networks differ, with a Rescaling "
            "layer in front."
        )


def check_choice(
    name: str, value: Any, choices: Sequence[str | None], advice: str = ""
) -> Any:
    """Return `value`, or raise if it is not one of `choices`.

    Args:
        name: the argument's name, for the message.
        value: what the user passed for it.
        choices: what is allowed: strings, and perhaps None.
        advice: a sentence that ends the message: what to pass instead.

    Raises:
        ValueError: if `value` is none of `choices`.

    Example:

    >>> check_choice("stage", "kd", ("hint", "kd", "joint"))
    'kd'
    """
    # An array compares element by element: only a string or None is looked up.
    if not isinstance(value, (str, type(None))) or value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}; received {value!r}."
            + (f" {advice}" if advice else "")
        )
    return value


def list_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return callbacks, in any form that `fit` accepts, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
