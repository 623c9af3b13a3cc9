"""The non-linearity, the data format and the meaning of a layer's outputs.

All of it is read off the graph, by going backwards from a tensor to the operations that
made it, until one of them decides the question.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.layers import Maxout
from keras_fitnets.utils.keras_private import get_producer

_LAYERS = keras.layers
# Layers that move or drop values: what was true of the values before stays true.
_CARRIERS = (
    *(_LAYERS.Cropping1D, _LAYERS.Cropping2D, _LAYERS.Cropping3D, _LAYERS.Dropout),
    *(_LAYERS.Flatten, _LAYERS.Identity, _LAYERS.Permute, _LAYERS.Reshape),
    *(_LAYERS.MaxPooling1D, _LAYERS.MaxPooling2D, _LAYERS.MaxPooling3D),
    *(_LAYERS.GlobalMaxPooling1D, _LAYERS.GlobalMaxPooling2D),
    _LAYERS.GlobalMaxPooling3D,
)
# Layers that average values. The mean of logits is a logit and the mean of
# probabilities a probability, but the mean of a ReLU's outputs no output of a ReLU.
_MEANS = (
    *(_LAYERS.AveragePooling1D, _LAYERS.AveragePooling2D, _LAYERS.AveragePooling3D),
    *(_LAYERS.GlobalAveragePooling1D, _LAYERS.GlobalAveragePooling2D),
    *(_LAYERS.GlobalAveragePooling3D, _LAYERS.Average),
    *(_LAYERS.UpSampling1D, _LAYERS.UpSampling2D, _LAYERS.UpSampling3D),
    _LAYERS.Resizing,
)
# The ways to resize that take a mean. The others have negative weights, by which
# probabilities leave the range from 0 to 1.
_MEAN_INTERPOLATIONS = (None, "nearest", "bilinear", "area")
# The layers that are activations, by class name: operations of `keras.ops` have the
# same names.
_ACTIVATION_LAYERS = {
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}


def nonlinearity(network: keras.Model, path: str) -> dict[str, Any]:
    """Return the layer's non-linearity as an argument of `HintRegressor`.

    Returns:
        {"activation": …}, {"pieces": …}, or {} if the layer is linear or unknown.
    """
    for operation, _ in _chain(network, path):
        if isinstance(operation, Maxout):
            return {"pieces": operation.pieces}
        if type(operation).__name__ in _ACTIVATION_LAYERS:
            is_layer = isinstance(operation, keras.layers.Layer)
            return {
                # A layer may have a slope or a bound, which its name would lose.
                "activation": type(operation).from_config(operation.get_config())
                if is_layer
                else _ACTIVATION_LAYERS[type(operation).__name__]
            }
        activation = getattr(operation, "activation", None)
        if activation not in (None, keras.activations.linear):
            return {"activation": activation}
        # A layer that only moves values has the non-linearity of the one before it.
        if not isinstance(operation, (*_CARRIERS, keras.layers.Activation)):
            break
    return {}


def data_format(network: keras.Model, path: str) -> str:
    """Return "channels_last" or "channels_first" for the output of a layer.

    The layer itself may not say, as an activation does not: then the nearest one
    before it that does decides, and at last Keras' default.
    """
    for operation, _ in _chain(network, path):
        if hasattr(operation, "data_format"):
            return operation.data_format
    return keras.config.image_data_format()


def output_activations(network: keras.Model) -> list[str | None]:
    """Return for each output the name of its last activation, None if unknown.

    Logits end in `"linear"`, or in `"log_softmax"`.
    """
    if not graph.is_symbolic(network):
        return []
    return [_end(tensor) for tensor in keras.tree.flatten(network.outputs)]


def _end(tensor: Any) -> str | None:
    """Return the last activation before a tensor of a graph, None if unknown."""
    for operation, sources in _backwards(tensor):
        name = _name(operation)
        # A softmax over another axis does not make the last one sum to 1.
        if name == "softmax" and getattr(operation, "axis", -1) != -1:
            return "softmax over another axis than the last"
        if name not in (None, "linear"):
            return name
        if isinstance(operation, (*_CARRIERS, *_MEANS, keras.layers.Activation)):
            ends = {_end(source) for source in sources}
            end = ends.pop() if len(ends) == 1 else None
            # A softmax is one only over its own axis: once the classes are moved or
            # mixed with others, their probabilities no longer sum to 1.
            is_kept = _keeps_last_axis(operation, sources[0])
            if getattr(operation, "interpolation", None) not in _MEAN_INTERPOLATIONS:
                return end if end == "linear" else None
            return end if is_kept or end in ("linear", "sigmoid") else None
        if isinstance(operation, (keras.layers.Add, keras.layers.Concatenate)):
            # A sum of logits is a logit. A sum of probabilities is none, but they may
            # stand side by side if they are independent of one another.
            ends = {_end(source) for source in sources}
            allowed = {"linear"}
            if isinstance(operation, keras.layers.Concatenate):
                allowed.add("sigmoid")
            return ends.pop() if len(ends) == 1 and ends <= allowed else None
        # These layers compute any real number from whatever they were given. A
        # language model may use its Embedding a second time, transposed, for the end.
        layers = keras.layers
        norms = (layers.BatchNormalization, layers.LayerNormalization)
        others = (*norms, layers.Embedding, Maxout)
        if hasattr(operation, "kernel") or isinstance(operation, others):
            return "linear"
        return None
    return None


def _keeps_last_axis(operation: Any, source: Any) -> bool:
    if isinstance(operation, keras.layers.Permute):
        return operation.dims[-1] == len(operation.dims)
    return operation.output.shape[-1] == source.shape[-1]


def _name(operation: Any) -> str | None:
    """Return the name of the activation that an operation applies, if it has one."""
    kind = type(operation).__name__
    if kind in _ACTIVATION_LAYERS:
        return _ACTIVATION_LAYERS[kind]
    if kind == "LogSoftmax":
        return "log_softmax"
    activation = getattr(operation, "activation", None)
    if activation is None:
        return None
    # An activation may be a function, or an object of a class such as a layer.
    return getattr(activation, "__name__", type(activation).__name__)


def _chain(network: keras.Model, path: str) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the layer at a path, then those before it, as far as there is a graph."""
    layer = graph.find_layer(network, path)
    is_network = isinstance(layer, keras.Model) and graph.is_symbolic(layer)
    try:
        tensor = layer.outputs[0] if is_network else keras.tree.flatten(layer.output)[0]
    except (AttributeError, ValueError):
        # A layer of a subclassed network has no place in a graph.
        yield layer, []
        return
    yield from _backwards(tensor)


def _backwards(tensor: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the operations that led to a tensor, the last one first, and their inputs.

    Where several tensors meet, the way goes on along the first.
    """
    while (producer := get_producer(tensor)) is not None:
        operation, sources, tensor_index = producer
        if isinstance(operation, keras.layers.InputLayer):
            return
        if isinstance(operation, keras.Model) and graph.is_symbolic(operation):
            # A nested network has a graph of its own, which is followed to its input.
            yield from _backwards(operation.outputs[tensor_index])
        else:
            yield operation, sources
        if not sources:
            return
        tensor = sources[0]
