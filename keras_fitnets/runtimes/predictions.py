"""What models choose, whatever their outputs look like."""

from typing import Any

import numpy as np

from keras_fitnets.inspection import activations
from keras_fitnets.losses import check_activation
from keras_fitnets.runtimes.runner import quality
from keras_fitnets.runtimes.runner import Running

_SHOWN = {"softmax": False, "sigmoid": False, "log_softmax": True, "linear": True}


def decisions(
    name: str,
    model: Running,
    outputs: list[np.ndarray],
    activation: str,
    first: quality.Judged | None = None,
) -> quality.Judged:
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
        from_logits = not quality.look_like_probabilities(values, activation)
    return quality.judged(values, activation, from_logits)


def rated(
    name: str, chosen: quality.Judged, reference: quality.Judged, y: Any
) -> dict[str, float | None]:
    """Agreement with another's choices and, where there are labels, how good they are.

    Raises:
        ValueError: if they are of another shape than the other's, or than the labels.
    """
    if _kind(chosen) != _kind(reference):
        raise ValueError(
            f"Model '{name}' makes {_kind(chosen)}, the first model "
            f"{_kind(reference)}. Compare models of the same outputs; if the units "
            "mean something else than this, say `activation`."
        )
    found: dict[str, float | None] = {
        "agreement": float(np.mean(chosen.choices == reference.choices)),
        "accuracy": None,
        "calibration_error": None,
    }
    if y is not None:
        right = chosen.choices == quality.as_choices(y, chosen)
        found["accuracy"] = float(np.mean(right))
        found["calibration_error"] = quality.calibration_error(chosen.confidence, right)
    return found


def _kind(judged: quality.Judged) -> str:
    activation = "sigmoid" if judged.choices.ndim == 2 else "softmax"
    return f"{len(judged.choices)} choices by {activation} of {judged.units} unit(s)"
