"""The two losses of FitNets, as pure functions and as `keras.losses.Loss`.

`soft_target_crossentropy` is the term of Eq. 2 that λ multiplies, `hint_loss` is Eq. 3.
A `Distiller` uses the functions; the classes are for other Keras models.
"""

from typing import Any

import keras
from keras import ops

from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.keras_private import get_logits
from keras_fitnets.utils.keras_private import get_mask
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

    Use it in a training step of your own; a `Distiller` applies it by itself.

    `H(P_T, P_S) = -sum_k P_T[k] log P_S[k]` with `P = softmax(a / temperature)`,
    the second term of Eq. 2 in Romero et al., "FitNets" (arXiv 1412.6550). With
    `activation="sigmoid"` it is the mean over the units of their binary
    cross-entropies. The gradient is exact however confident the student is. A class
    that both networks rule out by a logit of minus infinity adds 0. Half precision is
    computed in float32.

    Args:
        y_true: the teacher's outputs, `(batch, ..., classes)`.
        y_pred: the student's outputs, of the same shape.
        temperature: τ, a positive number, or a scalar variable or tensor.
        activation: `"softmax"` for one class out of several, or `"sigmoid"` for
            independent units.
        from_logits: whether both outputs are logits; otherwise both are
            probabilities.
        temperature_squared: multiply by `temperature ** 2`, as Hinton et al.
            (arXiv 1503.02531) do; FitNets does not.

    Returns:
        The loss of each sample, `(batch, ...)`.

    Raises:
        ValueError: if the shapes differ, the activation is unknown, or the
            temperature is not a positive number.

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
        # log_softmax(a) = a - logsumexp(a) stays finite where softmax(a) rounds to 0
        # and its logarithm would be minus infinity.
        loss = -ops.sum(_weigh(ops.softmax(teacher), ops.log_softmax(student)), axis=-1)
    else:
        # -p log q - (1 - p) log(1 - q), with -log sigmoid(a) = softplus(-a) and
        # 1 - sigmoid(a) = sigmoid(-a). Neither loses digits where a unit is confident;
        # the usual form, softplus(a) - p · a, is a difference of two large numbers.
        on = _weigh(ops.sigmoid(teacher), ops.softplus(-student))
        off = _weigh(ops.sigmoid(-teacher), ops.softplus(student))
        loss = ops.mean(on + off, axis=-1)
    return loss * temperature**2 if temperature_squared else loss


def hint_loss(y_true: Any, y_pred: Any, mask: Any = None) -> Any:
    """Half the squared distance between a hint and the regressed guided output.

    Use it in a training step of your own; a `Distiller` applies it by itself.

    `½ ‖u_h(x) - r(v_g(x))‖²`, a sum over all features: Eq. 3 in Romero et al.,
    "FitNets" (arXiv 1412.6550). Half precision is computed in float32.

    Args:
        y_true: the hint, `(batch, ...)`.
        y_pred: the regressor's output, of the same shape.
        mask: True for each step that counts, `(batch, steps)`; all by default.

    Returns:
        The loss of each sample, `(batch,)`.

    Raises:
        ValueError: if the shapes differ.

    Example:

    >>> float(hint_loss([[1.0, 2.0]], [[0.0, 0.0]])[0])
    2.5
    """
    y_true, y_pred = _match_precision(y_true, y_pred)
    axes = tuple(range(1, len(y_pred.shape)))
    return 0.5 * ops.sum(zero_masked(ops.square(y_true - y_pred), mask), axis=axes)


@keras.saving.register_keras_serializable(package="keras_fitnets")
class SoftTargetCrossentropy(keras.losses.Loss):
    """`soft_target_crossentropy` as a loss for `compile`.

    Use it to train any Keras model on a teacher's outputs that are passed as labels.
    The cross-entropy is the second term of Eq. 2 in Romero et al., "FitNets" (arXiv
    1412.6550), averaged over the samples.

    Args:
        temperature: τ, a positive number or a scalar variable.
        activation: `"softmax"` for one class out of several, or `"sigmoid"` for
            independent units.
        from_logits: whether both outputs are logits rather than probabilities.
        temperature_squared: multiply by `temperature ** 2`.
        reduction: as in `keras.losses.Loss`.
        name: the loss's name.
        dtype: the dtype of the computation; Keras' float type by default.

    Raises:
        ValueError: if the activation is unknown or the temperature not positive; when
            it is called, if the shapes differ.

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
    """`hint_loss` as a loss for `compile`: Eq. 3, averaged over the batch.

    Use it to train a Keras model on hints that are passed as labels. It is
    `½ ‖y_true - y_pred‖²`, Eq. 3 in Romero et al., "FitNets" (arXiv 1412.6550). Steps
    that the mask of `y_pred` leaves out do not count.

    Args:
        reduction: as in `keras.losses.Loss`.
        name: the loss's name.
        dtype: the dtype of the computation; Keras' float type by default.

    Raises:
        ValueError: when it is called, if the shapes differ.

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
        # Keras applies the mask of `y_pred` to what `call` returns. That has no steps
        # any more, so masked steps are zeroed before, and the mask is dropped.
        mask = get_mask(y_pred)
        y_true, y_pred = zero_masked(y_true, mask), zero_masked(y_pred, mask)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return hint_loss(y_true, y_pred)


def to_logits(outputs: Any, activation: str) -> Any:
    """Return logits whose softmax or sigmoid is `outputs`.

    Logits are defined up to a constant for softmax, where `log p` is one choice; for
    sigmoid they are `log p - log(1 - p)`. Both are as exact as the probabilities.

    Args:
        outputs: probabilities, `(batch, ..., classes)`.
        activation: `"softmax"` or `"sigmoid"`.
    """
    # Keras attaches the logits to the tensor that its softmax or sigmoid returns. They
    # are exact also where a probability was rounded to 0 or 1.
    kept = get_logits(outputs)
    if kept is not None:
        return upcast_to_float32(kept)
    outputs = upcast_to_float32(outputs)
    # Probabilities are clipped, since those of 0 and 1 have infinite logits, and with
    # them the loss and its gradient would be NaN. The lower bound is just above the
    # smallest normal number of the dtype, below which many devices round to 0. The
    # upper one is the largest number below 1, half a unit in the last place away.
    is_double = keras.backend.standardize_dtype(outputs.dtype) == "float64"
    tiny, half_ulp = (1e-307, 1e-16) if is_double else (1e-37, 6e-8)
    log_p = ops.log(ops.maximum(outputs, tiny))
    if activation == "softmax":
        return log_p
    # log1p(-p) is log(1 - p) without rounding 1 - p first where p is small.
    return log_p - ops.log1p(-ops.minimum(outputs, 1 - half_ulp))


def check_temperature(temperature: Any) -> Any:
    """Return the temperature; raise if it is neither a tensor nor a positive number."""
    # The value of a variable may change, and that of a traced tensor is unknown.
    if isinstance(temperature, keras.Variable) or ops.is_tensor(temperature):
        return temperature
    return check_number("temperature", temperature, "positive")


def check_activation(activation: str) -> str:
    """Return the activation; raise if soft targets cannot be made with it."""
    meaning = (
        'Use "softmax" for one class out of several, "sigmoid" for independent units.'
    )
    return check_choice("activation", activation, ACTIVATIONS, meaning)


def _weigh(probability: Any, log_probability: Any) -> Any:
    """Return the product, 0 where the probability is 0.

    A class that both networks rule out, by a logit of minus infinity, has 0 · ∞ here,
    which is NaN, while p log q tends to 0 with p. The logarithm is replaced before the
    product, because the gradient of a product that is replaced afterwards is NaN too.
    """
    is_possible = probability > 0
    return probability * ops.where(is_possible, log_probability, 0.0)


def _match_precision(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Return both tensors in the student's dtype, but float32 at least.

    Raises:
        ValueError: if their shapes differ.
    """
    y_true, y_pred = upcast_to_float32(y_true), upcast_to_float32(y_pred)
    # An unknown dimension, which is None, may be any.
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
