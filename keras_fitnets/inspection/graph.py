"""The inputs, outputs and layers of a network, whatever kind of network it is.

A Functional or Sequential network shows its graph ("symbolic" below). A subclassed one
runs code that nobody can look into; of it only the layers in its attributes are known.
"""

import difflib
import inspect
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets import backend
from keras_fitnets.layers import Maxout
from keras_fitnets.utils.keras_private import get_build_shape
from keras_fitnets.utils.keras_private import get_producer


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
    takes = any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)
    with backend.keep_logits(lambda: get_descendants(network)):
        return network(x, training=training) if takes else network(x)


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


def get_batch_size(network: keras.Model) -> int | None:
    """Return the size of batch that a network's inputs are fixed to, None without one.

    `keras.Input(..., batch_size=4)` fixes it.
    """
    inputs = keras.tree.flatten(get_inputs(network)) if is_symbolic(network) else []
    return next((i.shape[0] for i in inputs if i.shape[0] is not None), None)


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

    A layer in a Python list or dictionary has the key `"blocks/0"`. Several layers may
    share a name: each key has a list of different layers.
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
    attributes = dict(vars(layer))
    # On PyTorch a layer keeps those of its attributes that are layers apart.
    attributes |= attributes.pop("_modules", {})
    for attribute, value in attributes.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, keras.layers.Layer):
                add(item.name, item)
                if item is value:
                    add(attribute, item)
        # Keras' own list of all layers has no meaning for the user.
        if attribute != "_layers":
            for key, item in _iterate_container(value, attribute):
                add(key, item)
    return found


def _iterate_container(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers in a list or dictionary of an attribute, with their paths."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        if isinstance(item, keras.layers.Layer):
            yield f"{path}/{key}", item
        else:
            yield from _iterate_container(item, f"{path}/{key}")


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
    return "float64" if "float64" in dtypes else get_plain_policy(roots[0])


def get_plain_policy(layer: keras.layers.Layer) -> Any:
    """Return a layer's dtype policy, without the quantization of its weights.

    A layer behind a quantized one is not quantized itself: an int8 kernel cannot be
    trained.
    """
    policy = layer.dtype_policy
    if policy.quantization_mode is None:
        return policy
    compute, variable = policy.compute_dtype, policy.variable_dtype
    return keras.DTypePolicy(compute if compute == variable else f"mixed_{compute}")


def find_layer(network: keras.Model, path: str) -> keras.layers.Layer:
    """Return the layer at a path such as `"backbone/block3_out"`.

    Raises:
        ValueError: if there is no such layer, naming those that there are, or if
            several layers have the name.
    """
    return _walk(network, path)[-1][1]


def _walk(network: keras.Model, path: str) -> list[tuple[str, keras.layers.Layer]]:
    """Return the layers on the way to the one at a path, each with its key.

    Raises:
        ValueError: as `find_layer`.
    """
    steps: list[tuple[str, keras.layers.Layer]] = []
    layer: keras.layers.Layer = network
    known, rest = f"network '{network.name}'", path.split("/")
    while rest:
        inside = get_children(layer)
        # The key of a layer in a Python list has a slash itself, as "blocks/0".
        keys = ["/".join(rest[:n]) for n in range(1, len(rest) + 1)]
        name = next((key for key in keys if key in inside), rest[0])
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
                f"'{name}'. Give them names of their own, or use their paths: "
                f"{', '.join(key for key in inside if '/' in key) or 'there are none'}."
            )
        layer = inside[name][0]
        steps.append((name, layer))
        rest = rest[name.count("/") + 1 :]
        known = path[: len(path) - len("/".join(rest)) - bool(rest)]
    return steps


class Place(NamedTuple):
    """Where a layer is in its network, whatever its name.

    Keras numbers layers without a name as they are made, "dense_3", so that in another
    process the same name may be that of another layer.

    Attributes:
        position: that in `get_descendants`.
        kind: the name of its class.
    """

    position: int
    kind: str


def find_place(network: keras.Model, path: str) -> Place:
    """Return the place of the layer at a path.

    Raises:
        ValueError: as `find_layer`.
    """
    layer = find_layer(network, path)
    layers = get_descendants(network)
    index = next(i for i, other in enumerate(layers) if other is layer)
    return Place(index, type(layer).__name__)


def has_made_up_name(network: keras.Model, path: str) -> bool:
    """Whether Keras named the layer at a path, or a network on the way to it."""
    return any(
        key == layer.name and is_made_up_name(key, type(layer).__name__)
        for key, layer in _walk(network, path)
    )


def relocate(network: keras.Model, path: str, place: Place) -> str:
    """Return the path, in this process, of a layer that was saved in another one.

    Args:
        network: the network, made anew.
        path: the path of the layer in the process that saved it.
        place: its place there.

    Raises:
        ValueError: if neither path nor place is that of the layer.
    """
    layers = get_descendants(network)
    at_place = layers[place.position] if place.position < len(layers) else None
    try:
        named = find_layer(network, path)
    except ValueError:
        named = None
    # A name that the user gave is right wherever the layer is.
    if named is not None and (named is at_place or not has_made_up_name(network, path)):
        return path
    if at_place is not None and type(at_place).__name__ == place.kind:
        last = path.split("/")[-1]
        is_same_name = at_place.name == last or (
            is_made_up_name(last, place.kind)
            and is_made_up_name(at_place.name, place.kind)
        )
        new_path = _find_path(network, at_place) if is_same_name else None
        if new_path is not None:
            return new_path
    found = "nothing" if at_place is None else f"'{at_place.name}', a "
    found += "" if at_place is None else type(at_place).__name__
    raise ValueError(
        f"Layer '{path}' of network '{network.name}' was a {place.kind} at position "
        f"{place.position} among its layers when it was saved; there is {found} now. "
        "Load it with the code that it was saved with, or give the layers names of "
        "their own before saving."
    )


def _find_path(network: keras.layers.Layer, wanted: keras.layers.Layer) -> str | None:
    """Return a path that leads to a layer, None if there is none."""
    children = get_children(network)
    for name, [child, *others] in children.items():
        if child is wanted and not others:
            return name
    for name, [child, *others] in children.items():
        inner = None if others else _find_path(child, wanted)
        if inner is not None:
            return f"{name}/{inner}"
    return None


def is_made_up_name(name: str, kind: str) -> bool:
    """Whether Keras gives a layer of this class such a name: "dense_3" to a Dense."""
    # Keras writes the class in snake case and appends a number.
    return re.sub(r"_\d+$", "", name).replace("_", "") == kind.lower().replace("_", "")


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

    Layers with a kernel are counted, without the output layers, without embeddings,
    which look their outputs up, and without layers that are run more than once; of an
    even number the earlier of the two in the middle is taken. Of a network with several
    outputs those layers are counted that lead to more than one: the others belong to
    the heads. If normalisation or a non-linearity follows the middle layer, the path is
    that of the last of these: their output is the feature.

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
    leading = [_find_runs(output) for output in keras.tree.flatten(network.outputs)]
    if len(leading) == 1:
        # The output layer comes first on the way back. It need not be the last in the
        # list: that of a language model may be its first, the embedding, transposed.
        places = {id(paths[i][1]): i for i in kernels}
        output_layer = next((places[key] for key in leading[0] if key in places), None)
        hidden = [i for i in kernels if i != output_layer]
    else:
        hidden = [
            i for i in kernels if sum(id(paths[i][1]) in runs for runs in leading) > 1
        ]
    hidden = [i for i in hidden if _computes_one_feature(paths[i][1], leading)]
    if not hidden:
        raise ValueError(
            f"hints=\"middle\" needs a network with hidden layers; '{network.name}' "
            f"has {len(kernels)} layer(s) with a kernel, the output included, and "
            f"{len(leading)} output(s). Name the layers: "
            'hints=("hint_layer", "guided_layer").'
        )
    middle = hidden[(len(hidden) - 1) // 2]
    layers = keras.layers
    followers = (
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
        *(layers.BatchNormalization, layers.LayerNormalization, Maxout),
    )
    # Layers are listed in the order in which they were made, so the next one in the
    # list need not follow in the graph: its input must be this one's output.
    while middle + 1 < len(paths) and middle + 1 not in kernels:
        following = paths[middle + 1][1]
        if (
            not isinstance(following, followers)
            or following.input is not paths[middle][1].output
        ):
            break
        middle += 1
    return paths[middle][0]


def _computes_one_feature(
    layer: keras.layers.Layer, leading: list[dict[int, set[tuple[int, ...]]]]
) -> bool:
    """Whether a layer can be a hint: no embedding, and run at most once."""
    runs: set[tuple[int, ...]] = set()
    for one in leading:
        runs |= one.get(id(layer), set())
    # A library's own embeddings are known by their names, as `PositionEmbedding` is.
    return len(runs) <= 1 and not type(layer).__name__.endswith("Embedding")


def _find_runs(output: Any) -> dict[int, set[tuple[int, ...]]]:
    """Return the layers that an output of a graph depends on, and their runs.

    Returns:
        For the identity of each layer the identities of the tensors that it is given,
        once for each time that the layer is run.
    """
    found: dict[int, set[tuple[int, ...]]] = {}
    seen: set[int] = set()
    tensors = [output]
    while tensors:
        tensor = tensors.pop()
        producer = get_producer(tensor)
        if id(tensor) in seen or producer is None:
            continue
        seen.add(id(tensor))
        operation, inputs, tensor_index = producer
        if isinstance(operation, keras.Model) and is_symbolic(operation):
            # A nested network has a graph of its own, which ends at its inputs.
            inner = keras.tree.flatten(operation.outputs)[tensor_index]
            for layer, runs in _find_runs(inner).items():
                found.setdefault(layer, set()).update(runs)
        given = tuple(id(source) for source in inputs)
        found.setdefault(id(operation), set()).add(given)
        tensors.extend(inputs)
    return found


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
