"""Read outputs as classes with a confidence, and score them."""

from typing import Any
from typing import NamedTuple

import numpy as np

from keras_fitnets.inspection import activations
from keras_fitnets.losses import check_activation
from keras_fitnets.runtimes.base import Runner

# An int8 network stores a probability in 256 steps of its range from 0 to 1.
_INT8_STEP = 1 / 256
# Whether outputs are logits, by the last activation of a network. Log-probabilities
# are logits too: softmax(log p) = p.
_IS_LOGITS = {
    "softmax": False,
    "sigmoid": False,
    "log_softmax": True,
    "linear": True,
}


class Predictions(NamedTuple):
    """What a network predicts for some samples.

    Attributes:
        classes: the predicted classes `(samples,)`; for sigmoid units whether each is
            on, `(samples, units)`.
        confidence: the probability of each prediction, in the same shape.
        units: the number of the network's output units.
    """

    classes: np.ndarray
    confidence: np.ndarray
    units: int

    def __str__(self) -> str:
        activation = "sigmoid" if self.classes.ndim == 2 else "softmax"
        return (
            f"{len(self.classes)} predictions by {activation} of {self.units} unit(s)"
        )


def to_predictions(outputs: Any, activation: str, from_logits: bool) -> Predictions:
    """Turn the outputs of a network into predictions.

    Args:
        outputs: logits or probabilities `(..., units)`; all axes but the last one count
            as samples.
        activation: `"softmax"` or `"sigmoid"`.
        from_logits: whether the outputs are logits.
    """
    units = np.shape(outputs)[-1]
    values = np.asarray(outputs, "float64").reshape(-1, units)
    if activation == "sigmoid":
        # A unit is on above p = 1/2, which is a logit above 0.
        is_on = values > (0 if from_logits else 0.5)
        if from_logits:
            # The probability of the prediction is max(p, 1 - p) = sigmoid(|logit|).
            confidence = 1 / (1 + np.exp(-np.abs(values)))
        else:
            confidence = np.where(is_on, values, 1 - values)
        return Predictions(is_on, confidence, units)
    classes = values.argmax(-1)
    if from_logits:
        # softmax(z) = softmax(z - max z), and exp(z - max z) cannot overflow.
        values = np.exp(values - values.max(-1, keepdims=True))
    # Rounding leaves probabilities that do not add up to 1, in an int8 file visibly so.
    # A row of zeros keeps the confidence 0.
    total = values.sum(-1)
    confidence = values.max(-1) / np.where(total > 0, total, 1)
    return Predictions(classes, confidence, units)


def is_probability_like(outputs: np.ndarray, activation: str) -> bool:
    """Whether values could be probabilities: in [0, 1] and, for softmax, of sum 1."""
    is_in_range = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if activation == "sigmoid":
        return is_in_range
    # Rounding to int8 moves each probability by up to half a step, and their sum by up
    # to as many half steps as there are units.
    tolerance = max(0.05, outputs.shape[-1] * _INT8_STEP / 2)
    return is_in_range and bool(np.all(np.abs(outputs.sum(-1) - 1) <= tolerance))


def labels_to_classes(labels: Any, predictions: Predictions) -> np.ndarray:
    """Return labels in the form of the predictions that they are compared with.

    Args:
        labels: class numbers `(samples,)`, one-hot vectors `(samples, units)`, or zeros
            and ones for each sigmoid unit.
        predictions: the predictions.

    Raises:
        ValueError: if the labels' dtype, shape or values do not fit.
    """
    labels, (classes, _, units) = np.asarray(labels), predictions
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            f"Labels must be numbers; received an array of dtype {labels.dtype}. "
            "Number the classes from 0."
        )
    is_one_hot = classes.ndim == 1 and labels.size == units * classes.size
    if is_one_hot and units > 1:
        labels_by_sample = labels.reshape(-1, units).argmax(-1)
    else:
        labels_by_sample = labels
    if labels_by_sample.size != classes.size:
        raise ValueError(
            f"Labels of shape {labels.shape} do not fit {len(classes)} outputs of "
            f"{units} unit(s). Pass a class for each, a one-hot vector, or 0 or 1 for "
            "each unit."
        )
    labels_by_sample = labels_by_sample.reshape(classes.shape)
    largest = 1 if classes.ndim == 2 else units - 1
    # NaN fails both comparisons, so that it is reported as well.
    if not np.all((labels_by_sample >= 0) & (labels_by_sample <= largest)):
        raise ValueError(
            f"Labels must lie between 0 and {largest}, for outputs of {units} unit(s); "
            f"received {labels_by_sample.min()} to {labels_by_sample.max()}. Number "
            "the classes from 0."
        )
    if classes.ndim == 2:
        return labels_by_sample > 0.5
    if np.any(labels_by_sample != np.floor(labels_by_sample)):
        raise ValueError(
            "Classes must be whole numbers; received fractions. Pass class numbers, or "
            f"vectors of {units} probabilities."
        )
    return labels_by_sample


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """The expected calibration error, `Σ_b n_b / n |accuracy_b - confidence_b|`.

    Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), over bins
    of equal width.

    Args:
        confidence: the probability of each prediction, in any shape.
        correct: whether it was right, in the same shape.
        bins: the number of bins.
    """
    confidence, correct = np.ravel(confidence), np.ravel(correct)
    # Bin b holds the confidences in (b / bins, (b + 1) / bins]; 0 goes into the first.
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # n_b (accuracy_b - confidence_b) = Σ over the bin of (correct - confidence): no
    # division by the size of a bin, which may be empty.
    gaps = np.bincount(bin_of, correct - confidence, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def predict_classes(
    name: str,
    model: Runner,
    outputs: list[np.ndarray],
    activation: str,
    first: Predictions | None = None,
) -> Predictions:
    """Turn a model's outputs into predictions, working out what they mean.

    Args:
        name: the model's name, for messages.
        model: the model.
        outputs: its outputs, arrays `(samples, ...)`.
        activation: `"softmax"`, `"sigmoid"` or `"auto"`, as for `compare`.
        first: the predictions of the first model, whose activation a model that does
            not show its own shares.

    Raises:
        ValueError: if there are several outputs, if the network ends in another
            activation, or if outputs are NaN or infinity.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"Model '{name}' has {len(outputs)} outputs, and predictions are read from "
            "one. Compare it without `data`, or a `keras.Model` of one of its outputs."
        )
    values = np.asarray(outputs[0], "float64")
    if values.ndim == 1:
        values = values[:, None]
    # Minus infinity is allowed: it is the logit of a class that is masked out.
    is_usable = (values < np.inf).reshape(len(values), -1).all(-1)
    if not is_usable.all():
        raise ValueError(
            f"Model '{name}' gives NaN or infinity for {np.sum(~is_usable)} of "
            f"{len(values)} samples. Look at its weights, and at the data, before you "
            "compare it."
        )
    # A Keras network shows its last activation, and with it whether it gives logits. A
    # file does not, and neither does a subclassed network.
    network = model.network
    endings = activations.output_activations(network) if network is not None else []
    ending = endings[0] if endings else None
    visible = (ending or "").removeprefix("log_")
    known = visible if visible in ("softmax", "sigmoid") else None
    if activation != "auto" and known not in (None, check_activation(activation)):
        raise ValueError(
            f"Model '{name}' ends in {ending}; received activation={activation!r}. "
            'Leave it at "auto".'
        )
    if activation == "auto":
        is_first_by_unit = first is not None and first.classes.ndim == 2
        is_by_unit = is_first_by_unit or values.shape[-1] == 1
        activation = "sigmoid" if is_by_unit else "softmax"
    activation = known or activation
    if ending in _IS_LOGITS:
        from_logits = _IS_LOGITS[ending]
    else:
        from_logits = not is_probability_like(values, activation)
    return to_predictions(values, activation, from_logits)


def score(
    name: str, predictions: Predictions, reference: Predictions, y: Any
) -> dict[str, float | None]:
    """Compare predictions with those of another model and, if known, with the labels.

    Args:
        name: the model's name, for messages.
        predictions: the model's predictions.
        reference: those of the first model.
        y: labels, or None.

    Returns:
        `agreement` with the reference, `accuracy` and `calibration_error`, each between
        0 and 1; the last two are None without labels.

    Raises:
        ValueError: if the two predict different things, or the labels do not fit.
    """
    if str(predictions) != str(reference):
        raise ValueError(
            f"Model '{name}' makes {predictions}, the first model {reference}. Compare "
            "models of the same outputs; if the units mean something else, pass "
            "`activation`."
        )
    scores: dict[str, float | None] = {
        "agreement": float(np.mean(predictions.classes == reference.classes)),
        "accuracy": None,
        "calibration_error": None,
    }
    if y is not None:
        correct = predictions.classes == labels_to_classes(y, predictions)
        scores["accuracy"] = float(np.mean(correct))
        scores["calibration_error"] = calibration_error(predictions.confidence, correct)
    return scores
