"""A digest of a network's layers and weights.

It tells whether a cache of teacher outputs was made with the teacher at hand. It must
be the same in every process that builds or loads the same network, and differ as soon
as a weight or an argument of a layer does.
"""

import contextlib
import hashlib
from typing import Any

import keras
from keras import ops

from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import GRAPH_CONFIG_KEYS
from keras_fitnets.utils.keras_private import IDLE_CONFIG_KEYS


def fingerprint(model: keras.Model) -> str:
    """Return a digest of a network's layers and weights, 16 hexadecimal digits.

    Names of layers do not count, nor what a configuration holds besides arguments.
    """
    digest = hashlib.sha256()
    layers = [model, *graph.get_descendants(model)]
    operations = [
        operation for layer in layers for operation in getattr(layer, "operations", ())
    ]
    # Keras numbers unnamed layers as they are made ("dense_3"), differently in each
    # process. Where the graph refers to a layer, its place stands for its name.
    names = dict.fromkeys(layer.name for layer in [*layers, *operations])
    places = {name: f"layer {i}" for i, name in enumerate(names)}
    for layer in layers:
        digest.update(f"{type(layer).__name__} {layer.dtype_policy.name}".encode())
        # A user's own layer may lack a `get_config`, which then raises. Its type and
        # its weights still count.
        with contextlib.suppress(Exception):
            config = _to_text(layer.get_config(), places, is_graph=False)
            digest.update(config.encode())
    for weight in model.weights:
        digest.update(f"{weight.name} {weight.shape} {weight.dtype}".encode())
        digest.update(ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()[:16]


def _to_text(config: Any, places: dict[str, str], is_graph: bool) -> str:
    """Return a configuration as text that is the same in every process.

    Args:
        config: a configuration, or a part of one.
        places: for each name of a layer the text that stands for it.
        is_graph: whether strings in this part may be names of layers.
    """
    if isinstance(config, dict):
        texts = {
            str(key): _to_text(value, places, is_graph or key in GRAPH_CONFIG_KEYS)
            for key, value in config.items()
            if key not in IDLE_CONFIG_KEYS
        }
        return f"{sorted(texts.items())}"
    if isinstance(config, (list, tuple)):
        return f"{[_to_text(value, places, is_graph) for value in config]}"
    if isinstance(config, str):
        return places.get(config, config) if is_graph else config
    if config is None or isinstance(config, (bool, int, float, bytes)):
        return repr(config)
    # An array is spelled out. Of any other object only the type counts: its text may
    # hold its address in memory, which no two processes share.
    return repr(config.tolist()) if hasattr(config, "tolist") else str(type(config))
