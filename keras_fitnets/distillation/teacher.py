"""One or several frozen networks, seen as one."""

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

    Soft targets of an ensemble with weights `w_k` that sum to one, at temperature τ:
    `sum_k w_k softmax(a_k / τ)` (arithmetic) or `softmax(sum_k w_k a_k / τ)`
    (geometric), the two averages that Romero et al., "FitNets" (arXiv 1412.6550)
    allow in place of one teacher's.

    It is no layer and holds no variables of its own, so that the networks stay out of
    the weights, checkpoints and `trainable_variables` of whatever it is attached to.

    Args:
        models: a `keras.Model`, or a list of them with outputs of the same shapes.
        average: `"arithmetic"` or `"geometric"`.
        weights: a positive number for each model; equal by default. They are scaled
            to sum to one.
        from_logits: whether the models return logits rather than probabilities;
            `"auto"` sees it from the activation that they end in.

    Raises:
        TypeError: if `models` is anything but networks.
        ValueError: for an empty list, an unknown average, or weights that do not fit.

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
        """One output's logits for the whole ensemble.

        Args:
            member_logits: for each model its logits, `(batch, ..., classes)`.
            temperature: the τ at which the softened averages are exact.
            activation: `"softmax"` or `"sigmoid"`.

        Returns:
            `a` such that the activation of `a / τ` is the ensemble's soft target.
        """
        if len(member_logits) == 1:
            return member_logits[0]
        if self.average == "geometric":
            return sum(w * a for w, a in zip(self.weights, member_logits, strict=True))
        temperature = ops.cast(temperature, member_logits[0].dtype)
        softened = ops.stack([logits / temperature for logits in member_logits])
        shares = [math.log(weight) for weight in self.weights]
        shares = ops.reshape(
            ops.convert_to_tensor(shares, dtype=softened.dtype),
            [-1] + [1] * (len(softened.shape) - 1),
        )
        if activation == "softmax":
            mean = ops.logsumexp(shares + ops.log_softmax(softened), axis=0)
        else:
            on = ops.logsumexp(shares + ops.log_sigmoid(softened), axis=0)
            off = ops.logsumexp(shares + ops.log_sigmoid(-softened), axis=0)
            mean = on - off
        return mean * temperature

    def fingerprint(self) -> str:
        """A digest of the members, and of how they are averaged."""
        whole = f"{self.average} {self.weights} {self.fingerprints()}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def fingerprints(self) -> list[str]:
        """For each member a digest of its layers, but for their names, and weights."""
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
    if weights is None:
        return (1 / count,) * count
    if not isinstance(weights, (list, tuple)) or len(weights) != count:
        raise ValueError(
            f"`weights` must hold a positive number for each of the {count} teachers; "
            f"received {weights!r}. To leave a teacher out, take it off the list."
        )
    weights = [check_number("weights", weight, "positive") for weight in weights]
    return tuple(weight / sum(weights) for weight in weights)
