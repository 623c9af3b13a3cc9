"""What a network is made of: its layers by path, and what its layers compute."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_fitnets.layers import Maxout

# Layers that move or drop values without another non-linearity.
_CARRIERS = (
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.Permute,
    keras.layers.Reshape,
)
_ACTIVATION_LAYERS = {
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}


def is_symbolic(network: keras.Model) -> bool:
    """Whether the network is a graph of layers, Functional or Sequential."""
    if isinstance(network, keras.Sequential):
        return network.built
    # A Functional network whose `call` is its own runs another graph than it shows.
    own_call = not type(network).call.__module__.startswith("keras.")
    return isinstance(network, keras.Function) and not own_call


def run(network: keras.Model, x: Any, training: bool) -> Any:
    """The network's outputs, whether or not its `call` knows `training`."""
    parameters = inspect.signature(network.call).parameters.values()
    if any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters):
        return network(x, training=training)
    return network(x)


def inputs_of(network: keras.Model) -> Any:
    """Symbolic inputs like the network's own, or None if they are not known."""
    if isinstance(network, keras.Sequential) and network.built:
        return network.inputs[0]
    if is_symbolic(network):
        return network.input
    config = network.get_build_config() if network.built else None
    shape = (config or {}).get("input_shape")
    if shape is None or not all(d is None or isinstance(d, int) for d in shape):
        return None
    return keras.KerasTensor(shape, network.input_dtype)


def outputs_of(network: keras.Model, inputs: Any) -> Any:
    """The network's symbolic outputs; `inputs` trace one that shows no graph."""
    if isinstance(network, keras.Sequential) and network.built:
        return network.outputs[0]
    if is_symbolic(network):
        return network.output
    return run(network, inputs, training=False)


def children(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers directly inside a layer, by name."""
    if isinstance(layer, keras.Model):
        return {child.name: child for child in layer.layers}
    found: dict[str, keras.layers.Layer] = {}
    for attribute, value in vars(layer).items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, keras.layers.Layer):
                found.setdefault(item.name, item)
                found.setdefault(attribute, item)
    return found


def layer_at(network: keras.Model, path: str) -> keras.layers.Layer:
    """The layer at a path such as `"backbone/block3_out"`.

    Raises:
        ValueError: if there is none, naming the layers that there are.
    """
    layer = network
    for i, name in enumerate(path.split("/")):
        inside = children(layer)
        if name not in inside:
            known = "/".join(path.split("/")[:i]) or f"network '{network.name}'"
            close = difflib.get_close_matches(name, inside, 1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"There is no layer '{path}' in network '{network.name}': {known} has "
                f"no layer '{name}'.{hint} It has: {', '.join(inside) or 'none'}."
            )
        layer = inside[name]
    return layer


def leaves(network: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each path and layer of a symbolic network, nested networks opened."""
    for layer in network.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model) and is_symbolic(layer):
            yield from leaves(layer, path + "/")
        else:
            yield path, layer


def middle(network: keras.Model) -> str:
    """The path of the middle one of the network's hidden layers.

    Counted are the layers with a kernel, the output layer left out; of an even
    number it is the earlier of the two in the middle. The normalisation and the
    non-linearity behind it belong to it.

    Raises:
        ValueError: if the network is not symbolic, or has no hidden layer.
    """
    if not is_symbolic(network):
        raise ValueError(
            'hints="middle" needs Functional or Sequential networks; '
            f"'{network.name}' is a {type(network).__name__}. Name the layers: "
            'hints=("hint_layer", "guided_layer").'
        )
    paths = list(leaves(network))
    kernels = [
        i
        for i, (_, layer) in enumerate(paths)
        if any(len(weight.shape) > 1 for weight in layer.weights)
    ]
    if len(kernels) < 2:
        raise ValueError(
            f"hints=\"middle\" needs a network with hidden layers; '{network.name}' "
            f"has {len(kernels)} layer(s) with a kernel, the output included."
        )
    at = kernels[:-1][(len(kernels) - 2) // 2]
    behind = (
        *(keras.layers.Activation, keras.layers.BatchNormalization),
        *(keras.layers.LayerNormalization, Maxout),
    )
    while at + 1 not in kernels:
        following = paths[at + 1][1]
        belongs = isinstance(following, behind) or _activation(following) is not None
        if not belongs or following.input is not paths[at][1].output:
            break
        at += 1
    return paths[at][0]


def nonlinearity(network: keras.Model, path: str) -> dict[str, Any]:
    """The layer's non-linearity as `HintRegressor` takes it: activation or pieces."""
    for layer in _backwards(network, path):
        if isinstance(layer, Maxout):
            return {"pieces": layer.pieces}
        name = _activation(layer)
        if name == "linear" and isinstance(layer, keras.layers.Activation):
            continue
        if name is not None:
            return {"activation": name}
        if not isinstance(layer, _CARRIERS):
            break
    return {}


def data_format(network: keras.Model, path: str) -> str:
    """Where the channels are in the output of the layer at a path."""
    for layer in _backwards(network, path):
        if hasattr(layer, "data_format"):
            return layer.data_format
    return keras.config.image_data_format()


def output_activations(network: keras.Model) -> list[str | None]:
    """For each output the name of the activation it ends in, None if it is unknown."""
    if not is_symbolic(network):
        return [None] * len(keras.tree.flatten(getattr(network, "output", [None])))
    if isinstance(network, keras.Sequential):
        return _final(network.layers, len(network.layers) - 1, 0)
    found: list[str | None] = []
    operations = network.operations
    for output in network.outputs:
        for i, operation in enumerate(operations):
            produced = keras.tree.flatten(operation.output)
            at = [j for j, tensor in enumerate(produced) if tensor is output]
            if at:
                found += _final(operations, i, at[0])
                break
        else:
            found.append(None)
    return found


def _final(operations: list[Any], i: int, output: int) -> list[str | None]:
    """What output number `output` of operation `i` ends in, as a list of one."""
    operation = operations[i]
    if isinstance(operation, keras.Model):
        return [output_activations(operation)[output]]
    name = _activation(operation)
    if name == "softmax" and getattr(operation, "axis", -1) != -1:
        return ["softmax over another axis than the last"]
    passes_on = isinstance(operation, _CARRIERS) or (
        name == "linear" and isinstance(operation, keras.layers.Activation)
    )
    if passes_on:
        before = [j for j in range(i) if operations[j].output is operation.input] or (
            [i - 1] if i else []
        )
        return _final(operations, before[-1], 0) if before else [None]
    if name is None and type(operation).__module__.split(".")[0] in (
        *("keras", "keras_fitnets", "keras_hub"),
    ):
        name = "linear"
    return [name]


def _activation(operation: Any) -> str | None:
    """The name of the activation that a layer or operation applies, if it has one."""
    known = _ACTIVATION_LAYERS.get(type(operation).__name__)
    if known:
        return known
    activation = getattr(operation, "activation", None)
    if activation is None:
        return None
    name = keras.activations.serialize(activation)
    return name if isinstance(name, str) else "custom"


def _backwards(network: keras.Model, path: str) -> Iterator[keras.layers.Layer]:
    """The layer at a path, then those it follows, as far as the chain is clear."""
    parent, _, name = path.rpartition("/")
    home = layer_at(network, parent) if parent else network
    layer = layer_at(network, path)
    while layer is not None:
        if isinstance(layer, keras.Model) and is_symbolic(layer):
            yield from _backwards(layer, layer.layers[-1].name)
            return
        yield layer
        siblings = list(children(home).values())
        try:
            before = [s for s in siblings if s.output is layer.input]
        except (AttributeError, ValueError):
            return
        layer = before[-1] if before else None


def same_shapes(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    """Whether two lists of shapes agree wherever both are known."""
    return len(one) == len(other) and all(
        len(a) == len(b)
        and all(m == n or None in (m, n) for m, n in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )
