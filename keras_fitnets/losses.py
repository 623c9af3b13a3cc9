"""The two losses of FitNets, as pure functions and as `keras.losses.Loss`."""

from typing import Any

import keras
from keras import ops

from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.tensors import get_mask
from keras_fitnets.utils.tensors import upcast_to_float32
from keras_fitnets.utils.tensors import zero_masked

ACTIVATIONS = ("softmax", "sigmoid")


def soft_target_crossentropy(
    y_true: Any,
    y_pred: Any,
    temperature: Any = 1.0,
    activation: str = "softmax",
    from_logits: bool = True,
    temperature_squared: bool = False,
) -> Any:
    """Cross-entropy between the softened outputs of a teacher and a student.

    `H(P_T, P_S) = -sum_k P_T[k] log P_S[k]` with `P = softmax(a / temperature)`,
    the second term of Eq. 2 in Romero et al., "FitNets" (arXiv 1412.6550). With
    `activation="sigmoid"` it is the mean over the units of their binary
    cross-entropies. The gradient is exact however confident the student is, and
    everything is computed in float32 at least.

    Args:
        y_true: the teacher's outputs, `(batch, ..., classes)`.
        y_pred: the student's outputs, of the same shape.
        temperature: the relaxation, a positive number or a scalar variable.
        activation: `"softmax"`, or `"sigmoid"` for independent units.
        from_logits: whether both outputs are logits; otherwise both are
            probabilities.
        temperature_squared: multiply by `temperature ** 2`, as Hinton et al.
            (arXiv 1503.02531) do; FitNets does not.

    Returns:
        The loss of each sample, `(batch, ...)`.

    Raises:
        ValueError: for shapes that differ, an unknown activation, or a
            temperature that is not a positive number.

    Example:

    >>> teacher, student = [[2.0, 0.0]], [[0.0, 0.0]]
    >>> round(float(soft_target_crossentropy(teacher, student, 3.0)[0]), 4)
    0.6931
    """
    check_activation(activation)
    check_temperature(temperature)
    y_true, y_pred = _match_precision(y_true, y_pred)
    if not from_logits:
        y_true = to_logits(y_true, activation)
        y_pred = to_logits(y_pred, activation)
    temperature = ops.cast(temperature, y_pred.dtype)
    teacher, student = y_true / temperature, y_pred / temperature
    if activation == "softmax":
        loss = -ops.sum(ops.softmax(teacher) * ops.log_softmax(student), axis=-1)
    else:
        # A difference of two large numbers would lose what a confident unit has left.
        on = ops.sigmoid(teacher) * ops.softplus(-student)
        off = ops.sigmoid(-teacher) * ops.softplus(student)
        loss = ops.mean(on + off, axis=-1)
    return loss * temperature**2 if temperature_squared else loss


def hint_loss(y_true: Any, y_pred: Any, mask: Any = None) -> Any:
    """Half the squared distance between a hint and the regressed guided output.

    `½ ‖u_h(x) - r(v_g(x))‖²`, a sum over every feature: Eq. 3 in Romero et al.,
    "FitNets" (arXiv 1412.6550). Computed in float32 at least.

    Args:
        y_true: the hint, `(batch, ...)`.
        y_pred: the regressor's output, of the same shape.
        mask: which steps count, `(batch, steps)`; all by default.

    Returns:
        The loss of each sample, `(batch,)`.

    Raises:
        ValueError: for shapes that differ.

    Example:

    >>> float(hint_loss([[1.0, 2.0]], [[0.0, 0.0]])[0])
    2.5
    """
    y_true, y_pred = _match_precision(y_true, y_pred)
    axes = tuple(range(1, len(y_pred.shape)))
    return 0.5 * ops.sum(zero_masked(ops.square(y_true - y_pred), mask), axis=axes)


@keras.saving.register_keras_serializable(package="keras_fitnets")
class SoftTargetCrossentropy(keras.losses.Loss):
    """`soft_target_crossentropy` as a loss that `compile` takes.

    Args:
        temperature: the relaxation, a positive number or a scalar variable.
        activation: `"softmax"`, or `"sigmoid"` for independent units.
        from_logits: whether both outputs are logits rather than probabilities.
        temperature_squared: multiply by `temperature ** 2`.
        reduction: as in `keras.losses.Loss`.
        name: the loss's name.
        dtype: the dtype of the computation; Keras' float type by default.

    Raises:
        ValueError: as `soft_target_crossentropy` does.

    Example:

    >>> loss = SoftTargetCrossentropy(temperature=3.0)
    >>> round(float(loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)
    0.6931
    """

    def __init__(
        self,
        temperature: Any = 1.0,
        activation: str = "softmax",
        from_logits: bool = True,
        temperature_squared: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "soft_target_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = check_temperature(temperature)
        self.activation = check_activation(activation)
        self.from_logits = from_logits
        self.temperature_squared = temperature_squared

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return soft_target_crossentropy(
            y_true,
            y_pred,
            temperature=self.temperature,
            activation=self.activation,
            from_logits=self.from_logits,
            temperature_squared=self.temperature_squared,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": float(ops.convert_to_numpy(self.temperature)),
            "activation": self.activation,
            "from_logits": self.from_logits,
            "temperature_squared": self.temperature_squared,
        }


@keras.saving.register_keras_serializable(package="keras_fitnets")
class HintLoss(keras.losses.Loss):
    """`hint_loss` as a loss that `compile` takes: Eq. 3, a mean over the batch.

    Steps that the mask of `y_pred` leaves out do not count.

    Args:
        reduction: as in `keras.losses.Loss`.
        name: the loss's name.
        dtype: the dtype of the computation; Keras' float type by default.

    Raises:
        ValueError: for shapes that differ.

    Example:

    >>> float(HintLoss()([[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]))
    1.25
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "hint_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # Keras would apply the mask to the sums over the steps.
        mask = get_mask(y_pred)
        y_true, y_pred = zero_masked(y_true, mask), zero_masked(y_pred, mask)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return hint_loss(y_true, y_pred)


def to_logits(outputs: Any, activation: str) -> Any:
    """Logits whose softmax or sigmoid is `outputs`.

    They are exact where Keras still holds them on the tensor that its activation
    returned; elsewhere `log p` (softmax) or `log p - log(1 - p)` (sigmoid), as far
    as the precision of the probabilities goes.
    """
    kept = getattr(outputs, "_keras_logits", None)
    if kept is not None:
        return upcast_to_float32(kept)
    outputs = upcast_to_float32(outputs)
    double = keras.backend.standardize_dtype(outputs.dtype) == "float64"
    tiny, half_ulp = (1e-307, 1e-16) if double else (1e-37, 6e-8)
    if activation == "softmax":
        return ops.log(ops.maximum(outputs, tiny))
    return ops.log(ops.maximum(outputs, tiny)) - ops.log1p(
        -ops.minimum(outputs, 1 - half_ulp)
    )


def check_temperature(temperature: Any) -> Any:
    """The temperature, if it is a variable or a positive number."""
    if isinstance(temperature, keras.Variable) or ops.is_tensor(temperature):
        return temperature
    return check_number("temperature", temperature, "positive")


def check_activation(activation: str) -> str:
    """The activation, if it is one that soft targets can come from."""
    meaning = (
        'Use "softmax" for one class out of several, "sigmoid" for independent units.'
    )
    return check_choice("activation", activation, ACTIVATIONS, meaning)


def _match_precision(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    y_true, y_pred = upcast_to_float32(y_true), upcast_to_float32(y_pred)
    if len(y_true.shape) != len(y_pred.shape) or any(
        None not in pair and pair[0] != pair[1]
        for pair in zip(y_true.shape, y_pred.shape, strict=True)
    ):
        raise ValueError(
            "The teacher's and the student's tensors must have the same shape; "
            f"received {tuple(y_true.shape)} (teacher) and {tuple(y_pred.shape)} "
            "(student). Nothing is broadcast: make the two layers match, or put a "
            "`keras_fitnets.HintRegressor` between them."
        )
    return ops.cast(y_true, y_pred.dtype), y_pred
