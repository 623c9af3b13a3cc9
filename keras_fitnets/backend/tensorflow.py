"""How a step runs on TensorFlow: on a tape, with variables changed in place."""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_fitnets.backend.common import keep_logits
from keras_fitnets.backend.common import keep_variables
from keras_fitnets.backend.common import run_step
from keras_fitnets.backend.common import sync_variables

# TensorFlow cannot hold more than 2 GB of constants in a graph.
MAX_CONSTANT_BYTES = 2**30


def compute_gradients(
    function: Callable[[], tuple[Any, Any]], variables: Sequence[Any], first: Any
) -> tuple[list[Any], Any]:
    """Differentiate a loss with respect to variables.

    Args:
        function: returns the loss, and anything else.
        variables: the variables.
        first: tensors to be computed before the function runs.

    Returns:
        The gradients, None for a variable that the loss does not depend on, and what
        else the function has returned.
    """
    # Nothing else makes TensorFlow run the teacher before the student. If it ran them
    # side by side, the activations that the student keeps for its gradients and those
    # of the teacher would be in memory at the same time.
    tensors = [t for t in tf.nest.flatten(first) if tf.is_tensor(t)]
    with tf.control_dependencies(tensors), tf.GradientTape() as tape:
        loss, others = function()
    return tape.gradient(loss, variables), others


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    everything: Sequence[Any],
) -> None:
    """Let an optimizer update variables.

    Args:
        optimizer: the optimizer.
        gradients: the gradient of each variable.
        variables: the variables to update.
        everything: all variables that the optimizer was built for, in their order.
    """
    optimizer.apply(gradients, variables)


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Keep no operations of this block for gradients."""
    # A tape records what is inside of it alone.
    return contextlib.nullcontext()


def outside_step() -> contextlib.AbstractContextManager[Any]:
    """Read the true values of variables inside of this block, also within a step."""
    # Within a trace variables are symbolic.
    return tf.init_scope()


def is_traced() -> bool:
    """Whether a step is being traced, so that tensors have no values."""
    return not tf.executing_eagerly()


def is_stateless() -> bool:
    """Whether a step must be given the values of all variables that it reads."""
    return False


def compile_function(
    function: Callable[..., Any], variables: Sequence[Any], fold: bool = False
) -> Callable[..., Any]:
    """Return a function that changes no variable, compiled.

    Args:
        function: takes arrays, or structures of them, and returns tensors.
        variables: all variables that it may read.
        fold: whether the variables have one value for good.
    """
    # TensorFlow folds the constants of a normalisation into the kernel before it, which
    # saves the normalisation.
    constants = _to_constants(variables) if fold else []

    def run(*arguments: Any) -> Any:
        # Within the scope Keras collects assignments instead of making them.
        with keras.StatelessScope(state_mapping=constants):
            return function(*arguments)

    return tf.function(run, reduce_retracing=True, autograph=False)


def _to_constants(variables: Sequence[Any]) -> list[tuple[Any, tf.Tensor]]:
    """Return variables with their values as constants, nothing if they do not fit."""
    with tf.init_scope():
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    if sum(value.nbytes for value in values) > MAX_CONSTANT_BYTES:
        return []
    return [(v, tf.constant(value)) for v, value in zip(variables, values, strict=True)]


def describe_outputs(compiled: Any, *arguments: Any) -> Any:
    """Return specifications of what a compiled function returns for such arguments.

    A size that is not known before it has run is None.
    """
    return compiled.get_concrete_function(*arguments).structured_outputs


def get_random_state() -> dict[str, Any]:
    """Return the state of random numbers that are in no variable, as arrays."""
    return {}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where `get_random_state` was called."""


def from_tf_dataset(batch: Any) -> Any:
    """Return a batch of a `tf.data.Dataset` as the backend takes it."""
    return batch


def flatten_tensors(structure: Any) -> list[Any]:
    """Return the tensors in a structure; a sparse one as its values and indices."""
    return tf.nest.flatten(structure, expand_composites=True)


def widest_float() -> str:
    """Return the floating dtype of most digits."""
    return "float64"


def num_replicas() -> int:
    """Return how many replicas run the step."""
    # Keras builds losses and metrics in the strategy's scope before the first step,
    # where no replica runs and there is nothing to add up.
    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def get_strategy(model: keras.Model | None = None) -> Any:
    """Return the `tf.distribute` strategy of a model, or the present one.

    None on other backends.
    """
    return tf.distribute.get_strategy() if model is None else model.distribute_strategy
