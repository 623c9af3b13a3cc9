"""Forward passes that also return the outputs of some hidden layers.

A network that shows its graph is rebuilt with the hidden layers as further outputs. In
any other network hooks on the layers catch their outputs while it runs. Both cost no
more than the forward pass itself, and `extract` computes nothing above its layers.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import get_producer
from keras_fitnets.utils.keras_private import hook_layers
from keras_fitnets.utils.keras_private import run_graph


class FeatureExtractor(Protocol):
    """A network together with the outputs of some of its hidden layers.

    Attributes:
        shapes: the shape of each layer's output, without the batch.
    """

    shapes: list[tuple[int | None, ...]]

    def outputs_and_features(self, x: Any, training: bool) -> tuple[Any, list[Any]]:
        """Return the network's outputs and those of the layers, from one pass."""

    def extract(self, x: Any, training: bool, wanted: Sequence[int]) -> list[Any]:
        """Return the outputs of some of the layers, computing nothing above them."""

    def trainable_variables(self, wanted: Sequence[int]) -> list[Any]:
        """Return the variables that `extract` of these layers can train."""

    def losses(self, wanted: Sequence[int]) -> list[Any]:
        """Return the regularisation and `add_loss` terms of the last `extract`."""

    def layers_before(self, wanted: Sequence[int]) -> list[keras.layers.Layer]:
        """Return the layers that `extract` of these layers runs, however deep."""


def create_feature_extractor(
    network: keras.Model, paths: Sequence[str], inputs: Any
) -> FeatureExtractor:
    """Return a feature extractor for some layers of a network.

    Args:
        network: the network, Functional, Sequential or subclassed.
        paths: the paths of the layers; a path may occur twice.
        inputs: symbolic inputs, to trace a network that shows no graph.

    Raises:
        ValueError: if a layer does not exist, is the input, is not run exactly once,
            or returns anything but one tensor of floats.
    """
    for path in paths:
        if isinstance(graph.find_layer(network, path), keras.layers.InputLayer):
            raise ValueError(
                f"Layer '{path}' of network '{network.name}' is its input, which no "
                "weight can change. Choose a hidden layer."
            )
    # The graph must reach from the inputs to the layers, through all nested networks.
    has_graph = graph.is_symbolic(network) and all(
        isinstance(layer, keras.Model) and graph.is_symbolic(layer)
        for path in paths
        for layer in _find_containers(network, path)
    )
    if has_graph and _has_unique_names(network, paths):
        return GraphFeatureExtractor(network, paths)
    return HookFeatureExtractor(network, paths, inputs)


class GraphFeatureExtractor:
    """Sub-networks of a Functional or Sequential network that share its layers.

    Nested networks are opened, so that a sub-network can end at a layer inside one.
    """

    def __init__(self, network: keras.Model, paths: Sequence[str]) -> None:
        # Inputs of our own: a graph that ends inside a nested network cannot start at
        # the network's inputs, because the tensors inside belong to another graph.
        self._inputs = keras.tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape,
                dtype=x.dtype,
                name=x.name,
                sparse=getattr(x, "sparse", None),
                optional=_is_optional(x),
            ),
            graph.get_inputs(network),
        )
        found: dict[str, list[Any]] = {}
        self._outputs = _rebuild_graph(network, self._inputs, set(paths), found)
        self._tensors = [_check_one_tensor(network, path, found) for path in paths]
        outputs = keras.tree.flatten(self._outputs)
        self.shapes = [tuple(tensor.shape)[1:] for tensor in self._tensors]
        self._full = keras.Model(self._inputs, [*outputs, *self._tensors])
        self._parts: dict[tuple[int, ...], keras.Model] = {}

    def outputs_and_features(self, x: Any, training: bool) -> tuple[Any, list[Any]]:
        flat = keras.tree.flatten(graph.call_network(self._full, x, training))
        count = len(self._tensors)
        outputs = keras.tree.pack_sequence_as(self._outputs, flat[:-count])
        return outputs, flat[-count:]

    def extract(self, x: Any, training: bool, wanted: Sequence[int]) -> list[Any]:
        return keras.tree.flatten(self._part(wanted)(x, training=training))

    def trainable_variables(self, wanted: Sequence[int]) -> list[Any]:
        return self._part(wanted).trainable_variables

    def losses(self, wanted: Sequence[int]) -> list[Any]:
        return self._part(wanted).losses

    def layers_before(self, wanted: Sequence[int]) -> list[keras.layers.Layer]:
        return graph.get_descendants(self._part(wanted))

    def _part(self, wanted: Sequence[int]) -> keras.Model:
        # Each stage asks for the same few layers in every step: make their sub-network
        # once.
        key = tuple(wanted)
        if key not in self._parts:
            tensors = [self._tensors[i] for i in key]
            self._parts[key] = keras.Model(self._inputs, tensors)
        return self._parts[key]


class HookFeatureExtractor:
    """Any network, with hooks on its layers while it runs.

    `extract` stops the forward pass as soon as the last of its layers has been called.
    """

    def __init__(self, network: keras.Model, paths: Sequence[str], inputs: Any) -> None:
        if not network.built or inputs is None:
            raise ValueError(
                f"Network '{network.name}' is a {type(network).__name__} whose graph "
                "or input shape is not known, so its layers cannot be reached yet. "
                "Call it on a batch first, or build it as a Functional network."
            )
        self._network = network
        self._paths = list(paths)
        self._layers = [graph.find_layer(network, path) for path in paths]
        # A symbolic pass tells which layers are called, in which order, and how often.
        # On PyTorch Keras makes two, with other sizes in place of those unknown.
        within = graph.get_descendants(network)
        passes: list[list[tuple[Any, Any]]] = []

        def note_call(layer: Any, outputs: Any) -> None:
            passes[-1].append((layer, outputs))

        # Called on symbolic inputs, a network with `compute_output_shape` would not be
        # run at all; inside a Lambda layer it is.
        def run(x: Any) -> Any:
            passes.append([])
            return graph.call_network(network, x, training=False)

        probe = keras.layers.Lambda(run)
        with hook_layers(within, note_call):
            probe(inputs)
        order = [layer for layer, _ in passes[-1]]
        # The outputs of each layer are checked once here, rather than in every step.
        tensors: list[list[Any]] = []
        for calls in passes:
            found: dict[str, list[Any]] = {}
            for path, layer in zip(paths, self._layers, strict=True):
                found[path] = [outputs for heard, outputs in calls if heard is layer]
            tensors.append([_check_one_tensor(network, path, found) for path in paths])
        self.shapes = [
            _merge_shapes(of_path)[1:] for of_path in zip(*tensors, strict=True)
        ]
        self._ends = [order.index(layer) for layer in self._layers]
        self._order = order
        self._within = within
        self._leaves = [layer for layer in within if not graph.get_children(layer)]

    def outputs_and_features(self, x: Any, training: bool) -> tuple[Any, list[Any]]:
        heard: dict[int, Any] = {}

        def on_output(layer: Any, outputs: Any) -> None:
            heard[id(layer)] = outputs

        with hook_layers(self._layers, on_output):
            outputs = graph.call_network(self._network, x, training)
        return outputs, [heard[id(layer)] for layer in self._layers]

    def extract(self, x: Any, training: bool, wanted: Sequence[int]) -> list[Any]:
        layers = [self._layers[i] for i in wanted]
        heard: dict[int, Any] = {}

        def on_output(layer: Any, outputs: Any) -> None:
            heard[id(layer)] = outputs
            if len(heard) == len({id(layer) for layer in layers}):
                raise _StopForward

        with contextlib.suppress(_StopForward), hook_layers(layers, on_output):
            graph.call_network(self._network, x, training)
        return [heard[id(layer)] for layer in layers]

    def trainable_variables(self, wanted: Sequence[int]) -> list[Any]:
        # Variables outside of any leaf layer, in the network itself, may be used
        # anywhere: only those of leaves above the wanted layers are left out.
        below = {id(leaf) for leaf in self._leaves_below(wanted)}
        above = {
            id(variable)
            for leaf in self._leaves
            if id(leaf) not in below
            for variable in leaf.trainable_variables
        }
        variables = self._network.trainable_variables
        return [v for v in variables if id(v) not in above]

    def losses(self, wanted: Sequence[int]) -> list[Any]:
        return [loss for leaf in self._leaves_below(wanted) for loss in leaf.losses]

    def layers_before(self, wanted: Sequence[int]) -> list[keras.layers.Layer]:
        # A layer that only training calls is not in the order, and may come first.
        end = max(self._ends[i] for i in wanted)
        before = {id(layer) for layer in self._order[: end + 1]}
        later = {id(layer) for layer in self._order[end + 1 :]} - before
        return [layer for layer in self._within if id(layer) not in later]

    def _leaves_below(self, wanted: Sequence[int]) -> list[Any]:
        # A layer is in the order when its call has returned: all that it used is
        # before.
        end = max(self._ends[i] for i in wanted)
        called = {id(layer) for layer in self._order[: end + 1]}
        return [leaf for leaf in self._leaves if id(leaf) in called]


class _StopForward(BaseException):
    """Ends a forward pass early; no `except Exception` on the way may catch it."""


def _rebuild_graph(
    network: keras.Model,
    inputs: Any,
    wanted: set[str],
    found: dict[str, list[Any]],
    prefix: str = "",
) -> Any:
    """Call the network's layers again on symbolic inputs.

    Args:
        network: a symbolic network.
        inputs: symbolic inputs for it.
        wanted: the paths of the layers whose outputs are needed.
        found: receives for each of these paths the outputs of every call.
        prefix: the path of the network itself, with a slash, if it is nested.

    Returns:
        The network's outputs on these inputs.
    """

    def visit(operation: Any) -> Callable[..., Any]:
        path = prefix + operation.name

        def call(*args: Any, **kwargs: Any) -> Any:
            if any(other.startswith(path + "/") for other in wanted):
                outputs = _rebuild_graph(operation, args[0], wanted, found, path + "/")
            else:
                outputs = operation(*args, **kwargs)
            if path in wanted:
                found.setdefault(path, []).append(outputs)
            return outputs

        return call

    if isinstance(network, keras.Sequential):
        for layer in network.layers:
            inputs = visit(layer)(inputs)
        return inputs
    return run_graph(network, inputs, visit)


def _is_optional(tensor: Any) -> bool:
    """Whether an input of a network may be None."""
    producer = get_producer(tensor)
    return producer is not None and getattr(producer.operation, "optional", False)


def _check_one_tensor(
    network: keras.Model, path: str, found: dict[str, list[Any]]
) -> Any:
    calls = found.get(path, [])
    if len(calls) != 1:
        raise ValueError(
            f"Layer '{path}' is run {len(calls)} times in one pass of network "
            f"'{network.name}'; a hint needs a layer that is run once. Choose another, "
            "or put a `keras.layers.Identity` where the features should be taken."
        )
    tensors = keras.tree.flatten(calls[0])
    if len(tensors) != 1 or "float" not in keras.backend.standardize_dtype(
        tensors[0].dtype
    ):
        got = [f"{t.dtype} {tuple(t.shape)}" for t in tensors]
        raise ValueError(
            f"Layer '{path}' of network '{network.name}' must give one tensor of "
            f"floats; it gives {got}. Choose a layer behind it that does."
        )
    return tensors[0]


def _merge_shapes(tensors: Sequence[Any]) -> tuple[int | None, ...]:
    """Return the shape of a layer's outputs, None where a size is unknown.

    Args:
        tensors: its outputs in passes with other sizes in place of those unknown.
    """
    # On JAX an unknown size is a symbol.
    return tuple(
        sizes[0] if isinstance(sizes[0], int) and len(set(sizes)) == 1 else None
        for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)
    )


def _has_unique_names(network: keras.Model, paths: Sequence[str]) -> bool:
    """Whether a network's operations have names of their own, once it is opened.

    Keras takes no two operations of one name in a graph, and a layer of a nested
    network may be called as one outside of it.
    """
    names: list[str] = []

    def visit(container: keras.Model, prefix: str) -> None:
        for operation in getattr(container, "operations", container.layers):
            path = prefix + operation.name
            if any(other.startswith(path + "/") for other in paths):
                visit(operation, path + "/")
            elif not isinstance(operation, keras.layers.InputLayer):
                names.append(operation.name)

    visit(network, "")
    return len(set(names)) == len(names)


def _find_containers(network: keras.Model, path: str) -> list[keras.layers.Layer]:
    parts = path.split("/")
    upper = ["/".join(parts[:i]) for i in range(1, len(parts))]
    return [graph.find_layer(network, container) for container in upper]
