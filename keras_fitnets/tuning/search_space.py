"""What a search tries: ranges of numbers, and candidates for the hint."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.distillation.hints import check_member
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_number

NO_HINT = "none"


def parse_numbers(argument: str, given: Any, sign: str = "positive") -> Any:
    """Parse a range `(low, high)`, a list of values, or one value, into floats.

    Raises:
        ValueError: if it is none of these, or holds other numbers.
    """
    # A tuple is a range and a list is a choice, as KerasTuner's own arguments have it.
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    values = [check_number(argument, value, sign) for value in values]
    if isinstance(given, tuple):
        if len(values) != 2 or values[0] >= values[1]:
            raise ValueError(
                f"`{argument}` as a range must be (low, high), with low below high; "
                f"received {given!r}. A list is a choice between its values."
            )
        return values[0], values[1]
    if isinstance(given, list):
        if len(set(values)) < max(1, len(values)):
            raise ValueError(
                f"`{argument}` as a list must hold the values to choose from, each "
                f"once; received {given!r}."
            )
        return values
    return values[0]


def declare_hyperparameter(hp: Any, name: str, space: Any) -> None:
    """Register numbers, or a list of words, as a hyperparameter."""
    if isinstance(space, list) and len(space) > 1:
        hp.Choice(name, space)
    elif isinstance(space, tuple):
        low, high = space
        # Ratios of these numbers matter rather than differences, so sample their
        # logarithms. Zero has none.
        hp.Float(name, low, high, sampling="log" if low > 0 else "linear")
    else:
        hp.Fixed(name, space[0] if isinstance(space, list) else space)


def parse_candidates(hints: Any, members: Sequence[keras.Model]) -> dict[str, Any]:
    """Parse the candidates for a Distiller's `hints` into a dictionary by name.

    Raises:
        ValueError, TypeError: for what a Distiller does not take, a layer that the
            teacher has not, no candidate, or one that is there twice.
    """
    given = hints if isinstance(hints, list) else [hints]
    named: dict[str, Any] = {}
    for candidate in given:
        name = _name_candidate(candidate, members)
        if candidate in named.values():
            raise ValueError(
                f"`hints` must hold each candidate once; received {candidate!r} twice."
            )
        # Two candidates of the same layers may differ in weight or regressor: name the
        # second one in full.
        named[repr(candidate) if name in named else name] = candidate
    if not named:
        raise ValueError(
            "`hints` must hold at least one candidate; received an empty list. For "
            "distillation without hints pass None."
        )
    return named


def _name_candidate(candidate: Any, members: Sequence[keras.Model]) -> str:
    if candidate is None:
        return NO_HINT
    if isinstance(candidate, str) and candidate == "middle":
        return candidate
    # There is no student yet. The teacher stands in for it, which is only looked at
    # for "middle", and that has returned above.
    pairs = parse_hints(candidate, members, members[0])
    for hint in pairs:
        check_member(hint, members)
        graph.find_layer(members[hint.member], hint.hint_layer)
    return " + ".join(f"{hint.hint_layer} -> {hint.guided_layer}" for hint in pairs)
