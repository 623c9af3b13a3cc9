"""Choose the runtime for a model or a file."""

import os
from pathlib import Path
from typing import Any

import keras

from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.keras_model import get_student
from keras_fitnets.runtimes.keras_model import load_keras_model
from keras_fitnets.runtimes.keras_model import make_keras_runner
from keras_fitnets.runtimes.litert import load_litert
from keras_fitnets.runtimes.onnx import load_onnx
from keras_fitnets.runtimes.saved_model import load_saved_model
from keras_fitnets.utils.errors import reraise_as_value_error


def load_runner(model: Any) -> Runner:
    """Make a model ready to run, a file in the runtime that it was written for.

    Args:
        model: a `keras.Model`, for a `Distiller` its student; the path of a `.keras`,
            `.tflite` or `.onnx` file or of a SavedModel's directory; or an `Exported`,
            which is such a path.

    Raises:
        TypeError: if `model` is none of these.
        ValueError: if the network has no weights yet, or the file cannot be read.
        FileNotFoundError: if there is no such file.
        ImportError: if the runtime is not installed.
    """
    if isinstance(model, keras.Model):
        return make_keras_runner(get_student(model))
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "A model must be a keras.Model, what `export_student` returned, or the "
            "path of a .keras, .tflite or .onnx file or of a SavedModel; received "
            f"{model!r}."
        )
    path = Path(model)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no '{path}' in {Path.cwd()}. Check the path, or pass an "
            "absolute one."
        )
    loaders = {
        ".keras": _load_keras_file,
        ".tflite": load_litert,
        ".onnx": load_onnx,
    }
    if path.suffix not in loaders and not path.is_dir():
        raise ValueError(
            f"'{path}' ends in none of {', '.join(loaders)}, and is not the directory "
            "of a SavedModel, so its runtime is unknown. Rename it, or export it anew."
        )
    load = load_saved_model if path.is_dir() else loaders[path.suffix]
    # A damaged file can raise errors of any class, depending on the runtime.
    with reraise_as_value_error(f"'{path}' cannot be read"):
        return load(path)


def _load_keras_file(path: Path) -> Runner:
    return make_keras_runner(load_keras_model(path))
