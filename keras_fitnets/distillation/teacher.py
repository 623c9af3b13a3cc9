"""`Teacher`: one or several frozen networks that give one set of soft targets."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.fingerprint import fingerprint
from keras_fitnets.distillation.output_specs import check_from_logits
from keras_fitnets.utils.checks import check_number


@keras.saving.register_keras_serializable(package="keras_fitnets")
class Teacher:
    """One trained network, or an ensemble, that is run and never changed.

    A `Distiller` takes a single network, or a list of them, as it is. Use a `Teacher`
    to average an ensemble geometrically or with weights, or to state what the networks
    return.

    The soft targets of an ensemble with weights `w_k` that sum to one are, at
    temperature τ, `sum_k w_k softmax(a_k / τ)` (arithmetic) or
    `softmax(sum_k w_k a_k / τ)` (geometric): the two averages that Romero et al.,
    "FitNets" (arXiv 1412.6550) allow in place of one teacher's.

    A `Teacher` is not a layer and has no variables of its own, so that its networks
    stay out of the weights, checkpoints and `trainable_variables` of the Distiller.

    Args:
        models: a `keras.Model`, or a list of them with inputs and outputs of the same
            shapes.
        average: `"arithmetic"` (of probabilities) or `"geometric"` (of logits).
        weights: a positive number for each model; equal by default. They are scaled
            to sum to one.
        from_logits: whether the models return logits rather than probabilities;
            `"auto"` reads it from the activation of their last layers.

    Raises:
        TypeError: if `models` holds anything but networks.
        ValueError: if the list is empty, the average is unknown, or the weights are
            not one positive number for each model.

    Example:

    >>> import keras
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> Teacher([net, net], average="geometric", weights=[3, 1]).weights
    (0.75, 0.25)
    """

    def __init__(
        self,
        models: Any,
        average: str = "arithmetic",
        weights: Sequence[float] | None = None,
        from_logits: bool | str = "auto",
    ) -> None:
        if isinstance(models, keras.Model):
            models = [models]
        if not isinstance(models, (list, tuple)):
            raise TypeError(
                "A teacher must be a keras.Model, a list of them, or a "
                f"keras_fitnets.Teacher; received {models!r}."
            )
        if not models:
            raise ValueError(
                "The list of teachers is empty; a student needs at least one trained "
                "keras.Model to learn from."
            )
        for i, model in enumerate(models):
            if not isinstance(model, keras.Model):
                raise TypeError(
                    "Every teacher must be a keras.Model; the one at position "
                    f"{i} is {model!r}. Load a saved one with keras.saving.load_model."
                )
        if not isinstance(average, str) or average not in ("arithmetic", "geometric"):
            raise ValueError(
                '`average` must be "arithmetic" (of probabilities) or "geometric" (of '
                f"logits); received {average!r}."
            )
        self.models = tuple(models)
        self.average = average
        self.weights = _normalize_weights(weights, len(self.models))
        self.from_logits = check_from_logits(from_logits)

    def soft_logits(
        self, member_logits: Sequence[Any], temperature: Any, activation: str
    ) -> Any:
        """Return one output's logits for the whole ensemble.

        Args:
            member_logits: for each model its logits, `(batch, ..., classes)`.
            temperature: the τ at which the networks' outputs are softened, a number or
                a scalar tensor.
            activation: `"softmax"`, `"sigmoid"` or `"linear"`.

        Returns:
            `a` such that the activation of `a / τ` is the ensemble's soft target.
        """
        if len(member_logits) == 1:
            return member_logits[0]
        # Numbers of a regression have one mean; there are no probabilities to average.
        if self.average == "geometric" or activation == "linear":
            return sum(w * a for w, a in zip(self.weights, member_logits, strict=True))
        # The arithmetic mean in logarithms, where no probability can underflow:
        # log sum_k w_k p_k = logsumexp_k(log w_k + log p_k).
        temperature = ops.cast(temperature, member_logits[0].dtype)
        softened = ops.stack([logits / temperature for logits in member_logits])
        log_weights = [math.log(weight) for weight in self.weights]
        log_weights = ops.reshape(
            ops.convert_to_tensor(log_weights, dtype=softened.dtype),
            [-1] + [1] * (len(softened.shape) - 1),
        )
        if activation == "softmax":
            # log p is a logit: softmax(log p) = p.
            mean = ops.logsumexp(log_weights + ops.log_softmax(softened), axis=0)
        else:
            # The logit of a sigmoid is log p - log(1 - p), and log(1 - sigmoid(a)) is
            # log_sigmoid(-a), which keeps its precision where p is close to 1.
            on = ops.logsumexp(log_weights + ops.log_sigmoid(softened), axis=0)
            off = ops.logsumexp(log_weights + ops.log_sigmoid(-softened), axis=0)
            mean = on - off
        # The caller divides by the temperature again.
        return mean * temperature

    @property
    def variables(self) -> list[Any]:
        """The variables of all networks, each of them once."""
        # The members of an ensemble may share layers.
        return list({id(v): v for m in self.models for v in m.variables}.values())

    def fingerprint(self) -> str:
        """Return a digest of the networks and of how they are averaged."""
        text = f"{self.average} {self.weights} {self.fingerprints()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def fingerprints(self) -> list[str]:
        """Return for each network a digest of its layers and weights."""
        return [fingerprint(model) for model in self.models]

    def get_config(self) -> dict[str, Any]:
        return {
            "models": [keras.saving.serialize_keras_object(m) for m in self.models],
            "average": self.average,
            "weights": list(self.weights),
            "from_logits": self.from_logits,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Teacher":
        models = [keras.saving.deserialize_keras_object(m) for m in config["models"]]
        return cls(**{**config, "models": models})


def _normalize_weights(
    weights: Sequence[float] | None, count: int
) -> tuple[float, ...]:
    """Return the weights of the networks, scaled to sum to one."""
    if weights is None:
        return (1 / count,) * count
    if not isinstance(weights, (list, tuple)) or len(weights) != count:
        raise ValueError(
            f"`weights` must hold a positive number for each of the {count} teachers; "
            f"received {weights!r}. To leave a teacher out, take it off the list."
        )
    weights = [check_number("weights", weight, "positive") for weight in weights]
    return tuple(weight / sum(weights) for weight in weights)
