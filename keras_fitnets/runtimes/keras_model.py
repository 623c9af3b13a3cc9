"""Keras networks, run by TensorFlow."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.preprocessors import check_no_preprocessor
from keras_fitnets.runtimes.arrays import describe_inputs
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.utils.checks import check_whole_numbers
from keras_fitnets.utils.errors import shorten
from keras_fitnets.utils.lazy import tf


def load_keras_model(path: Path) -> keras.Model:
    """Load the network of a `.keras` file; from that of a Distiller, the student."""
    return get_student(keras.saving.load_model(path, compile=False))


def get_student(model: keras.Model) -> keras.Model:
    """Return the student of a Distiller, and any other network as it is.

    Raises:
        ValueError: if the network carries a preprocessor, which would be bypassed.
    """
    network = model.student if isinstance(model, Distiller) else model
    check_no_preprocessor(network)
    return network


def make_keras_runner(network: keras.Model) -> Runner:
    """Make a runner of a network in memory.

    Raises:
        ValueError: if the network has no weights yet.
    """
    graph.check_built(network)
    inputs = describe_inputs(network)
    passes: dict[Any, Callable[..., list[Any]]] = {}

    def run(x: Any) -> list[np.ndarray]:
        tensors = [tf.convert_to_tensor(array) for array in keras.tree.flatten(x)]
        # Keras would take the first arrays and silently ignore the others.
        if inputs and len(inputs) != len(tensors):
            raise ValueError(
                f"Network '{network.name}' takes {len(inputs)} input(s); received "
                f"{len(tensors)} array(s). Data are `x` or the tuple `(x, y)`, where "
                "`x` may be a list or a dictionary of inputs."
            )
        for info, array in zip(inputs, tensors, strict=False):
            argument = f"input '{info.name}'"
            check_whole_numbers(
                f"Network '{network.name}'", argument, array, info.dtype
            )
        # Trace once for each batch size, with the size known: the runtimes of files
        # plan for a known size as well, and their latencies are compared with this one.
        specs = tuple(tf.TensorSpec.from_tensor(tensor) for tensor in tensors)
        if specs not in passes:
            step = tf.function(graph.make_flat_pass(network, x), autograph=False)
            passes[specs] = step.get_concrete_function(*specs)
        try:
            return [output.numpy() for output in passes[specs](*tensors)]
        except tf.errors.OpError as error:
            raise ValueError(
                f"Network '{network.name}' fails when it runs: {shorten(error)}"
            ) from error

    size = sum(
        math.prod(weight.shape) * tf.as_dtype(weight.dtype).size
        for weight in network.weights
    )
    return Runner(run, inputs, network, size)
