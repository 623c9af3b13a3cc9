"""The soft term of one output: what the student is to have in common with the teacher.

Classes are compared by their cross-entropy at temperature τ (Eq. 2), the numbers of a
regression by their squared difference, and either by a loss of the user's own.
"""

from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.label_losses import describe_loss
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.own_losses import call_own_loss
from keras_fitnets.distillation.own_losses import find_values_shape
from keras_fitnets.distribution.label_loss import compute_sample_values
from keras_fitnets.losses import soft_target_crossentropy
from keras_fitnets.utils.runtime_checks import check_same_shape

# Losses between probabilities: given logits they would return numbers all the same.
_OF_PROBABILITIES = (
    keras.losses.KLDivergence,
    keras.losses.Poisson,
)


def soft_loss(
    teacher: Any,
    student: Any,
    temperature: Any,
    output_pair: OutputPair,
    temperature_squared: bool,
    own: Any = None,
) -> Any:
    """Return the soft term of one output for each sample, `(batch, ...)`.

    Args:
        teacher: the teacher's logits, `(batch, ..., units)`.
        student: the student's, in the same shape.
        temperature: τ, a scalar tensor.
        output_pair: how the output is compared.
        temperature_squared: whether to multiply the cross-entropy by τ².
        own: the user's own loss, or None.
    """
    teacher = check_same_shape(teacher, student, output_pair.description)
    if own is not None:
        return compute_sample_values(
            own,
            lambda teacher, student: call_own_loss(own, teacher, student, temperature),
            [ops.cast(teacher, student.dtype), student],
        )
    if output_pair.activation == "linear":
        return keras.losses.mean_squared_error(
            ops.cast(teacher, student.dtype), student
        )
    return soft_target_crossentropy(
        teacher,
        student,
        temperature,
        output_pair.activation,
        temperature_squared=temperature_squared,
    )


def check_soft_loss(own: Any, output_pair: OutputPair, shape: Any) -> None:
    """Check that a loss of the user's own gives a value for each sample.

    Args:
        own: a `keras.losses.Loss`, or a function of the teacher's logits, the student's
            logits and τ.
        output_pair: how the output is compared.
        shape: the shape of the output, with the batch.

    Raises:
        TypeError: if it is neither.
        ValueError: if it takes probabilities, fails, or gives anything but a value for
            each sample.
    """
    is_loss = isinstance(own, keras.losses.Loss)
    if not is_loss and not callable(own):
        raise TypeError(
            "`soft_loss` must be a keras.losses.Loss, or a function of the teacher's "
            "logits, the student's logits and the temperature that returns a value for "
            f"each sample; received {own!r}."
        )
    spec = describe_loss(own, shape[-1])
    is_own_kind = spec.name == "soft_target_crossentropy"
    if isinstance(own, _OF_PROBABILITIES) or (
        is_loss and spec.is_crossentropy and not is_own_kind
    ):
        raise ValueError(
            f"`soft_loss` is given the logits of teacher and student, and {own!r} "
            "takes the teacher's probabilities. Leave `soft_loss` out for the "
            "cross-entropy of the soft targets, whose gradient is that of the "
            "Kullback-Leibler divergence; or pass a function of (teacher, student, "
            "temperature) that takes the softmax itself."
        )
    name = getattr(own, "__name__", type(own).__name__)
    try:
        given = find_values_shape(own, (shape, shape), ops.ones(()))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"`soft_loss` {name} cannot be called with the teacher's logits, the "
            f"student's logits, both of shape {tuple(shape)}, and the temperature: "
            f"{error.__cause__ or error}"
        ) from error
    if not given or len(given) > len(shape) or given[0] != shape[0]:
        raise ValueError(
            f"`soft_loss` must return a value for each sample, (batch,) or (batch, "
            f"...); {name} returns the shape {given} for {output_pair.description}, "
            f"of shape {tuple(shape)}. Do not average over the batch: sample weights, "
            "masks and replicas need the values of the samples."
        )
