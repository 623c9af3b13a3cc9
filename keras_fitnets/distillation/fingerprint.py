"""A digest of a network's layers and weights."""

import contextlib
import hashlib
from typing import Any

import keras
from keras import ops

from keras_fitnets.inspection import graph

# What a configuration says that changes no output, and the keys of what names layers.
_IGNORED_KEYS = {
    "name",
    "trainable",
    "shared_object_id",
    "build_config",
    "compile_config",
}


_GRAPH_KEYS = {"inbound_nodes", "input_layers", "output_layers"}


def fingerprint(model: keras.Model) -> str:
    digest = hashlib.sha256()
    layers = [model, *graph.get_descendants(model)]
    parts = [part for one in layers for part in getattr(one, "operations", ())]
    # Keras numbers layers anew wherever they are made: a place instead of each name.
    names = dict.fromkeys(part.name for part in [*layers, *parts])
    places = {name: f"layer {i}" for i, name in enumerate(names)}
    for layer in layers:
        digest.update(f"{type(layer).__name__} {layer.dtype_policy.name}".encode())
        # Not every layer of a user's own can tell its configuration.
        with contextlib.suppress(Exception):
            digest.update(_to_text(layer.get_config(), places, graph=False).encode())
    for weight in model.weights:
        digest.update(f"{weight.name} {weight.shape} {weight.dtype}".encode())
        digest.update(ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()[:16]


def _to_text(config: Any, places: dict[str, str], graph: bool) -> str:
    """A configuration as text that is the same in every process."""
    if isinstance(config, dict):
        told = {
            str(key): _to_text(value, places, graph or key in _GRAPH_KEYS)
            for key, value in config.items()
            if key not in _IGNORED_KEYS
        }
        return f"{sorted(told.items())}"
    if isinstance(config, (list, tuple)):
        return f"{[_to_text(value, places, graph) for value in config]}"
    if isinstance(config, str):
        return places.get(config, config) if graph else config
    if config is None or isinstance(config, (bool, int, float, bytes)):
        return repr(config)
    # What has no text of its own may tell its address in memory.
    return repr(config.tolist()) if hasattr(config, "tolist") else str(type(config))
