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
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

# ── What Keras attaches to tensors ──────────────────────────────────────────────────


def get_mask(tensor: Any) -> Any:
    """Return the mask of a Keras layer's output, or None.

    Keras 3.15 keeps it in `_keras_mask`. Its own `get_keras_mask` is not exported, and
    `Layer.compute_mask` would compute it anew from inputs that are not at hand.
    """
    return getattr(tensor, "_keras_mask", None)


def get_logits(outputs: Any) -> Any:
    """Return the logits behind a softmax's or sigmoid's outputs, or None.

    Keras 3.15 keeps them in `_keras_logits` where the TensorFlow backend computed the
    outputs, and its own crossentropies read them there, because the logarithm of a
    probability that was rounded to 0 or 1 has lost them. Nothing public returns them.
    """
    return getattr(outputs, "_keras_logits", None)


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
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return Producer(history.operation, node.input_tensors, history.tensor_index)


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


def get_build_shape(network: keras.Model) -> Any:
    """Return the input shape that a network without a graph was built for, or None.

    `get_build_config` is public; its key "input_shape" is not documented (Keras 3.15).
    A network with several inputs, or with a `build` of its own, may have another key.
    """
    config = network.get_build_config() if network.built else None
    return (config or {}).get("input_shape")


# Which function to call with the outputs of the hooked layers, one for each thread:
# replicas are traced in threads that take turns in the middle of a forward pass.
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
    before = getattr(_thread, "on_output", None)
    _thread.on_output = on_output
    for layer in layers:
        _change_hooks(layer, +1)
    try:
        yield
    finally:
        for layer in layers:
            _change_hooks(layer, -1)
        _thread.on_output = before


def _change_hooks(layer: keras.layers.Layer, change: int) -> None:
    """Count the hooks on a layer; its `call` is replaced while there are any."""
    call = layer.call
    if not hasattr(call, "_hook_count"):

        @functools.wraps(call)
        def hooked_call(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            on_output = getattr(_thread, "on_output", None)
            if on_output is not None:
                on_output(layer, outputs)
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


def get_compiled_loss(model: keras.Model) -> Callable[..., Any]:
    """Return the compiled loss as a function of labels, outputs and sample weights.

    The public `compute_loss` of Keras 3.15 adds the regularisation losses to it, and
    `keras.losses.get` builds the loss of a single output alone.
    """
    return model._compile_loss


def get_loss_weights(model: keras.Model) -> Any:
    """Return the `loss_weights` that `compile` was given, or None.

    Keras 3.15 keeps them in its compiled loss alone; the public `get_compile_config`
    serialises the losses as well, which fails for a function of the user's own.
    """
    return model._compile_loss._user_loss_weights


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


def get_dtype_policy_name(config: Any) -> str | None:
    """Return the name of the dtype policy that a serialised object is, or None.

    Keras 3.15 writes a policy as {"class_name": "DTypePolicy", "config": {"name": …}}.
    """
    if isinstance(config, dict) and config.get("class_name") == "DTypePolicy":
        return config["config"]["name"]
    return None
