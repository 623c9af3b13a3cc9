"""Hint pairs: which of the teacher's layers teaches which of the student's."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import check_number


@keras.saving.register_keras_serializable(package="keras_fitnets")
@dataclasses.dataclass(frozen=True, repr=False)
class Hint:
    """One pair of layers: the student's guided layer learns the teacher's hint.

    Args:
        hint_layer: the name of the teacher's layer, or its path into nested models,
            such as `"backbone/block3_out"`.
        guided_layer: the same for the student.
        weight: the factor of this pair's loss among several pairs, positive.
        regressor: `"auto"`, `"conv"` or `"dense"`, or a layer of your own that maps
            the guided output to the hint's shape.
        member: which network of an ensemble gives the hint, counted from 0.

    Raises:
        ValueError: for a weight that is not positive, an empty path, an unknown
            regressor, or a negative member.
        TypeError: if a path is no string.

    Example:

    >>> Hint("conv2", "conv6", weight=0.5)
    Hint('conv2', 'conv6', weight=0.5)
    """

    hint_layer: str
    guided_layer: str
    weight: float = 1.0
    regressor: Any = "auto"
    member: int = 0

    def __post_init__(self) -> None:
        for argument in ("hint_layer", "guided_layer"):
            path = getattr(self, argument)
            if not isinstance(path, str):
                raise TypeError(
                    f"`{argument}` must be the name of a layer, or its path in nested "
                    f"models; received {path!r}. Pass `layer.name`."
                )
            if not all(path.split("/")):
                raise ValueError(
                    f"`{argument}` must name a layer, with single slashes between "
                    f"nested models; received {path!r}."
                )
        check_number("weight", self.weight, "positive")
        word = isinstance(self.regressor, str)
        known = word and self.regressor in ("auto", "conv", "dense")
        if not known and not isinstance(self.regressor, keras.layers.Layer):
            raise ValueError(
                '`regressor` must be "auto", "conv", "dense" or a Keras layer; '
                f"received {self.regressor!r}."
            )
        position = "It is a network's position in the ensemble, counted from 0."
        check_integer("member", self.member, minimum=0, advice=position)

    def __repr__(self) -> str:
        said = f"Hint({self.hint_layer!r}, {self.guided_layer!r}"
        for argument, default in {
            "weight": 1.0,
            "regressor": "auto",
            "member": 0,
        }.items():
            value = getattr(self, argument)
            said += "" if value == default else f", {argument}={value!r}"
        return said + ")"

    def get_config(self) -> dict[str, Any]:
        regressor = self.regressor
        if not isinstance(regressor, str):
            regressor = keras.saving.serialize_keras_object(regressor)
        return {
            "hint_layer": self.hint_layer,
            "guided_layer": self.guided_layer,
            "weight": self.weight,
            "regressor": regressor,
            "member": self.member,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Hint":
        regressor = config["regressor"]
        if not isinstance(regressor, str):
            regressor = keras.saving.deserialize_keras_object(regressor)
        return cls(**{**config, "regressor": regressor})


def parse_hints(
    hints: Any, members: Sequence[keras.Model], student: keras.Model
) -> tuple[Hint, ...]:
    """The `hints` argument of a Distiller as a tuple of `Hint`.

    Raises:
        ValueError, TypeError: if it is none of the forms that a Distiller takes, or
            an empty list, or asks for the same pair twice.
    """
    if hints is None:
        return ()
    if isinstance(hints, str) and hints == "middle":
        return (
            Hint(graph.find_middle_layer(members[0]), graph.find_middle_layer(student)),
        )
    if isinstance(hints, Hint) or _is_pair(hints):
        hints = [hints]
    if isinstance(hints, str) or not isinstance(hints, Sequence):
        raise TypeError(
            '`hints` must be a pair ("hint_layer", "guided_layer"), a Hint, a list of '
            f'these, "middle", or None; received {hints!r}.'
        )
    pairs = []
    for hint in hints:
        if not isinstance(hint, Hint) and not _is_pair(hint):
            raise TypeError(
                'Each of `hints` must be a pair ("hint_layer", "guided_layer") or a '
                f"keras_fitnets.Hint; received {hint!r} among {hints!r}."
            )
        pairs.append(hint if isinstance(hint, Hint) else Hint(*hint))
    keys = [(hint.member, hint.hint_layer, hint.guided_layer) for hint in pairs]
    if not pairs or len(set(keys)) < len(keys):
        raise ValueError(
            "`hints` must hold at least one pair, and none twice; received "
            f"{hints!r}. For distillation without hints pass None."
        )
    return tuple(pairs)


def check_member(hint: Hint, members: Sequence[keras.Model]) -> None:
    """Refuse a hint of a network that the teacher has not."""
    if hint.member >= len(members):
        raise ValueError(
            f"{hint} asks for member {hint.member} of a teacher that has "
            f"{len(members)}; members are counted from 0."
        )


def _is_pair(value: Any) -> bool:
    is_sequence = isinstance(value, (list, tuple)) and len(value) == 2
    return is_sequence and all(isinstance(part, str) for part in value)
