"""How a step runs on PyTorch: eagerly, with operations recorded in the tensors."""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import torch

from keras_fitnets.backend.common import flatten_tensors
from keras_fitnets.backend.common import from_tf_dataset
from keras_fitnets.backend.common import get_strategy
from keras_fitnets.backend.common import keep_logits
from keras_fitnets.backend.common import keep_variables
from keras_fitnets.backend.common import num_replicas
from keras_fitnets.backend.common import run_step
from keras_fitnets.backend.common import sync_variables
from keras_fitnets.utils.keras_private import in_stateless_scope


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


def outside_step() -> contextlib.AbstractContextManager[Any]:
    """Read the true values of variables inside of this block, also within a step."""
    return contextlib.nullcontext()


def is_traced() -> bool:
    """Whether a step is being traced, so that tensors have no values."""
    # Keras runs a model on tensors without values once, to build its metrics.
    return in_stateless_scope()


def is_stateless() -> bool:
    """Whether a step must be given the values of all variables that it reads."""
    return False


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


def widest_float() -> str:
    """Return the floating dtype of most digits."""
    return "float64"
