"""SavedModels, run by TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.runtimes.arrays import InputInfo
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import make_run
from keras_fitnets.utils.lazy import tf

_SIGNATURE = "serving_default"


class _SavedModel:
    """Calls the signature of a SavedModel.

    TensorFlow's signature function does not keep the variables of the loaded object
    alive, so that it would fail once that object is garbage collected; see
    https://github.com/tensorflow/tensorflow/issues/46708. This class holds both.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = tf.saved_model.load(str(path))
        if _SIGNATURE not in self._loaded.signatures:
            raise ValueError(
                f"it has no signature '{_SIGNATURE}', which names its inputs and "
                "outputs. Write one with `keras.Model.export`."
            )
        self._signature = self._loaded.signatures[_SIGNATURE]

    def describe_inputs(self) -> list[InputInfo]:
        # The signature takes keyword arguments only: the second part of its structure.
        specs = self._signature.structured_input_signature[1]
        return [
            InputInfo(name, tuple(spec.shape), spec.dtype.name)
            for name, spec in specs.items()
        ]

    def call(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        tensors = {name: tf.convert_to_tensor(array) for name, array in batch.items()}
        outputs = self._signature(**tensors)
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def load_saved_model(path: Path) -> Runner:
    """Load the directory of a SavedModel.

    Raises:
        ValueError: if it has no signature `serving_default`.
    """
    model = _SavedModel(path)
    inputs = model.describe_inputs()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Runner(make_run(model.call, inputs, path), inputs, None, size)
