"""What models choose, whatever their outputs look like."""

from typing import Any
from typing import NamedTuple

import numpy as np

from keras_fitnets.inspection import activations
from keras_fitnets.losses import check_activation
from keras_fitnets.runtimes.base import Runner

# Probabilities of an integer network are off by up to half of one of its 256 steps.
_STEP = 1 / 256


class Predictions(NamedTuple):
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


def to_predictions(outputs: Any, activation: str, from_logits: bool) -> Predictions:
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
            return Predictions(on, 1 / (1 + np.exp(-np.abs(values))), units)
        return Predictions(on, np.where(on, values, 1 - values), units)
    choices = values.argmax(-1)
    if from_logits:
        values = np.exp(values - values.max(-1, keepdims=True))
    total = values.sum(-1)
    return Predictions(choices, values.max(-1) / np.where(total > 0, total, 1), units)


def is_probability_like(outputs: np.ndarray, activation: str) -> bool:
    """Whether values are all between 0 and 1 and, for a softmax, add up to 1."""
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if activation == "sigmoid":
        return inside
    most = max(0.05, outputs.shape[-1] * _STEP / 2)
    return inside and bool(np.all(np.abs(outputs.sum(-1) - 1) <= most))


def labels_to_classes(labels: Any, judged: Predictions) -> np.ndarray:
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


_SHOWN = {"softmax": False, "sigmoid": False, "log_softmax": True, "linear": True}


def predict_classes(
    name: str,
    model: Runner,
    outputs: list[np.ndarray],
    activation: str,
    first: Predictions | None = None,
) -> Predictions:
    """What a model has chosen.

    Args:
        name: what it is called in an error.
        model: the model.
        outputs: what it gives.
        activation: `"softmax"`, `"sigmoid"` or `"auto"`, as for `compare`.
        first: the decisions of the first model.

    Raises:
        ValueError: if it has several outputs, or ends in another activation, or gives
            NaN or infinity.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"Model '{name}' has {len(outputs)} outputs, and choices are made by one. "
            "Compare it without `data`, or a `keras.Model` of one of its outputs."
        )
    values = np.asarray(outputs[0], "float64")
    if values.ndim == 1:
        values = values[:, None]
    # A logit may be minus infinity: a class that is masked.
    odd = int(np.sum(~(values < np.inf).reshape(len(values), -1).all(-1)))
    if odd:
        raise ValueError(
            f"Model '{name}' gives NaN or infinity for {odd} of {len(values)} samples. "
            "Look at its weights, and at the data, before you compare it."
        )
    network = model.network
    ends = activations.output_activations(network) if network is not None else []
    end = ends[0] if ends else None
    meant = (end or "").removeprefix("log_")
    shown = meant if meant in ("softmax", "sigmoid") else None
    if activation != "auto" and shown not in (None, check_activation(activation)):
        raise ValueError(
            f"Model '{name}' ends in {end}, but activation={activation!r} was said. "
            'Leave it at "auto".'
        )
    if activation == "auto":
        units = first is not None and first.choices.ndim == 2
        activation = "sigmoid" if units or values.shape[-1] == 1 else "softmax"
    activation = shown or activation
    if end in _SHOWN:
        from_logits = _SHOWN[end]
    else:
        from_logits = not is_probability_like(values, activation)
    return to_predictions(values, activation, from_logits)


def score(
    name: str, chosen: Predictions, reference: Predictions, y: Any
) -> dict[str, float | None]:
    """Agreement with another's choices and, where there are labels, how good they are.

    Raises:
        ValueError: if they are of another shape than the other's, or than the labels.
    """
    if _describe_outputs(chosen) != _describe_outputs(reference):
        raise ValueError(
            f"Model '{name}' makes {_describe_outputs(chosen)}, the first model "
            f"{_describe_outputs(reference)}. Compare models of the same outputs; if "
            "the units "
            "mean something else than this, say `activation`."
        )
    found: dict[str, float | None] = {
        "agreement": float(np.mean(chosen.choices == reference.choices)),
        "accuracy": None,
        "calibration_error": None,
    }
    if y is not None:
        right = chosen.choices == labels_to_classes(y, chosen)
        found["accuracy"] = float(np.mean(right))
        found["calibration_error"] = calibration_error(chosen.confidence, right)
    return found


def _describe_outputs(judged: Predictions) -> str:
    activation = "sigmoid" if judged.choices.ndim == 2 else "softmax"
    return f"{len(judged.choices)} choices by {activation} of {judged.units} unit(s)"
