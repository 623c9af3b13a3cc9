"""A digest of a network's layers, weights, and what layers keep beside them.

It tells whether a cache of teacher outputs was made with the teacher at hand. It must
be the same in every process that builds or loads the same network, and differ as soon
as a weight or an argument of a layer does.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import GRAPH_CONFIG_KEYS
from keras_fitnets.utils.keras_private import IDLE_CONFIG_KEYS


def fingerprint(model: keras.Model) -> str:
    """Return a digest of a network's layers and state, 16 hexadecimal digits.

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
    # Most layers have no other state, and add nothing: the digests of such networks,
    # which caches of earlier versions hold, stay as they were.
    for i, layer in enumerate(layers):
        for name, content in _iterate_other_state(layer, places):
            digest.update(f"{i} {name}".encode() + content)
    return digest.hexdigest()[:16]


def _iterate_other_state(
    layer: keras.layers.Layer, places: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Yield what a layer saves that is neither an argument nor a weight, by name."""
    # A layer that cannot save its state, or is not ready to, raises: as above its type
    # and its weights still count.
    with contextlib.suppress(Exception):
        yield from _read_assets(layer)
    with contextlib.suppress(Exception):
        yield from _read_other_variables(layer)
    with contextlib.suppress(Exception):
        # Keras' own layers keep nothing but shapes here.
        build_config = layer.get_build_config() or {}
        for key in sorted(build_config.keys() - {"input_shape", "shapes_dict"}):
            text = _to_text(build_config[key], places, is_graph=False)
            yield f"build {key}", text.encode()


def _read_assets(layer: Any) -> list[tuple[str, bytes]]:
    """Return the files that a layer saves, such as a vocabulary."""
    if not hasattr(layer, "save_assets"):
        return []
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        return [
            (f"asset {path.relative_to(folder).as_posix()}", path.read_bytes())
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        ]


def _read_other_variables(layer: Any) -> list[tuple[str, bytes]]:
    """Return what a layer saves among its variables that is none of its weights."""
    # With LoRA, Keras' layers save a kernel that is computed of their weights.
    is_own = type(layer).save_own_variables is not keras.layers.Layer.save_own_variables
    if not is_own or getattr(layer, "lora_enabled", False):
        return []
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    values = {str(key): _to_bytes(value) for key, value in store.items()}
    weights = {_to_bytes(weight) for weight in layer.weights}
    return [
        (f"variable {key}", values[key])
        for key in sorted(values)
        if values[key] not in weights
    ]


def _to_bytes(value: Any) -> bytes:
    array = ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)
    # The bytes of objects, such as strings, would be their addresses in memory.
    is_object = array.dtype == object
    return repr(array.tolist()).encode() if is_object else array.tobytes()


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
