"""How a step runs on PyTorch: eagerly, with operations recorded in the tensors."""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import torch

from keras_fitnets.utils.keras_private import in_stateless_scope


def run_step(model: keras.Model, step: Callable[[Any], Any], data: Any) -> Any:
    """Run a training or test step, and return what Keras' trainer expects of it."""
    return step(data)


def keep_variables(model: keras.Model, function: Callable[..., Any]) -> Any:
    """Return a step of Keras, after whose failure variables have their values."""
    return function


def compute_gradients(
    function: Callable[[], tuple[Any, Any]], variables: Sequence[Any], first: Any
) -> tuple[list[Any], Any]:
    """Differentiate a loss with respect to variables; see `tensorflow.py`."""
    loss, others = function()
    values = [variable.value for variable in variables]
    # PyTorch raises where there is nothing to differentiate.
    if not values or not loss.requires_grad:
        return [None] * len(values), others
    return list(torch.autograd.grad(loss, values, allow_unused=True)), others


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    everything: Sequence[Any],
) -> None:
    """Let an optimizer update variables; see `tensorflow.py`."""
    with torch.no_grad():
        optimizer.apply(gradients, variables)


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Keep no operations of this block for gradients."""
    return torch.no_grad()


def keep_logits(
    get_layers: Callable[[], Sequence[Any]],
) -> contextlib.AbstractContextManager[Any]:
    """Keep the logits behind the probabilities that these layers compute."""
    # Keras attaches them to the probabilities itself.
    return contextlib.nullcontext()


def outside_step() -> contextlib.AbstractContextManager[Any]:
    """Read the true values of variables inside of this block, also within a step."""
    return contextlib.nullcontext()


def is_traced() -> bool:
    """Whether a step is being traced, so that tensors have no values."""
    # Keras runs a model on tensors without values once, to build its metrics.
    return in_stateless_scope()


def list_state(variables: Sequence[Any]) -> list[Any]:
    """Return those variables that a step must be given as a part of the state."""
    return []


def sync_variables(model: keras.Model) -> None:
    """Let variables hold the values of the last step, within an epoch too."""


def compile_function(
    function: Callable[..., Any], variables: Sequence[Any], fold: bool = False
) -> Callable[..., Any]:
    """Return a function that changes no variable; PyTorch runs it eagerly."""

    def run(*arguments: Any) -> Any:
        with torch.no_grad(), keras.StatelessScope():
            return function(*keras.tree.map_structure(_to_tensor, arguments))

    return run


def _to_tensor(array: Any) -> Any:
    return None if array is None else keras.ops.convert_to_tensor(array)


def describe_outputs(compiled: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns for such arguments, which it has to run for."""
    return compiled(*arguments)


def get_random_state() -> dict[str, Any]:
    """Return the state of random numbers that are in no variable, as arrays.

    Keras' dropout draws from PyTorch's own generators, one for each device, and so does
    what shuffles arrays.
    """
    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return {str(i): state.numpy() for i, state in enumerate(states)}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where `get_random_state` was called."""
    if not state:
        return
    first, *others = [torch.from_numpy(state[str(i)]) for i in range(len(state))]
    torch.set_rng_state(first)
    # A run may go on with another number of devices.
    if len(others) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(others)


def from_tf_dataset(batch: Any) -> Any:
    """Return a batch of a `tf.data.Dataset` as the backend takes it."""
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else tensor.numpy(), batch
    )


def flatten_tensors(structure: Any) -> list[Any]:
    """Return the tensors in a structure."""
    return keras.tree.flatten(structure)


def widest_float() -> str:
    """Return the floating dtype of most digits."""
    return "float64"


def num_replicas() -> int:
    """Return how many replicas run the step."""
    return 1


def get_strategy(model: keras.Model | None = None) -> Any:
    """Return None: there is no `tf.distribute` strategy."""
    return None
