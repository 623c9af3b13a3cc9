"""What layers compute: non-linearity, data format, and what outputs stand for."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.layers import Maxout
from keras_fitnets.utils.keras_private import get_producer

_LAYERS = keras.layers
# They move, drop or average values without another non-linearity.
_CARRIERS = (
    *(_LAYERS.Cropping1D, _LAYERS.Cropping2D, _LAYERS.Cropping3D, _LAYERS.Dropout),
    *(_LAYERS.Flatten, _LAYERS.Identity, _LAYERS.Permute, _LAYERS.Reshape),
    *(_LAYERS.MaxPooling1D, _LAYERS.MaxPooling2D, _LAYERS.MaxPooling3D),
    *(_LAYERS.GlobalMaxPooling1D, _LAYERS.GlobalMaxPooling2D),
    _LAYERS.GlobalMaxPooling3D,
)
_MEANS = (
    *(_LAYERS.AveragePooling1D, _LAYERS.AveragePooling2D, _LAYERS.AveragePooling3D),
    *(_LAYERS.GlobalAveragePooling1D, _LAYERS.GlobalAveragePooling2D),
    *(_LAYERS.GlobalAveragePooling3D, _LAYERS.Average),
)
_ACTIVATION_LAYERS = {
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}


def nonlinearity(network: keras.Model, path: str) -> dict[str, Any]:
    """The layer's non-linearity as `HintRegressor` takes it: activation or pieces."""
    for operation, _ in _chain(network, path):
        if isinstance(operation, Maxout):
            return {"pieces": operation.pieces}
        if type(operation).__name__ in _ACTIVATION_LAYERS:
            is_layer = isinstance(operation, keras.layers.Layer)
            return {
                # A layer may have a slope or a bound: it is taken over whole.
                "activation": type(operation).from_config(operation.get_config())
                if is_layer
                else _ACTIVATION_LAYERS[type(operation).__name__]
            }
        activation = getattr(operation, "activation", None)
        linear = activation in (None, keras.activations.linear)
        if not linear:
            return {"activation": activation}
        if not isinstance(operation, (*_CARRIERS, keras.layers.Activation)):
            break
    return {}


def data_format(network: keras.Model, path: str) -> str:
    """Where the channels are in the output of the layer at a path."""
    for operation, _ in _chain(network, path):
        if hasattr(operation, "data_format"):
            return operation.data_format
    return keras.config.image_data_format()


def output_activations(network: keras.Model) -> list[str | None]:
    """For each output the name of the activation it ends in, None if it is unknown.

    Logits end in `"linear"`, or in `"log_softmax"`.
    """
    if not graph.is_symbolic(network):
        return []
    return [_end(tensor) for tensor in keras.tree.flatten(network.outputs)]


def _end(tensor: Any) -> str | None:
    """The activation that a tensor of a graph ends in."""
    for operation, sources in _backwards(tensor):
        name = _name(operation)
        if name == "softmax" and getattr(operation, "axis", -1) != -1:
            return "softmax over another axis than the last"
        if name not in (None, "linear"):
            return name
        if isinstance(operation, (*_CARRIERS, *_MEANS, keras.layers.Activation)):
            ends = {_end(source) for source in sources}
            end = ends.pop() if len(ends) == 1 else None
            kept = _keeps_last_axis(operation, sources[0])
            return end if kept or end in ("linear", "sigmoid") else None
        if isinstance(operation, (keras.layers.Add, keras.layers.Concatenate)):
            ends = {_end(source) for source in sources}
            same = {"linear"}
            if isinstance(operation, keras.layers.Concatenate):
                same.add("sigmoid")
            return ends.pop() if len(ends) == 1 and ends <= same else None
        normalised = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
        if hasattr(operation, "kernel") or isinstance(operation, (*normalised, Maxout)):
            return "linear"
        return None
    return None


def _keeps_last_axis(operation: Any, source: Any) -> bool:
    if isinstance(operation, keras.layers.Permute):
        return operation.dims[-1] == len(operation.dims)
    return operation.output.shape[-1] == source.shape[-1]


def _name(operation: Any) -> str | None:
    """The name of the activation that a layer or operation applies, if it has one."""
    kind = type(operation).__name__
    if kind in _ACTIVATION_LAYERS:
        return _ACTIVATION_LAYERS[kind]
    if kind == "LogSoftmax":
        return "log_softmax"
    activation = getattr(operation, "activation", None)
    return activation and getattr(activation, "__name__", type(activation).__name__)


def _chain(network: keras.Model, path: str) -> Iterator[tuple[Any, list[Any]]]:
    """The layer at a path, then those it follows, as far as there is a graph."""
    layer = graph.find_layer(network, path)
    symbolic = isinstance(layer, keras.Model) and graph.is_symbolic(layer)
    try:
        tensor = layer.outputs[0] if symbolic else keras.tree.flatten(layer.output)[0]
    except (AttributeError, ValueError):
        # A layer of a subclassed network has no place in a graph.
        yield layer, []
        return
    yield from _backwards(tensor)


def _backwards(tensor: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The operations that led to a tensor, and their inputs; at a merge, the first."""
    while (producer := get_producer(tensor)) is not None:
        operation, sources, tensor_index = producer
        if isinstance(operation, keras.layers.InputLayer):
            return
        if isinstance(operation, keras.Model) and graph.is_symbolic(operation):
            yield from _backwards(operation.outputs[tensor_index])
        else:
            yield operation, sources
        if not sources:
            return
        tensor = sources[0]
