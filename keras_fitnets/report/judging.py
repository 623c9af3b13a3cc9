"""What models choose, whatever their outputs look like."""

from typing import Any

import numpy as np

from keras_fitnets import activations
from keras_fitnets.losses import check_activation
from keras_fitnets.report import quality
from keras_fitnets.runtimes import Running

_SHOWN = {"softmax": False, "sigmoid": False, "log_softmax": True, "linear": True}


def decisions(
    name: str, model: Running, outputs: list[np.ndarray], activation: str
) -> quality.Judged:
    """What a model has chosen.

    Args:
        name: what it is called in an error.
        model: the model.
        outputs: what it gives.
        activation: `"softmax"`, `"sigmoid"` or `"auto"`, as for `compare`.

    Raises:
        ValueError: if it has several outputs, or ends in another activation.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"Model '{name}' has {len(outputs)} outputs, and choices are made by one. "
            "Compare it without `data`, or a `keras.Model` of one of its outputs."
        )
    [values] = outputs
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
    one_unit = "sigmoid" if values.shape[-1] == 1 else "softmax"
    activation = shown or (one_unit if activation == "auto" else activation)
    if end in _SHOWN:
        from_logits = _SHOWN[end]
    else:
        from_logits = not quality.look_like_probabilities(values, activation)
    return quality.judged(values, activation, from_logits)


def rated(
    name: str, chosen: quality.Judged, reference: quality.Judged, y: Any, units: int
) -> dict[str, float | None]:
    """Agreement with another's choices and, where there are labels, how good they are.

    Raises:
        ValueError: if they are of another shape than the other's, or than the labels.
    """
    if chosen.choices.shape != reference.choices.shape:
        raise ValueError(
            f"Model '{name}' makes choices of the shape {chosen.choices.shape}, the "
            f"first model of {reference.choices.shape}. Compare models of the same "
            'outputs; for several sigmoid units say activation="sigmoid".'
        )
    found: dict[str, float | None] = {
        "agreement": quality.share_alike(chosen.choices, reference.choices),
        "accuracy": None,
        "calibration_error": None,
    }
    if y is not None:
        right = chosen.choices == quality.as_choices(y, chosen.choices, units)
        found["accuracy"] = float(np.mean(right))
        found["calibration_error"] = quality.calibration_error(chosen.confidence, right)
    return found
