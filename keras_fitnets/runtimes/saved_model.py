"""SavedModels, run by TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import run_by_name


def load_saved_model(path: Path) -> Runner:
    loaded = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise ValueError(
            "it has no signature 'serving_default', which names its inputs and "
            "outputs. `keras.Model.export` writes one."
        )
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    inputs = [
        (name, tuple(spec.shape), spec.dtype.name) for name, spec in specs.items()
    ]

    def call(given: dict[str, np.ndarray]) -> dict[str, Any]:
        found = signature(**{k: tf.convert_to_tensor(v) for k, v in given.items()})
        # The signature holds no reference to what was loaded.
        assert loaded is not None
        return {name: tensor.numpy() for name, tensor in found.items()}

    files = [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return Runner(run_by_name(call, inputs, path), inputs, None, size)
