"""Networks and exported files alike, as functions from arrays to arrays."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.graph import check_built
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.litert import load_litert
from keras_fitnets.runtimes.onnx import load_onnx
from keras_fitnets.runtimes.saved_model import load_saved_model
from keras_fitnets.utils.errors import reraise_as_value_error
from keras_fitnets.utils.errors import shorten


def load_runner(model: Any) -> Runner:
    """A model, or a file of one in the runtime that it is made for.

    Args:
        model: a `keras.Model`, of a `Distiller` the student; an `Exported`; the path of
            a `.keras`, `.tflite` or `.onnx` file, or of a SavedModel's directory.

    Raises:
        TypeError, ValueError: if it is none of these, has no weights yet, or cannot be
            read.
        FileNotFoundError: if there is no such file.
        ImportError: if its runtime is not installed.
    """
    if isinstance(model, keras.Model):
        return _create_keras_runner(get_student(model))
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "A model must be a keras.Model, what `export_student` returned, or the "
            "path of a .keras, .tflite or .onnx file or of a SavedModel; received "
            f"{model!r}."
        )
    path = Path(model)
    if not path.exists():
        raise FileNotFoundError(f"There is no '{path}', looked for in {Path.cwd()}.")
    readers = {
        ".keras": lambda path: _create_keras_runner(load_keras_model(path)),
        ".tflite": load_litert,
        ".onnx": load_onnx,
    }
    if path.suffix not in readers and not path.is_dir():
        raise ValueError(
            f"'{path}' ends in none of {', '.join(readers)} and is no directory of a "
            "SavedModel, so it is not known how to run it."
        )
    read = load_saved_model if path.is_dir() else readers[path.suffix]
    with reraise_as_value_error(f"'{path}' cannot be read"):
        return read(path)


def load_keras_model(path: Path) -> keras.Model:
    """The network of a `.keras` file; of a Distiller's, the student."""
    return get_student(keras.saving.load_model(path, compile=False))


def get_student(model: keras.Model) -> keras.Model:
    """The student of a Distiller; any other network as it is."""
    return model.student if isinstance(model, Distiller) else model


def _create_keras_runner(network: keras.Model) -> Runner:
    check_built(network)
    inputs = samples.describe_inputs(network)
    traced: dict[Any, Callable[..., list[Any]]] = {}

    def run(x: Any) -> list[np.ndarray]:
        tensors = [tf.convert_to_tensor(array) for array in keras.tree.flatten(x)]
        # Keras would take the first and leave out the others.
        if inputs and len(inputs) != len(tensors):
            raise ValueError(
                f"Network '{network.name}' takes {len(inputs)} input(s); received "
                f"{len(tensors)} array(s). Data are `x` or the tuple `(x, y)`, where "
                "`x` may be a list or a dictionary of inputs."
            )
        specs = tuple(tf.TensorSpec.from_tensor(tensor) for tensor in tensors)
        if specs not in traced:
            # Of each batch size one that knows it, as the runtimes of files do.
            step = tf.function(graph.make_flat_pass(network, x), autograph=False)
            traced[specs] = step.get_concrete_function(*specs)
        try:
            return [output.numpy() for output in traced[specs](*tensors)]
        except tf.errors.OpError as error:
            message = f"Network '{network.name}' fails when it is run: {shorten(error)}"
            raise ValueError(message) from error

    size = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in network.weights)
    return Runner(run, inputs, network, size)
