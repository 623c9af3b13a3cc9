"""What a network is made of: its inputs, its outputs, its layers by path."""

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
    if not isinstance(network, keras.Function):
        return False
    # Keras' class of Functional networks is not exported; it is the one that is both a
    # Function and a Model. A subclass with a `call` of its own shows another graph
    # than it runs.
    bases = type(network).__mro__
    functional: Any = next(base for base in bases if keras.Function in base.__bases__)
    return type(network).call is functional.call


def call_network(network: keras.Model, x: Any, training: bool) -> Any:
    """The network's outputs, whether or not its `call` knows `training`."""
    parameters = inspect.signature(network.call).parameters.values()
    if any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters):
        return network(x, training=training)
    return network(x)


def make_flat_pass(network: keras.Model, like: Any) -> Callable[..., list[Any]]:
    """The pass outside of training as a function of tensors to a list of tensors.

    Args:
        network: the network.
        like: inputs of the structure that it takes.
    """

    def run_flat(*tensors: Any) -> list[Any]:
        x = keras.tree.pack_sequence_as(like, list(tensors))
        return keras.tree.flatten(call_network(network, x, training=False))

    return run_flat


def get_inputs(network: keras.Model) -> Any:
    """Symbolic inputs like the network's own, or None if they are not known."""
    if isinstance(network, keras.Sequential) and network.built:
        return network.inputs[0]
    if is_symbolic(network):
        return network.input
    shape = get_build_shape(network)
    if shape is None or not all(d is None or isinstance(d, int) for d in shape):
        return None
    return keras.KerasTensor(shape, network.input_dtype)


def get_outputs(network: keras.Model, inputs: Any) -> Any:
    """The network's symbolic outputs; `inputs` trace one that shows no graph."""
    if isinstance(network, keras.Sequential) and network.built:
        return network.outputs[0]
    if is_symbolic(network):
        return network.output
    return call_network(network, inputs, training=False)


def get_children(layer: keras.layers.Layer) -> dict[str, list[keras.layers.Layer]]:
    """The layers directly inside a layer, by name and by attribute."""
    found: dict[str, list[keras.layers.Layer]] = {}

    def add(name: str, child: keras.layers.Layer) -> None:
        known = found.setdefault(name, [])
        if not any(child is other for other in known):
            known.append(child)

    if isinstance(layer, keras.Model):
        for child in layer.layers:
            add(child.name, child)
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
    """All layers inside a layer, however deep."""
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
    """A dtype policy such that `compile` scales the loss where float16 is computed.

    Args:
        parts: the student first; what is no layer is passed over.
    """
    roots = [part for part in parts if isinstance(part, keras.layers.Layer)]
    layers = [layer for root in roots for layer in [root, *get_descendants(root)]]
    dtypes = {layer.compute_dtype for layer in layers}
    if "float16" in dtypes:
        return "mixed_float16"
    return "float64" if "float64" in dtypes else roots[0].dtype_policy


def find_layer(network: keras.Model, path: str) -> keras.layers.Layer:
    """The layer at a path such as `"backbone/block3_out"`.

    Raises:
        ValueError: if there is none, naming the layers that there are, or several.
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
    """Each path and layer of a symbolic network, nested networks opened."""
    for layer in network.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model) and is_symbolic(layer):
            yield from iterate_leaves(layer, path + "/")
        else:
            yield path, layer


def find_middle_layer(network: keras.Model) -> str:
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
    paths = list(iterate_leaves(network))
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
    layers = keras.layers
    behind = (
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
        *(layers.BatchNormalization, layers.LayerNormalization, Maxout),
    )
    while at + 1 not in kernels:
        following = paths[at + 1][1]
        if (
            not isinstance(following, behind)
            or following.input is not paths[at][1].output
        ):
            break
        at += 1
    return paths[at][0]


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
    flat = [keras.tree.flatten(structure) for structure in (one, other)]
    return has_same_shapes(*[[tuple(tensor.shape) for tensor in f] for f in flat])


def format_shapes(tensors: Any) -> Any:
    """A structure of tensors as one of shapes, to be read in a message."""
    return keras.tree.map_structure(lambda tensor: str(tuple(tensor.shape)), tensors)


def check_built(network: keras.Model) -> keras.Model:
    """The network, if it has weights."""
    if not network.built:
        raise ValueError(
            f"Network '{network.name}' has no weights yet, since its input shape is "
            "unknown. Start it with keras.Input(...), or call it on a batch."
        )
    return network
