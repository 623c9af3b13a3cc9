"""What can be read, assigned and saved of a Distiller, and what a traced step sees."""

from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number

STAGES = ("hint", "kd", "joint")


class Settings(keras.Model):
    """The numbers and the stage of a Distiller, each checked when it is assigned.

    Numbers that the step multiplies by are variables: a Python float would be baked
    into the traced step. What changes the step itself makes Keras trace it again.
    """

    def _start(
        self,
        temperature: float,
        lambda_: float,
        hint_weight: float,
        stage: str | None,
        learning_rate_factor: float,
    ) -> None:
        self._active_hints = tuple(range(len(self.hints)))
        self._temperature = self._scalar("temperature")
        self._lambda = self._scalar("lambda")
        self._hint_weight = self._scalar("hint_weight")
        self.temperature = temperature
        self.lambda_ = lambda_
        self.hint_weight = hint_weight
        self.stage = ("joint" if self.hints else "kd") if stage is None else stage
        self.learning_rate_factor = learning_rate_factor
        # What a resumed run must share with the interrupted one.
        self.initial = {
            "temperature": self.temperature,
            "lambda_": self.lambda_,
            "hint_weight": self.hint_weight,
        }

    @property
    def teacher(self) -> Teacher:
        """The `Teacher`; its networks are `teacher.models`."""
        return self._teacher

    @property
    def hints(self) -> tuple[Hint, ...]:
        """The pairs of layers."""
        return self._hints

    @property
    def activation(self) -> Any:
        """The argument of the same name, as are those that follow."""
        return self._activation

    @property
    def from_logits(self) -> bool | str:
        return self._from_logits

    @property
    def temperature_squared(self) -> bool:
        return self._temperature_squared

    @property
    def temperature(self) -> float:
        """τ, the relaxation of the soft targets."""
        return _read(self._temperature)

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature.assign(check_number("temperature", value, "positive"))

    @property
    def lambda_(self) -> float:
        """λ, the weight of the soft targets."""
        return _read(self._lambda)

    @lambda_.setter
    def lambda_(self, value: float) -> None:
        self._lambda.assign(check_number("lambda_", value))

    @property
    def hint_weight(self) -> float:
        """The weight of the hint loss in stage "joint"."""
        return _read(self._hint_weight)

    @hint_weight.setter
    def hint_weight(self, value: float) -> None:
        self._hint_weight.assign(check_number("hint_weight", value))

    @property
    def stage(self) -> str:
        """What is trained: "hint", "kd" or "joint"."""
        return self._stage

    @stage.setter
    def stage(self, value: str) -> None:
        check_choice("stage", value, STAGES)
        if value != "kd" and not self.hints:
            raise ValueError(
                f'Stage "{value}" needs hints, and this Distiller has none. Pass '
                'hints=("hint_layer", "guided_layer"), or use stage="kd".'
            )
        self._stage = value
        self._forget_steps()

    @property
    def active_hints(self) -> tuple[int, ...]:
        """The positions of the pairs that stage "hint" trains; all by default."""
        return self._active_hints

    @active_hints.setter
    def active_hints(self, value: Any) -> None:
        value = tuple(value) if isinstance(value, (list, tuple, range)) else value
        if (
            not isinstance(value, tuple)
            or not value
            or any(i not in range(len(self.hints)) for i in value)
        ):
            raise ValueError(
                f"`active_hints` must hold positions among the {len(self.hints)} "
                f"pairs of hints, counted from 0; received {value!r}. For example (0,)."
            )
        self._active_hints = value
        self._forget_steps()

    @property
    def check_numerics(self) -> bool:
        """Whether steps look for NaN and infinity; `CheckNumerics` switches it."""
        return self._finite_guard.is_on

    @check_numerics.setter
    def check_numerics(self, value: bool) -> None:
        self._finite_guard.reset()
        if value != self._finite_guard.is_on:
            self._finite_guard.is_on = value
            self._forget_steps()

    @property
    def first_not_finite(self) -> tuple[int, list[str]] | None:
        """The first step with NaN or infinity that was looked at, and the places."""
        return self._finite_guard.first_failure()

    @property
    def learning_rate_factor(self) -> float:
        """The factor on the steps of the layers that stage 1 trains."""
        return self._learning_rate_factor

    @learning_rate_factor.setter
    def learning_rate_factor(self, value: float) -> None:
        value = check_number("learning_rate_factor", value)
        if value != 1 and not self.hints:
            raise ValueError(
                "`learning_rate_factor` slows the layers up to the guided ones, and "
                f"this Distiller has no hints; received {value}. Leave it at 1."
            )
        self._learning_rate_factor = value
        self._forget_steps()

    def save_assets(self, dir_path: str) -> None:
        for i, member in enumerate(self.teacher.models):
            member.save_weights(Path(dir_path) / f"teacher_{i}.weights.h5")

    def load_assets(self, dir_path: str) -> None:
        for i, member in enumerate(self.teacher.models):
            member.load_weights(Path(dir_path) / f"teacher_{i}.weights.h5")

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "teacher": serialize(self.teacher),
            "student": serialize(self.student),
            "hints": [serialize(hint) for hint in self.hints] or None,
            "temperature": self.temperature,
            "lambda_": self.lambda_,
            "stage": self.stage,
            "hint_weight": self.hint_weight,
            "activation": self.activation,
            "from_logits": self.from_logits,
            "temperature_squared": self.temperature_squared,
            "learning_rate_factor": self.learning_rate_factor,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Settings":
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["teacher"] = deserialize(config["teacher"])
        config["student"] = deserialize(config["student"])
        config["hints"] = config["hints"] and [deserialize(h) for h in config["hints"]]
        return cls(**config)

    def _scalar(self, name: str) -> Any:
        return self.add_weight(
            shape=(), name=name, dtype=self._float(), trainable=False, autocast=False
        )

    def _float(self) -> str:
        """The precision of what is kept beside the networks."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _forget_steps(self) -> None:
        """Have the steps traced anew; a `fit` under way goes on with the new ones."""
        if self.train_function is not None:
            self.make_train_function(force=True)
        if self.test_function is not None:
            self.make_test_function(force=True)


def _read(variable: Any) -> float:
    # The shortest decimal that is this number: what was assigned, as a rule.
    return float(str(ops.convert_to_numpy(variable)))
