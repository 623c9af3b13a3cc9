"""What two of the backends do in the same way: most of it is nothing.

A backend imports from here what it has no need to do in its own way.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

# ── Where variables are changed in place: on TensorFlow and PyTorch ─────────────────


def run_step(model: keras.Model, step: Callable[[Any], Any], data: Any) -> Any:
    """Run a training or test step, and return what Keras' trainer expects of it."""
    return step(data)


def keep_variables(model: keras.Model, function: Callable[..., Any]) -> Any:
    """Return a step of Keras, after whose failure variables have their values."""
    return function


def keep_logits(
    get_layers: Callable[[], Sequence[Any]],
) -> contextlib.AbstractContextManager[Any]:
    """Keep the logits behind the probabilities that these layers compute."""
    # Keras attaches them to the probabilities itself.
    return contextlib.nullcontext()


def sync_variables(model: keras.Model) -> None:
    """Let variables hold the values of the last step, within an epoch too."""


# ── Without strategies and datasets of TensorFlow: on JAX and PyTorch ───────────────


def from_tf_dataset(batch: Any) -> Any:
    """Return a batch of a `tf.data.Dataset` as the backend takes it."""
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else tensor.numpy(), batch
    )


def flatten_tensors(structure: Any) -> list[Any]:
    """Return the tensors in a structure."""
    return keras.tree.flatten(structure)


def num_replicas() -> int:
    """Return how many replicas run the step."""
    # On JAX `keras.distribution` divides a step that is written for one device.
    return 1


def get_strategy(model: keras.Model | None = None) -> Any:
    """Return None: there is no `tf.distribute` strategy."""
    return None
