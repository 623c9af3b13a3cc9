"""A label loss that contradicts the student's outputs is found before it trains."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.outputs import Pairing

_FOR = {
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
}


def check_label_loss(
    loss: Any, pairings: Sequence[Pairing | None], student: keras.Model
) -> None:
    """Compare the crossentropies among the label losses with how outputs are read.

    Raises:
        ValueError: if one takes probabilities where the student returns logits or the
            other way round, or one class of several where its units are independent.
    """
    losses = keras.tree.flatten(loss)
    if len(losses) == 1:
        losses *= len(pairings)
    if len(losses) != len(pairings) or isinstance(loss, dict) != isinstance(
        student.output if hasattr(student, "output") else None, dict
    ):
        # Keras' own ways to match losses and outputs by name are not told again here.
        return
    for one, pairing in zip(losses, pairings, strict=True):
        name, from_logits = _described(one)
        if pairing is None or name not in _FOR:
            continue
        if from_logits != pairing.student.from_logits:
            returns = "probabilities" if from_logits else "logits"
            raise ValueError(
                f"Student '{student.name}' returns {returns}, but the label loss "
                f"'{name}' has from_logits={from_logits}. Compile with keras.losses."
                f"{name.title().replace('_', '')}(from_logits={not from_logits})."
            )
        if _FOR[name] != pairing.activation:
            raise ValueError(
                f"The label loss '{name}' is for {_FOR[name]} outputs, but the soft "
                f"targets of student '{student.name}' are read as "
                f'{pairing.activation}. Pass activation="{_FOR[name]}" to the '
                "Distiller, or change the loss."
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
