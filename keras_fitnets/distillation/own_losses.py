"""How a loss of the user's own is called, and what is found out of it in advance."""

from typing import Any

import keras


def call_own_loss(loss: Any, target: Any, prediction: Any, *options: Any) -> Any:
    """Return a value for each sample, `(batch, ...)`.

    Args:
        loss: a `keras.losses.Loss`, or a function.
        target: the teacher's tensor, `(batch, ...)`.
        prediction: the student's.
        *options: what a function takes besides, and a `Loss` does not.
    """
    # A Loss would take the mean over the samples; `call` returns their values.
    if isinstance(loss, keras.losses.Loss):
        return loss.call(target, prediction)
    return loss(target, prediction, *options)


def find_values_shape(
    loss: Any, shapes: tuple[Any, Any], *options: Any
) -> tuple[int | None, ...]:
    """Return the shape of a loss's values, () for anything but a tensor.

    Args:
        loss: as above.
        shapes: those of the teacher's and the student's tensor, with the batch.
        *options: as above.
    """
    tensors = [keras.KerasTensor(shape, "float32") for shape in shapes]
    # Called on symbolic tensors inside a Lambda layer, the loss shows its shape.
    probe = keras.layers.Lambda(
        lambda pair: call_own_loss(loss, pair[0], pair[1], *options)
    )
    return tuple(getattr(probe(tensors), "shape", ()))
