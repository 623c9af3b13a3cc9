"""Checks of arguments that many functions share."""

import math
from typing import Any

import keras


def check_number(name: str, value: Any, sign: str = "non-negative") -> float:
    """The value as a float, if it is a finite number of that sign."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # Bounds that float32, in which it is used, can hold.
    enough = number > 1e-30 or (number == 0 and sign == "non-negative")
    if not (enough and number < 1e30):
        raise ValueError(
            f"`{name}` must be one finite, {sign} number; received {value!r}. Pass a "
            "Python float, for example 1.0."
        )
    return number


def list_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Callbacks in whatever way `fit` takes them, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
