"""A label loss that contradicts the student's outputs is found before it trains."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.outputs import Pairing

_SOFTMAX = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_SIGMOID = ("binary_crossentropy",)


def check_label_loss(
    loss: Any, pairings: Sequence[Pairing | None], student: keras.Model
) -> None:
    """Compare a crossentropy among the label losses with how the outputs are read.

    Raises:
        ValueError: if it takes probabilities where the student returns logits or the
            other way round, or one class of several where its units are independent.
    """
    losses = keras.tree.flatten(loss)
    if len(losses) == 1:
        losses = losses * len(pairings)
    for one, pairing in zip(losses, pairings):
        if pairing is None or one is None:
            continue
        name, from_logits = _described(one)
        read = pairing.student
        if name in (*_SOFTMAX, *_SIGMOID) and from_logits != read.from_logits:
            returns = "logits" if read.from_logits else "probabilities"
            raise ValueError(
                f"Student '{student.name}' returns {returns}, but the label loss "
                f"{one!r} has from_logits={from_logits}. Compile with a loss such as "
                "keras.losses.SparseCategoricalCrossentropy("
                f"from_logits={read.from_logits})."
            )
        meant = {**dict.fromkeys(_SOFTMAX, "softmax"), **dict.fromkeys(_SIGMOID, "sigmoid")}
        if meant.get(name, read.activation) != read.activation:
            raise ValueError(
                f"The label loss {one!r} is for {meant[name]} outputs, but the soft "
                f"targets of student '{student.name}' are read as {read.activation}. "
                f'Pass activation="{meant[name]}" to the Distiller, or change the loss.'
            )


def _described(loss: Any) -> tuple[str, bool]:
    """A loss's snake-case name, and whether it takes logits."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        name = type(loss).__name__
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
        return snake.lstrip("_"), bool(getattr(loss, "from_logits", False))
    return getattr(loss, "__name__", ""), False
