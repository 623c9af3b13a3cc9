"""What the backends of Keras do each in their own way, under the same few names.

Losses, objective and the Distiller's step are written once, with `keras.ops`. What
differs is how a step is run, differentiated and applied:

- TensorFlow records operations on a tape, and its variables are changed in place.
- On JAX a step is a pure function from the state before it to the state after it. It
  runs inside a `keras.StatelessScope`, where variables read and note values without
  being touched.
- PyTorch records operations in the tensors, and runs every step eagerly.

`KERAS_BACKEND`, or Keras' configuration file, chooses one of them before Keras is
imported. No other module asks which one runs, or imports JAX or PyTorch.
"""

import importlib

import keras

_NAME = keras.backend.backend()

if _NAME not in ("tensorflow", "jax", "torch"):
    raise ImportError(
        f"keras_fitnets trains on the backends tensorflow, jax and torch of Keras; the "
        f'present one is "{_NAME}". Set the environment variable KERAS_BACKEND to one '
        "of them before Keras is imported."
    )


def check_tensorflow(what: str, instead: str) -> None:
    """Raise if TensorFlow is needed, and is not the backend.

    Args:
        what: what needs it.
        instead: a sentence that says how to go on.

    Raises:
        ValueError: on JAX and PyTorch.
    """
    if _NAME != "tensorflow":
        raise ValueError(
            f"{what} needs the backend TensorFlow of Keras, and the present one is "
            f'"{_NAME}". {instead}'
        )


_backend = importlib.import_module(f"{__name__}.{_NAME}")

apply_gradients = _backend.apply_gradients
compile_function = _backend.compile_function
compute_gradients = _backend.compute_gradients
describe_outputs = _backend.describe_outputs
flatten_tensors = _backend.flatten_tensors
from_tf_dataset = _backend.from_tf_dataset
get_random_state = _backend.get_random_state
get_strategy = _backend.get_strategy
is_stateless = _backend.is_stateless
is_traced = _backend.is_traced
keep_logits = _backend.keep_logits
keep_variables = _backend.keep_variables
no_gradients = _backend.no_gradients
num_replicas = _backend.num_replicas
outside_step = _backend.outside_step
run_step = _backend.run_step
set_random_state = _backend.set_random_state
sync_variables = _backend.sync_variables
widest_float = _backend.widest_float
