"""How good outputs are: accuracy, agreement and calibration, on arrays."""

from typing import Any
from typing import NamedTuple

import numpy as np

# Probabilities of an integer network are off by up to half of one of its 256 steps.
_STEP = 1 / 256


class Judged(NamedTuple):
    """Outputs as decisions.

    Attributes:
        choices: what was chosen: classes (n,), or for each unit whether it is on
            (n, units).
        confidence: the probability that was given to each choice.
        units: the number of the network's units.
    """

    choices: np.ndarray
    confidence: np.ndarray
    units: int


def judged(outputs: Any, activation: str, from_logits: bool) -> Judged:
    """Outputs (…, units) of one network as decisions.

    Args:
        outputs: logits or probabilities; all axes but the last count as samples.
        activation: `"softmax"` or `"sigmoid"`.
        from_logits: whether they are logits.
    """
    units = np.shape(outputs)[-1]
    values = np.asarray(outputs, "float64").reshape(-1, units)
    if activation == "sigmoid":
        odds = values if from_logits else values - 0.5
        on = odds > 0
        if from_logits:
            return Judged(on, 1 / (1 + np.exp(-np.abs(values))), units)
        return Judged(on, np.where(on, values, 1 - values), units)
    choices = values.argmax(-1)
    if from_logits:
        values = np.exp(values - values.max(-1, keepdims=True))
    total = values.sum(-1)
    return Judged(choices, values.max(-1) / np.where(total > 0, total, 1), units)


def look_like_probabilities(outputs: np.ndarray, activation: str) -> bool:
    """Whether values are all between 0 and 1 and, for a softmax, add up to 1."""
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if activation == "sigmoid":
        return inside
    most = max(0.05, outputs.shape[-1] * _STEP / 2)
    return inside and bool(np.all(np.abs(outputs.sum(-1) - 1) <= most))


def as_choices(labels: Any, judged: Judged) -> np.ndarray:
    """Labels in the form of the choices that they are to be compared with.

    Args:
        labels: classes, one-hot vectors, or zeros and ones for each unit.
        judged: the decisions.

    Raises:
        ValueError: if their shape or values do not fit.
    """
    given, (choices, _, units) = np.asarray(labels), judged
    if given.dtype.kind not in "biuf":
        raise ValueError(
            f"Labels must be numbers; received an array of dtype {given.dtype}. Number "
            "the classes from 0."
        )
    one_hot = choices.ndim == 1 and given.size == units * choices.size > choices.size
    flat = given.reshape(-1, units).argmax(-1) if one_hot else given
    if flat.size != choices.size:
        raise ValueError(
            f"Labels of shape {given.shape} do not fit {len(choices)} outputs of "
            f"{units} unit(s). Pass a class for each, a one-hot vector, or 0 or 1 for "
            "each unit."
        )
    flat = flat.reshape(choices.shape)
    most = 1 if choices.ndim == 2 else units - 1
    if not np.all((flat >= 0) & (flat <= most)):
        raise ValueError(
            f"Labels must lie between 0 and {most}, for outputs of {units} unit(s); "
            f"received {flat.min()} to {flat.max()}."
        )
    if choices.ndim == 2:
        return flat > 0.5
    if np.any(flat != np.floor(flat)):
        raise ValueError("Classes must be whole numbers; received fractions.")
    return flat


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """The expected calibration error, `Σ_b n_b / n |accuracy_b - confidence_b|`.

    Of Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), over
    bins of equal width.

    Args:
        confidence: the probability of each choice, in any shape.
        correct: whether it was right, in the same shape.
        bins: how many.
    """
    confidence, correct = np.ravel(confidence), np.ravel(correct)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(at, correct - confidence, bins)
    return float(np.abs(gaps).sum() / len(confidence))
