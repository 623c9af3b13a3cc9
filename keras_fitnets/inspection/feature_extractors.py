"""From a network and layer paths to the passes that compute just those layers."""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import hook_layers
from keras_fitnets.utils.keras_private import run_graph


class FeatureExtractor(Protocol):
    """A network together with the outputs of some of its hidden layers.

    Attributes:
        shapes: the shape of each layer's output, without the batch.
    """

    shapes: list[tuple[int | None, ...]]

    def outputs_and_features(self, x: Any, training: bool) -> tuple[Any, list[Any]]:
        """The network's outputs, and those of the layers, in one pass."""

    def extract(self, x: Any, training: bool, wanted: Sequence[int]) -> list[Any]:
        """The outputs of some of the layers; nothing above them is run."""

    def trainable_variables(self, wanted: Sequence[int]) -> list[Any]:
        """What can be trained in the pass `extract` those layers."""

    def losses(self, wanted: Sequence[int]) -> list[Any]:
        """Regularisation and `add_loss` terms of the last pass `extract` those "
        "layers."""


def create_feature_extractor(
    network: keras.Model, paths: Sequence[str], inputs: Any
) -> FeatureExtractor:
    """The passes through a network that also give the outputs of some layers.

    Args:
        network: the network, Functional, Sequential or subclassed.
        paths: the paths of the layers; one may stand there twice.
        inputs: symbolic inputs to trace a network with that shows no graph.

    Raises:
        ValueError: if a layer does not exist, is the input or an output, is not run
            exactly once, or gives anything but one tensor of floats.
    """
    for path in paths:
        if isinstance(graph.find_layer(network, path), keras.layers.InputLayer):
            raise ValueError(
                f"Layer '{path}' of network '{network.name}' is its input, and there "
                "is nothing to learn in it. Choose a hidden layer."
            )
    symbolic = graph.is_symbolic(network) and all(
        isinstance(layer, keras.Model) and graph.is_symbolic(layer)
        for path in paths
        for layer in _find_containers(network, path)
    )
    if symbolic:
        return GraphFeatureExtractor(network, paths)
    return HookFeatureExtractor(network, paths, inputs)


class GraphFeatureExtractor:
    """Sub-networks of a Functional or Sequential network, made of the same layers.

    Nested networks are opened, so that the graph ends at the layers asked for.
    """

    def __init__(self, network: keras.Model, paths: Sequence[str]) -> None:
        self._inputs = keras.tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape,
                dtype=x.dtype,
                name=x.name,
                sparse=getattr(x, "sparse", None),
                optional=getattr(x, "optional", False),
            ),
            graph.get_inputs(network),
        )
        found: dict[str, list[Any]] = {}
        self._outputs = _rebuild_graph(network, self._inputs, set(paths), found)
        self._tensors = [_check_one_tensor(network, path, found) for path in paths]
        outputs = keras.tree.flatten(self._outputs)
        for path, tensor in zip(paths, self._tensors, strict=True):
            if any(tensor is output for output in outputs):
                raise ValueError(
                    f"Layer '{path}' gives the output of network '{network.name}', "
                    "which the soft targets already teach. Choose a hidden layer."
                )
        self.shapes = [tuple(tensor.shape)[1:] for tensor in self._tensors]
        self._full = keras.Model(self._inputs, [*outputs, *self._tensors])
        self._parts: dict[tuple[int, ...], keras.Model] = {}

    def outputs_and_features(self, x: Any, training: bool) -> tuple[Any, list[Any]]:
        flat = keras.tree.flatten(self._full(x, training=training))
        count = len(self._tensors)
        outputs = keras.tree.pack_sequence_as(self._outputs, flat[:-count])
        return outputs, flat[-count:]

    def extract(self, x: Any, training: bool, wanted: Sequence[int]) -> list[Any]:
        return keras.tree.flatten(self._part(wanted)(x, training=training))

    def trainable_variables(self, wanted: Sequence[int]) -> list[Any]:
        return self._part(wanted).trainable_variables

    def losses(self, wanted: Sequence[int]) -> list[Any]:
        return self._part(wanted).losses

    def _part(self, wanted: Sequence[int]) -> keras.Model:
        key = tuple(wanted)
        if key not in self._parts:
            tensors = [self._tensors[i] for i in key]
            self._parts[key] = keras.Model(self._inputs, tensors)
        return self._parts[key]


class HookFeatureExtractor:
    """Any network, its layers hooked_call while it runs.

    `extract` stops the network as soon as the last of the layers has answered.
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
        within = graph.get_descendants(network)
        calls: list[tuple[Any, Any]] = []

        def note_call(layer: Any, outputs: Any) -> None:
            calls.append((layer, outputs))

        # In a Lambda even a network that knows its output shapes is really run.
        probe = keras.layers.Lambda(
            lambda x: graph.call_network(network, x, training=False)
        )
        with hook_layers(within, note_call):
            probe(inputs)
        order = [layer for layer, _ in calls]
        found: dict[str, list[Any]] = {}
        for path, layer in zip(paths, self._layers, strict=True):
            found[path] = [outputs for heard, outputs in calls if heard is layer]
        tensors = [_check_one_tensor(network, path, found) for path in paths]
        self.shapes = [tuple(tensor.shape)[1:] for tensor in tensors]
        self._ends = [order.index(layer) for layer in self._layers]
        self._order = order
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

    def _leaves_below(self, wanted: Sequence[int]) -> list[Any]:
        end = max(self._ends[i] for i in wanted)
        called = {id(layer) for layer in self._order[: end + 1]}
        return [leaf for leaf in self._leaves if id(leaf) in called]


class _StopForward(BaseException):
    """Unwinds a forward pass; no `except Exception` on the way may hold it up."""


def _rebuild_graph(
    network: keras.Model,
    inputs: Any,
    wanted: set[str],
    found: dict[str, list[Any]],
    prefix: str = "",
) -> Any:
    """Call the network's layers again on symbolic inputs, noting what is wanted."""

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


def _find_containers(network: keras.Model, path: str) -> list[keras.layers.Layer]:
    parts = path.split("/")
    upper = ["/".join(parts[:i]) for i in range(1, len(parts))]
    return [graph.find_layer(network, container) for container in upper]
