"""Preprocessing that a network does outside of its graph."""

from typing import Any

import keras

from keras_fitnets.inspection import graph


def check_no_preprocessor(network: keras.Model) -> None:
    """Raise if a network's own `fit` and `predict` would change the inputs first.

    A task of KerasHub has an attribute `preprocessor`, which its `fit`, `evaluate` and
    `predict` apply to the data. Its graph does not contain it, so that whoever calls
    the network would bypass it.

    Raises:
        ValueError: naming the preprocessor, and the way to apply it.
    """
    preprocessor = getattr(network, "preprocessor", None)
    if preprocessor is None or _is_part_of_pass(network, preprocessor):
        return
    raise ValueError(
        f"Network '{network.name}' carries a preprocessor, a "
        f"{type(preprocessor).__name__}, which its own `fit` and `predict` apply to "
        "their data, and which would be bypassed here. Apply it to the data yourself: "
        "`dataset = dataset.map(network.preprocessor)`, or `network.preprocessor(x)` "
        "for arrays; then set `network.preprocessor = None`."
    )


def _is_part_of_pass(network: keras.Model, preprocessor: Any) -> bool:
    """Whether calling the network runs what it has under the name `preprocessor`."""
    if hasattr(network, "preprocess_samples"):
        return False
    if graph.is_symbolic(network):
        layers = graph.get_descendants(network)
        return any(layer is preprocessor for layer in layers)
    # Of a subclassed network only the names in its code are known.
    code = getattr(type(network).call, "__code__", None)
    return code is None or "preprocessor" in code.co_names
