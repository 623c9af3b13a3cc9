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

_backend = importlib.import_module(f"{__name__}.{_NAME}")

apply_gradients = _backend.apply_gradients
compile_inference = _backend.compile_inference
compute_gradients = _backend.compute_gradients
flatten_tensors = _backend.flatten_tensors
get_strategy = _backend.get_strategy
is_traced = _backend.is_traced
list_state = _backend.list_state
no_gradients = _backend.no_gradients
num_replicas = _backend.num_replicas
outside_step = _backend.outside_step
run_step = _backend.run_step
sync_variables = _backend.sync_variables
widest_float = _backend.widest_float

__all__ = [
    "apply_gradients",
    "compile_inference",
    "compute_gradients",
    "flatten_tensors",
    "get_strategy",
    "is_traced",
    "list_state",
    "no_gradients",
    "num_replicas",
    "outside_step",
    "run_step",
    "sync_variables",
    "widest_float",
]
