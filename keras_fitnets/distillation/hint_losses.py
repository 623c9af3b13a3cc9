"""Losses of the user's own between a hint and its prediction, in place of Eq. 3."""

import functools
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.own_losses import call_own_loss
from keras_fitnets.distillation.own_losses import find_values_shape
from keras_fitnets.distribution.label_loss import compute_sample_values
from keras_fitnets.utils.keras_private import serialize_loss
from keras_fitnets.utils.tensors import divide_or_zero
from keras_fitnets.utils.tensors import upcast_to_float32
from keras_fitnets.utils.tensors import zero_masked


def check_loss_type(loss: Any) -> None:
    """Raise if the argument `loss` of a `Hint` is nothing that could be a loss.

    Raises:
        TypeError, ValueError: saying what was passed and what is expected.
    """
    is_class = isinstance(loss, type)
    if is_class or not (loss is None or isinstance(loss, str) or callable(loss)):
        raise TypeError(
            "`loss` must be a keras.losses.Loss, the name of one, or a function of the "
            "hint and its prediction that returns a value for each sample; received "
            f"{loss!r}."
            + (f" Pass an instance: {loss.__name__}()." if is_class else "")
        )
    if isinstance(loss, str):
        get_loss(loss)


def get_loss(loss: Any) -> Any:
    """Return the loss that a name stands for; any other loss as it is."""
    if not isinstance(loss, str):
        return loss
    try:
        return keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(
            f"`loss` must be the name of a loss of Keras; received {loss!r}. For "
            'example "mean_absolute_error".'
        ) from error


def is_free(loss: Any) -> bool:
    """Whether a loss may compare tensors of different shapes: it is the user's own.

    Keras' losses would broadcast one of them.
    """
    is_of_keras = isinstance(loss, (str, keras.losses.Loss)) or getattr(
        loss, "__module__", ""
    ).startswith("keras.")
    return loss is not None and not is_of_keras


def format_loss(loss: Any) -> str:
    """Return a loss as text that is the same in every process."""
    if isinstance(loss, keras.losses.Loss):
        config = serialize_loss(loss)["config"]
        return f"{type(loss).__name__}({config})"
    return repr(loss) if isinstance(loss, str) else getattr(loss, "__name__", "loss")


def evaluate_own_loss(loss: Any, hint: Any, prediction: Any, mask: Any) -> Any:
    """Return a value for each sample, `(batch,)`.

    Args:
        loss: the user's own, as `Hint` takes it.
        hint: the hint, `(batch, ...)`.
        prediction: the output of the regressor.
        mask: True for each step that counts, `(batch, steps)`, or None.

    Returns:
        The loss of each sample; where the loss gives several values for a sample, one
        for each step, their mean over those that count.
    """
    prediction = upcast_to_float32(prediction)
    hint = ops.cast(hint, prediction.dtype)
    steps = hint.shape[1] if len(hint.shape) > 1 else None
    # The loss may add up over the steps itself. A step that is zero on both sides adds
    # nothing to a difference.
    values = compute_sample_values(
        get_loss(loss),
        functools.partial(call_own_loss, get_loss(loss)),
        [zero_masked(hint, mask), zero_masked(prediction, mask)],
    )
    axes = tuple(range(1, len(values.shape)))
    if not axes:
        return values
    if mask is None or values.shape[1] != steps:
        return ops.mean(values, axis=axes)
    while len(mask.shape) < len(values.shape):
        mask = ops.expand_dims(mask, -1)
    counts = ops.cast(mask, values.dtype) * ops.ones_like(values)
    total = ops.sum(zero_masked(values, mask), axis=axes)
    return divide_or_zero(total, ops.sum(counts, axis=axes))


def check_own_loss(
    loss: Any,
    hint_shape: tuple[int | None, ...],
    prediction_shape: tuple[int | None, ...],
) -> None:
    """Raise if a loss of the user's own does not give a value for each sample.

    Args:
        loss: as `Hint` takes it, not None.
        hint_shape: the shape of the hint, without the batch.
        prediction_shape: that of its prediction.

    Raises:
        ValueError: if it cannot be called, or averages over the batch.
    """
    # A batch of a size that nothing else has, so that it is recognised.
    known = [d for d in (*hint_shape, *prediction_shape) if d is not None]
    batch = max(known, default=1) + 1
    shapes = (batch, *hint_shape), (batch, *prediction_shape)
    name = format_loss(loss)
    try:
        given = find_values_shape(get_loss(loss), shapes)
    # The function is the user's own and may raise anything.
    except Exception as error:
        raise ValueError(
            f"`loss` {name} of a Hint cannot be called with a hint of shape "
            f"{hint_shape} and a prediction of shape {prediction_shape}: "
            f"{error.__cause__ or error}"
        ) from error
    if not given or given[0] not in (batch, None):
        raise ValueError(
            "`loss` of a Hint must return a value for each sample, (batch,) or "
            f"(batch, ...); for a batch of {batch}, {name} returns the shape {given}. "
            "Do not average over the batch: sample weights, masks and replicas need "
            "the values of the samples."
        )
