"""Everything private of Keras that this package relies on, in one place.

Keras promises nothing about what stands here: names with a leading underscore, keys of
its configurations, its layers' `call` as an attribute. Each function or class says
why no public way would do and with which version of Keras that was checked last.
`tests/utils/test_keras_private.py` pins the behaviour of each, so that a new Keras
which changes it fails there first, with a message that says what to change or delete.
No other module may read a private name of Keras (`tests/project/test_layering.py`).
"""

import contextlib
import functools
import inspect
import operator
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.common.tensor_attributes import get_tensor_attr
from keras.src.backend.common.tensor_attributes import set_tensor_attr

# ── What Keras attaches to tensors ──────────────────────────────────────────────────


def get_mask(tensor: Any) -> Any:
    """Return the mask of a Keras layer's output, or None.

    Keras 3.15 keeps it in `_keras_mask`, or, where a tensor takes no attributes, as on
    JAX, in a dictionary. Its `get_keras_mask`, which knows both, is not exported, and
    `Layer.compute_mask` would compute the mask anew from inputs that are not at hand.
    """
    return backend.get_keras_mask(tensor)


def get_logits(outputs: Any) -> Any:
    """Return the logits behind a softmax's or sigmoid's outputs, or None.

    Keras 3.15 keeps them in `_keras_logits` on TensorFlow and PyTorch, and its own
    crossentropies read them there, because the logarithm of a probability that was
    rounded to 0 or 1 has lost them. Nothing public returns them. On JAX, whose tensors
    take no attributes, `keep_logits` notes them where Keras notes masks.
    """
    return get_tensor_attr(outputs, "_keras_logits")


@contextlib.contextmanager
def keep_logits(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Note the logits behind each softmax and sigmoid that these layers compute.

    For JAX, where Keras 3.15 drops them.
    """

    def call_and_note(call: Any, logits: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(logits, *args, **kwargs)
        set_tensor_attr(outputs, "_keras_logits", logits)
        return outputs

    known = (keras.activations.softmax, keras.activations.sigmoid)
    ends = [one for one in layers if getattr(one, "activation", None) in known]
    before = [layer.activation for layer in ends]
    for layer, activation in zip(ends, before, strict=True):
        # Keras' own `__setattr__` would track what is assigned.
        noting = functools.partial(call_and_note, activation)
        object.__setattr__(layer, "activation", noting)
    softmaxes = [one for one in layers if isinstance(one, keras.layers.Softmax)]
    try:
        with wrap_layers(softmaxes, call_and_note):
            yield
    finally:
        for layer, activation in zip(ends, before, strict=True):
            object.__setattr__(layer, "activation", activation)


def set_mask_and_logits(tensor: Any, mask: Any, logits: Any) -> None:
    """Attach a mask and logits to a tensor, as Keras does; None attaches nothing.

    For parts of a network's outputs, and for the outputs of several devices together:
    TensorFlow's operations drop what Keras 3.15 has attached to their inputs.
    """
    if mask is not None:
        backend.set_keras_mask(tensor, mask)
    if logits is not None:
        set_tensor_attr(tensor, "_keras_logits", logits)


class Producer(NamedTuple):
    """The operation that made a symbolic tensor.

    Attributes:
        operation: the layer or other operation.
        inputs: the tensors that it was called on, flat.
        tensor_index: which of its outputs, flat, the tensor is.
    """

    operation: Any
    inputs: list[Any]
    tensor_index: int


def get_producer(tensor: Any) -> Producer | None:
    """Return which call of which operation made a symbolic tensor, if one did.

    The public `operation.input` and `operation.output` know the first call alone, so
    that they are wrong for a layer that is called twice. Keras 3.15 has no public
    successor of Keras 2's `get_output_at`; its authors name `_inbound_nodes`, see
    https://github.com/keras-team/keras/issues/20267.
    """
    node = _get_node(tensor)
    if node is None:
        return None
    history = tensor._keras_history
    return Producer(history.operation, node.input_tensors, history.tensor_index)


def _get_node(tensor: Any) -> Any:
    """Return the call of an operation that made a symbolic tensor, or None."""
    history = getattr(tensor, "_keras_history", None)
    return history and history.operation._inbound_nodes[history.node_index]


# ── Where variables have their values ───────────────────────────────────────────────


def in_stateless_scope() -> bool:
    """Whether a `keras.StatelessScope` stands in for the values of variables.

    Keras 3.15 enters one also to learn the shapes of outputs, before the first step.
    """
    return global_state.get_global_attribute("stateless_scope") is not None


@contextlib.contextmanager
def leave_stateless_scope() -> Iterator[None]:
    """Let variables read their own values in this block, not those of a scope.

    Keras 3.15 has the present `keras.StatelessScope` in a global attribute, and neither
    a public way to ask for it nor one to step out of it.
    """
    scope = global_state.get_global_attribute("stateless_scope")
    global_state.set_global_attribute("stateless_scope", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("stateless_scope", scope)


# ── What is in a network ────────────────────────────────────────────────────────────


def run_graph(
    network: keras.Model, inputs: Any, operation_fn: Callable[[Any], Any]
) -> Any:
    """Call a Functional network's operations on new inputs, and return its outputs.

    `keras.models.clone_model(call_function=...)` of Keras 3.15 comes close, but gives
    the clone inputs of its own: a network nested in another could not be opened, since
    its tensors would belong to another graph.

    Args:
        network: the Functional network.
        inputs: tensors in the structure of its inputs.
        operation_fn: gives for each operation what is called in its place.
    """
    return network._run_through_graph(inputs, operation_fn=operation_fn)


@contextlib.contextmanager
def hold_constants_as_arrays(network: keras.Model) -> Iterator[None]:
    """Hold the eager tensors in a network's graph as arrays inside this block.

    In `inputs * tf.constant(2.0)` the constant is an argument of an operation. A trace
    captures it, and `tf2onnx.convert.from_function` (1.17) takes all that is captured,
    but variables, for inputs of the file. An array becomes a constant. Keras 3.15 shows
    the arguments of an operation in no public way.
    """

    def to_array(value: Any) -> Any:
        return value.numpy() if hasattr(value, "numpy") else value

    replaced, seen, tensors = [], set(), keras.tree.flatten(network.outputs)
    while tensors:
        node = _get_node(tensors.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        arguments = node.arguments
        args, kwargs = arguments.convert(to_array)
        node.arguments = type(arguments)(*args, **kwargs)
        replaced.append((node, arguments))
        tensors.extend(node.input_tensors)
        # A nested network has a graph of its own.
        tensors.extend(keras.tree.flatten(getattr(node.operation, "outputs", [])))
    try:
        yield
    finally:
        for node, arguments in replaced:
            node.arguments = arguments


def get_build_shape(network: keras.Model) -> Any:
    """Return the input shape that a network without a graph was built for, or None.

    `get_build_config` is public; its key "input_shape" is not documented (Keras 3.15).
    A network with several inputs, or with a `build` of its own, may have another key.
    """
    config = network.get_build_config() if network.built else None
    return (config or {}).get("input_shape")


# What is hooked to which layers, one for each thread: replicas are traced in threads
# that take turns in the middle of a forward pass.
_thread = threading.local()


@contextlib.contextmanager
def hook_layers(
    layers: Sequence[keras.layers.Layer], on_output: Callable[[Any, Any], None]
) -> Iterator[None]:
    """Call `on_output(layer, outputs)` in this thread when one of `layers` was called.

    Keras 3.15 has no forward hooks, and `layer.output` exists in a graph alone: see
    https://github.com/keras-team/keras/issues/18634. So `call` of each layer is hidden
    by an attribute of the same name while any thread is inside this context.
    """
    listeners = {id(layer): on_output for layer in layers}
    with _set_hooks("listeners", listeners, layers):
        yield


@contextlib.contextmanager
def wrap_layers(
    layers: Sequence[keras.layers.Layer], wrapper: Callable[..., Any]
) -> Iterator[None]:
    """Call `wrapper(call, inputs, ...)` in this thread in place of the layers' `call`.

    The hooks of `hook_layers` hear what the wrapper returns.
    """
    wrappers = {id(layer): wrapper for layer in layers}
    with _set_hooks("wrappers", wrappers, layers):
        yield


@contextlib.contextmanager
def _set_hooks(
    kind: str, hooks: dict[int, Any], layers: Sequence[keras.layers.Layer]
) -> Iterator[None]:
    """Let these be the thread's hooks of one kind, by the layers' identity."""
    before = getattr(_thread, kind, {})
    setattr(_thread, kind, hooks)
    for layer in layers:
        _change_hooks(layer, +1)
    try:
        yield
    finally:
        for layer in layers:
            _change_hooks(layer, -1)
        setattr(_thread, kind, before)


def _change_hooks(layer: keras.layers.Layer, change: int) -> None:
    """Count the hooks on a layer; its `call` is replaced while there are any."""
    call = layer.call
    if not hasattr(call, "_hook_count"):

        @functools.wraps(call)
        def hooked_call(*args: Any, **kwargs: Any) -> Any:
            wrapper = getattr(_thread, "wrappers", {}).get(id(layer))
            run = call if wrapper is None else functools.partial(wrapper, call)
            outputs = run(*args, **kwargs)
            listener = getattr(_thread, "listeners", {}).get(id(layer))
            if listener is not None:
                listener(layer, outputs)
            return outputs

        hooked_call._hook_count = 0  # type: ignore[attr-defined]
        # Keras' own `__setattr__` tracks what is assigned, and would lock or save it.
        object.__setattr__(layer, "call", hooked_call)
    layer.call._hook_count += change
    if layer.call._hook_count == 0:
        object.__delattr__(layer, "call")


# ── What `compile` and `fit` keep to themselves ─────────────────────────────────────


def has_compiled_metrics(model: keras.Model) -> bool:
    """Whether `compile` was given metrics, which need labels.

    `model.metrics` of Keras 3.15 lists the loss tracker and a model's own metrics too,
    and those of `compile` only as one container of a private class.
    """
    return model._compile_metrics is not None


class OutputLoss(NamedTuple):
    """The label loss of one output, as `compile` has made it.

    Attributes:
        output: the position of the output among the flat outputs.
        loss: the `keras.losses.Loss`.
        weight: its factor in the sum of all losses, or None.
        tracker: the running mean that is logged, None where there is one loss alone.
    """

    output: int
    loss: Any
    weight: Any
    tracker: Any


def list_output_losses(
    model: keras.Model, labels: Sequence[Any], outputs: Any
) -> list[OutputLoss]:
    """Return the compiled losses with the outputs that they are for.

    Keras 3.15 evaluates them only together, and returns their sum, from which no value
    of one of several outputs can be had. `keras.losses.get` builds the loss of a single
    output alone, and the public `compute_loss` adds the regularisation losses.

    Args:
        model: the compiled model.
        labels: those of each output, None for an output without a loss.
        outputs: the model's outputs.
    """
    compiled = model._compile_loss
    if not compiled.built:
        compiled.build(keras.tree.pack_sequence_as(outputs, list(labels)), outputs)
    positions = keras.tree.pack_sequence_as(
        compiled._y_pred_build_structure, list(range(len(labels)))
    )
    trackers = compiled.metrics or [None] * len(compiled._flat_losses)
    return [
        OutputLoss(
            functools.reduce(operator.getitem, path, positions), loss, weight, tracker
        )
        for (path, loss, weight, _), tracker in zip(
            compiled._flat_losses, trackers, strict=True
        )
    ]


def get_loss_weights(model: keras.Model) -> Any:
    """Return the `loss_weights` that `compile` was given, or None.

    Keras 3.15 keeps them in its compiled loss alone; the public `get_compile_config`
    serialises the losses as well, which fails for a function of the user's own.
    """
    return model._compile_loss._user_loss_weights


def get_compiled_optimizer(model: keras.Model) -> Any:
    """Return what `compile` was given as `optimizer`.

    The public `get_compile_config` of Keras 3.15 serialises it, and losses and metrics
    along with it; what is not registered cannot be made anew of that.
    """
    return model._compile_config.config.get("optimizer", model.optimizer)


def get_optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's configuration, with its schedule as the object that it is.

    The public `get_config` of Keras 3.15 serialises a schedule, or fails where that
    has no `get_config`, and `optimizer.learning_rate` is the number of the next step.
    """
    # The rate of a wrapper, such as one that scales the loss, is that of its inner one.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = inner._learning_rate
    is_schedule = callable(rate) and not isinstance(rate, keras.Variable)
    if not is_schedule:
        return optimizer.get_config()
    # Keras tracks what is assigned, and Python alone need not know of this number.
    object.__setattr__(inner, "_learning_rate", 0.0)
    try:
        config = optimizer.get_config()
    finally:
        object.__setattr__(inner, "_learning_rate", rate)
    return config if inner is not optimizer else {**config, "learning_rate": rate}


def is_validation_of_fit(arguments: dict[str, Any]) -> bool:
    """Whether Keras' own `fit` calls `evaluate`, by the bound arguments of that call.

    `fit` of Keras 3.15 then passes `_use_cached_eval_dataset` as a further keyword. A
    flag set in a `fit` of our own would also hold when a callback evaluates other data.

    Args:
        arguments: `inspect.signature(evaluate).bind(...).arguments`.
    """
    return "_use_cached_eval_dataset" in arguments.get("kwargs", {})


class FitsOnWorkers(keras.Model):
    """A `keras.Model` whose `fit` runs in several processes.

    Under `MultiWorkerMirroredStrategy`, and under `MirroredStrategy` with a first batch
    that is shared out unevenly, Keras 3.15 reduces a whole batch before the first step
    as if it were one tensor, and fails:
    https://github.com/keras-team/keras/issues/20585.
    """

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Build on the part of a batch that is here, rather than on a mean of parts."""
        # The public `distribute_strategy` is never None: it hides that there is none.
        if iterator is not None and self._distribute_strategy is not None:
            local = self.distribute_strategy.experimental_local_results
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda value: local(value)[0], next(batches)
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)


def get_keras_arguments(callback: Any) -> set[str]:
    """Return the names of the arguments of Keras' own classes behind a callback.

    Keras' callbacks keep some of their arguments under the argument's name, and change
    them once, when the first epoch ends: they are configuration, not state. Keras
    3.15 has no way to ask a callback for its state; its classes are those whose
    module begins with "keras.".
    """
    own = [cls for cls in type(callback).__mro__ if cls.__module__.startswith("keras.")]
    return {name for cls in own for name in inspect.signature(cls).parameters}


# ── What an optimizer does with the learning rate ───────────────────────────────────


@contextlib.contextmanager
def scale_learning_rate(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Any], factor: float
) -> Iterator[None]:
    """Multiply an optimizer's learning rate by a factor, for some variables alone.

    The factor reaches whatever the optimizer does with the learning rate inside this
    block: its updates, and a decoupled weight decay. What it does afterwards, such as a
    moving average of the weights or a constraint, sees weights that were updated so.

    Keras 3.15 has one learning rate for all variables, but for the layers of a
    `MultiOptimizer`: see https://github.com/keras-team/keras/issues/21741. To scale the
    updates from outside would leave moving averages of the whole updates.

    Args:
        optimizer: the optimizer, built.
        variables: the variables; none of them for the learning rate as it is.
        factor: the factor.

    Raises:
        ValueError: for an optimizer that updates the variables in its own way.
    """
    inner = _list_inner_optimizers(optimizer) if variables else []
    scaled = [_ScaledSteps.get(one) for one in inner]
    for steps in scaled:
        steps.enter(variables, factor)
    try:
        yield
    finally:
        for steps in scaled:
            steps.leave()


def _list_inner_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers inside of one that passes its gradients on, or itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _list_inner_optimizers(optimizer.inner_optimizer)
    # A `MultiOptimizer` is not in the oldest version of Keras that is supported.
    multi_optimizer = getattr(keras.optimizers, "MultiOptimizer", None)
    if multi_optimizer is not None and isinstance(optimizer, multi_optimizer):
        return list(optimizer.optimizers)
    return [optimizer]


class _ScaledSteps:
    """Hides the methods of an optimizer in which it uses the learning rate.

    The replicas of a step are traced in threads that take turns: the methods are hidden
    until the last of them has left.
    """

    @classmethod
    def get(cls, optimizer: Any) -> "_ScaledSteps":
        """Return what hides an optimizer's methods already, or will."""
        steps = getattr(optimizer._backend_update_step, "__self__", None)
        return steps if isinstance(steps, cls) else cls(optimizer)

    def __init__(self, optimizer: Any) -> None:
        if type(optimizer).apply is not keras.optimizers.Optimizer.apply:
            raise ValueError(
                "`learning_rate_factor` needs an optimizer that updates variables in "
                f"`update_step`; {type(optimizer).__name__} defines `apply`. Leave "
                "`learning_rate_factor` at 1, or use another optimizer."
            )
        self._optimizer = optimizer
        self._update_step = optimizer._backend_update_step
        self._apply_weight_decay = optimizer._apply_weight_decay
        self._get_current_learning_rate = optimizer._get_current_learning_rate
        self._count = 0

    def enter(self, variables: Sequence[Any], factor: float) -> None:
        self._keys = {self._optimizer._var_key(variable) for variable in variables}
        self._factor = factor
        # That of the weight decay under way, which asks the optimizer for its rate.
        self._decay_factor = 1.0
        self._count += 1
        # Keras' own `__setattr__` would track what is assigned.
        for name, method in {
            "_backend_update_step": self.update_step,
            "_apply_weight_decay": self.apply_weight_decay,
            "_get_current_learning_rate": self.get_learning_rate,
        }.items():
            object.__setattr__(self._optimizer, name, method)

    def leave(self) -> None:
        self._count -= 1
        if self._count == 0:
            for name in ("_backend_update_step", "_apply_weight_decay"):
                object.__delattr__(self._optimizer, name)
            object.__delattr__(self._optimizer, "_get_current_learning_rate")

    def update_step(
        self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        # PyTorch's optimizers update all variables at once, and the others one by one.
        for is_scaled, factor in ((False, 1), (True, self._factor)):
            pairs = [
                (gradient, variable)
                for gradient, variable in zip(gradients, variables, strict=True)
                if self._is_scaled(variable) == is_scaled
            ]
            if pairs:
                self._update_step(*zip(*pairs, strict=True), learning_rate * factor)

    def apply_weight_decay(self, variables: Sequence[Any]) -> None:
        self._apply_weight_decay([v for v in variables if not self._is_scaled(v)])
        scaled = [v for v in variables if self._is_scaled(v)]
        # All replicas set the same value, and wait for each other in the decay.
        self._decay_factor = self._factor
        self._apply_weight_decay(scaled)
        self._decay_factor = 1.0

    def get_learning_rate(self) -> Any:
        learning_rate = self._get_current_learning_rate()
        if self._decay_factor == 1:
            return learning_rate
        return learning_rate * self._decay_factor

    def _is_scaled(self, variable: Any) -> bool:
        return self._optimizer._var_key(variable) in self._keys


# ── How models are saved ────────────────────────────────────────────────────────────


def is_legacy_file() -> bool:
    """Whether Keras is writing, or reading, a model in its former format, HDF5.

    That file has no assets. Keras 3.15 says so in a global attribute, and has no
    public way to ask; `keras.saving.save_model` does not call the model's own `save`.
    """
    return bool(global_state.get_global_attribute("use_legacy_config", False))


# ── How configurations are written ──────────────────────────────────────────────────

# Keys of `get_config` that change no output of a layer, and keys whose values name
# layers of a graph. Neither set is documented by Keras 3.15.
IDLE_CONFIG_KEYS = frozenset(
    ("name", "trainable", "shared_object_id", "build_config", "compile_config")
)
GRAPH_CONFIG_KEYS = frozenset(("inbound_nodes", "input_layers", "output_layers"))


def serialize_loss(loss: Any) -> Any:
    """Return a loss, an object or a function, as `serialize_keras_object` does, whole.

    `Huber.get_config` and `CosineSimilarity.get_config` of Keras 3.15 leave out `delta`
    and `axis`: a loaded loss would silently be another, see
    https://github.com/keras-team/keras/pull/23286. Keras keeps what it passes to the
    loss's function in `_fn_kwargs`.
    """
    config = keras.saving.serialize_keras_object(loss)
    if isinstance(loss, keras.losses.Loss):
        parameters = inspect.signature(type(loss)).parameters
        for name, value in getattr(loss, "_fn_kwargs", {}).items():
            if name in parameters:
                config["config"].setdefault(name, value)
    return config


def to_portable_optimizer(config: Any) -> Any:
    """Return a serialised optimizer that every backend of Keras can load.

    On PyTorch the optimizers of Keras 3.15 are classes of their own, whose module is
    written into the file: on another backend it would load PyTorch's optimizer.
    """
    if not isinstance(config, dict):
        return config
    config = {name: to_portable_optimizer(value) for name, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend."):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def get_dtype_policy_name(config: Any) -> str | None:
    """Return the name of the dtype policy that a serialised object is, or None.

    Keras 3.15 writes a policy as {"class_name": "DTypePolicy", "config": {"name": …}}.
    """
    if isinstance(config, dict) and config.get("class_name") == "DTypePolicy":
        return config["config"]["name"]
    return None
