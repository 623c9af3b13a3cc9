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


def compute_gradients(
    function: Callable[[], tuple[Any, Any]], variables: Sequence[Any], first: Any
) -> tuple[list[Any], Any]:
    """Differentiate a loss with respect to variables; see `tensorflow.py`."""
    loss, others = function()
    values = [variable.value for variable in variables]
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


def list_state(variables: Sequence[Any]) -> list[Any]:
    """Return those variables that a step must be given as a part of the state."""
    return []


def sync_variables(model: keras.Model) -> None:
    """Let variables hold the values of the last step, within an epoch too."""


def compile_inference(
    function: Callable[..., Any], arrays: Sequence[Any]
) -> Callable[..., Any]:
    """Return a function for arrays like these with any number of rows."""

    def run(*arrays: Any) -> Any:
        with torch.no_grad():
            return function(*map(keras.ops.convert_to_tensor, arrays))

    return run


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
