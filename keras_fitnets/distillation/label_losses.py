"""What a label loss tells about the outputs that it is for.

Keras' crossentropies are for classes, and its regression losses for numbers. Where a
network ends in neither softmax nor sigmoid, its loss is all that says which of the two
its outputs are.
"""

from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras

# What the outputs mean to each of Keras' losses, by the name of its function.
_ACTIVATIONS = {
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
    "cosine_similarity": "linear",
    "huber": "linear",
    "log_cosh": "linear",
    "mean_absolute_error": "linear",
    "mean_absolute_percentage_error": "linear",
    "mean_squared_error": "linear",
    "mean_squared_logarithmic_error": "linear",
    "soft_target_crossentropy": "softmax",
}


class LossSpec(NamedTuple):
    """What is known of a loss.

    Attributes:
        name: the name of Keras' function for it, in snake case; its own otherwise.
        activation: "softmax", "sigmoid" or "linear": what the outputs mean to it; None
            if it is none of Keras' losses that tell.
        from_logits: whether it takes logits.
    """

    name: str
    activation: str | None
    from_logits: bool

    @property
    def is_crossentropy(self) -> bool:
        return self.activation in ("softmax", "sigmoid")


def describe_loss(loss: Any, units: int | None) -> LossSpec:
    """Describe a loss as `compile` takes it: a name, a function or an object.

    Args:
        loss: the loss of one output.
        units: the last dimension of the output.
    """
    # Keras chooses one of its crossentropies for these words when it sees the labels.
    if loss in ("crossentropy", "ce"):
        is_single = units == 1
        loss = "binary_crossentropy" if is_single else "categorical_crossentropy"
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    from_logits = bool(getattr(loss, "from_logits", False))
    names = list(_get_names(loss))
    known = next((name for name in names if name in _ACTIVATIONS), None)
    if known is None:
        return LossSpec(names[0] if names else repr(loss), None, from_logits)
    activation = _ACTIVATIONS[known]
    # Our own soft-target loss says by its argument what it is for.
    if known == "soft_target_crossentropy":
        activation = getattr(loss, "activation", activation)
    return LossSpec(known, activation, from_logits)


def _get_names(loss: Any) -> Iterator[str]:
    """Yield the names of a loss in snake case, its own before those of its parents."""
    if isinstance(loss, keras.losses.Loss):
        # A class of the user's own that extends one of Keras' means the same by its
        # outputs.
        for base in type(loss).__mro__:
            name = base.__name__
            snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
            yield snake.lstrip("_")
    elif loss is not None:
        yield getattr(loss, "__name__", type(loss).__name__)
