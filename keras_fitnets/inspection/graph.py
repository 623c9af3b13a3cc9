"""The inputs, outputs and layers of a network, whatever kind of network it is.

A Functional or Sequential network shows its graph ("symbolic" below). A subclassed one
runs code that nobody can look into; of it only the layers in its attributes are known.
"""

import difflib
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.layers import Maxout
from keras_fitnets.utils.keras_private import get_build_shape


def is_symbolic(network: keras.Model) -> bool:
    """Whether the network is a graph of layers, Functional or Sequential."""
    if isinstance(network, keras.Sequential):
        return network.built
    # A subclassed network has no graph.
    if not isinstance(network, keras.Function):
        return False
    # Keras' class of Functional networks is not exported; it is the one that is both a
    # Function and a Model. A subclass with a `call` of its own shows another graph
    # than it runs.
    bases = type(network).__mro__
    functional: Any = next(base for base in bases if keras.Function in base.__bases__)
    return type(network).call is functional.call


def call_network(network: keras.Model, x: Any, training: bool) -> Any:
    """Return the network's outputs, whether or not its `call` takes `training`."""
    # Keras rejects an argument that `call` does not declare.
    parameters = inspect.signature(network.call).parameters.values()
    if any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters):
        return network(x, training=training)
    return network(x)


def make_flat_pass(network: keras.Model, like: Any) -> Callable[..., list[Any]]:
    """Return a function from flat tensors to the network's flat outputs.

    TensorFlow traces and exports functions of flat tensors more simply than functions
    of dictionaries. The pass is one of inference.

    Args:
        network: the network.
        like: inputs in the structure that the network takes.
    """

    def run_flat(*tensors: Any) -> list[Any]:
        x = keras.tree.pack_sequence_as(like, list(tensors))
        return keras.tree.flatten(call_network(network, x, training=False))

    return run_flat


def get_inputs(network: keras.Model) -> Any:
    """Return symbolic inputs like the network's own, or None if they are unknown."""
    # A Sequential network has one input; its `input` would be of the first layer, which
    # may be a network nested elsewhere too.
    if isinstance(network, keras.Sequential) and network.built:
        return network.inputs[0]
    if is_symbolic(network):
        return network.input
    shape = get_build_shape(network)
    if shape is None or not all(d is None or isinstance(d, int) for d in shape):
        # The network has several inputs, or has not been built yet.
        return None
    return keras.KerasTensor(shape, network.input_dtype)


def get_outputs(network: keras.Model, inputs: Any) -> Any:
    """Return the network's symbolic outputs.

    Args:
        network: the network.
        inputs: symbolic inputs, to trace a network that shows no graph.
    """
    if isinstance(network, keras.Sequential) and network.built:
        return network.outputs[0]
    if is_symbolic(network):
        return network.output
    return call_network(network, inputs, training=False)


def get_children(layer: keras.layers.Layer) -> dict[str, list[keras.layers.Layer]]:
    """Return the layers directly inside a layer, by name and by attribute.

    Several layers may share a name: each key has a list of different layers.
    """
    found: dict[str, list[keras.layers.Layer]] = {}

    def add(name: str, child: keras.layers.Layer) -> None:
        # A layer is often both in `layers` and in an attribute of its own name.
        known = found.setdefault(name, [])
        if not any(child is other for other in known):
            known.append(child)

    if isinstance(layer, keras.Model):
        for child in layer.layers:
            add(child.name, child)
    # The graph lists every layer, and attributes would add Keras' own bookkeeping.
    if isinstance(layer, keras.Model) and is_symbolic(layer):
        return found
    for attribute, value in vars(layer).items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, keras.layers.Layer):
                add(item.name, item)
                if item is value:
                    add(attribute, item)
    return found


def get_descendants(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return all layers inside a layer, however deep, each once, children first.

    The order is the same for every copy of a network: a teacher's fingerprint relies
    on it.
    """
    found: dict[int, keras.layers.Layer] = {}
    for named in get_children(layer).values():
        for child in named:
            for inner in [*get_descendants(child), child]:
                found.setdefault(id(inner), inner)
    return list(found.values())


def has_jit_support(networks: Sequence[keras.Model]) -> bool:
    """Whether XLA can compile every layer of the networks."""
    return all(
        layer.supports_jit
        for network in networks
        for layer in [network, *get_descendants(network)]
    )


def choose_dtype_policy(parts: Sequence[Any]) -> Any:
    """Return the dtype policy for a model that is made of these parts.

    Keras scales the loss, so that gradients in float16 do not round to zero, when the
    policy of the compiled model is "mixed_float16", whatever its layers compute in.

    Args:
        parts: the parts, the student first; what is not a layer is ignored.
    """
    roots = [part for part in parts if isinstance(part, keras.layers.Layer)]
    layers = [layer for root in roots for layer in [root, *get_descendants(root)]]
    dtypes = {layer.compute_dtype for layer in layers}
    if "float16" in dtypes:
        return "mixed_float16"
    return "float64" if "float64" in dtypes else roots[0].dtype_policy


def find_layer(network: keras.Model, path: str) -> keras.layers.Layer:
    """Return the layer at a path such as `"backbone/block3_out"`.

    Raises:
        ValueError: if there is no such layer, naming those that there are, or if
            several layers have the name.
    """
    layer = network
    for i, name in enumerate(path.split("/")):
        inside = get_children(layer)
        known = "/".join(path.split("/")[:i]) or f"network '{network.name}'"
        if name not in inside:
            close = difflib.get_close_matches(name, inside, 1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"There is no layer '{path}' in network '{network.name}': {known} has "
                f"no layer '{name}'.{hint} It has: {', '.join(inside) or 'none'}."
            )
        if len(inside[name]) > 1:
            raise ValueError(
                f"Layer '{path}' of network '{network.name}' could be any of "
                f"{len(inside[name])} layers: {known} has several of the name "
                f"'{name}'. Give them names of their own."
            )
        layer = inside[name][0]
    return layer


def iterate_leaves(network: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each path and layer of a symbolic network, with nested networks opened."""
    for layer in network.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model) and is_symbolic(layer):
            yield from iterate_leaves(layer, path + "/")
        else:
            yield path, layer


def find_middle_layer(network: keras.Model) -> str:
    """Return the path of the middle one of the network's hidden layers.

    Layers with a kernel are counted, without the output layer; of an even number the
    earlier of the two in the middle is taken. If normalisation or a non-linearity
    follows it, the path is that of the last of these: their output is the feature.

    Raises:
        ValueError: if the network is not symbolic, or has no hidden layer.
    """
    if not is_symbolic(network):
        raise ValueError(
            'hints="middle" needs Functional or Sequential networks; '
            f"'{network.name}' is a {type(network).__name__}. Name the layers: "
            'hints=("hint_layer", "guided_layer").'
        )
    paths = list(iterate_leaves(network))
    # A kernel has more than one dimension; a bias, or a scale and shift, has one.
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
    middle = kernels[:-1][(len(kernels) - 2) // 2]
    layers = keras.layers
    followers = (
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
        *(layers.BatchNormalization, layers.LayerNormalization, Maxout),
    )
    # Layers are listed in the order in which they were made, so the next one in the
    # list need not follow in the graph: its input must be this one's output.
    while middle + 1 not in kernels:
        following = paths[middle + 1][1]
        if (
            not isinstance(following, followers)
            or following.input is not paths[middle][1].output
        ):
            break
        middle += 1
    return paths[middle][0]


def has_same_shapes(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    """Whether two lists of shapes agree wherever both are known."""
    return len(one) == len(other) and all(
        len(a) == len(b)
        and all(m == n or None in (m, n) for m, n in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def has_same_structure(one: Any, other: Any) -> bool:
    """Whether two structures of tensors have the same keys, if any, and shapes."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() != other.keys():
        return False
    # Lists, tuples and the order of a dictionary's keys do not matter: Keras flattens
    # all of them alike.
    shapes = [
        [tuple(tensor.shape) for tensor in keras.tree.flatten(structure)]
        for structure in (one, other)
    ]
    return has_same_shapes(shapes[0], shapes[1])


def format_shapes(tensors: Any) -> Any:
    """Return a structure of tensors as one of shapes, to be read in a message."""
    return keras.tree.map_structure(lambda tensor: str(tuple(tensor.shape)), tensors)


def check_built(network: keras.Model) -> keras.Model:
    """Return the network, or raise a `ValueError` if it has no weights yet."""
    if not network.built:
        raise ValueError(
            f"Network '{network.name}' has no weights yet, since its input shape is "
            "unknown. Start it with keras.Input(...), or call it on a batch."
        )
    return network
