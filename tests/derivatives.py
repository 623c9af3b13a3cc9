"""Gradients by the backend that runs, for comparison with those of NumPy."""

import keras

BACKEND = keras.backend.backend()


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def gradients(function, arrays):
    """The gradients of the sum of a function's values by its arguments."""
    variables = [keras.Variable(array, dtype=str(array.dtype)) for array in arrays]
    return gradients_of(
        lambda: function(*(keras.ops.convert_to_tensor(v) for v in variables)),
        variables,
    )


def gradients_of(function, variables):
    """The gradients of the sum of a function's values by variables."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = keras.ops.sum(function())
        found = tape.gradient(total, [variable.value for variable in variables])
    elif BACKEND == "jax":
        import jax

        def total(values):
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs):
                return keras.ops.sum(function())

        found = jax.grad(total)([variable.value for variable in variables])
    else:
        import torch

        values = [variable.value for variable in variables]
        found = torch.autograd.grad(keras.ops.sum(function()), values)
    return [to_numpy(gradient) for gradient in found]
