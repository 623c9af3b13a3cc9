"""What every runtime has in common."""

import os
import re
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.inspection import graph
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.utils.errors import shorten


class Runner(NamedTuple):
    """A network that is ready to run.

    Attributes:
        run: from inputs, an array or a structure of them, to the outputs as a list.
        inputs: for each input its name, shape (None where it is free) and dtype.
        network: the Keras model, if it is one.
        bytes: of a file; of a model those that its weights take.
    """

    run: Callable[[Any], list[np.ndarray]]
    inputs: list[samples.Input]
    network: keras.Model | None
    bytes: int

    def predict(self, x: Any, batch_size: int) -> list[np.ndarray]:
        """The outputs of any number of samples."""
        starts = range(0, samples.num_samples(x), batch_size)
        parts = [self.run(samples.take(x, slice(at, at + batch_size))) for at in starts]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]


def count_threads() -> int:
    """As many as TensorFlow has for one operation, so that times are fair."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def _sort_like_keras(names: Sequence[str]) -> list[str]:
    """Keras numbers the outputs of a list, and sorts those of a dictionary."""
    numbers = [re.fullmatch(r"output_(\d+)", name) for name in names]
    if all(numbers):
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return sorted(names)


def run_by_name(
    call: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    inputs: list[samples.Input],
    path: Path,
    ordered: Callable[[Sequence[str]], list[str]] = _sort_like_keras,
) -> Callable[[Any], list[np.ndarray]]:
    """From inputs in any form to the call of a file, in the batches that it takes."""
    names = [name for name, _, _ in inputs]
    # A file may be of one batch size alone.
    fixed = inputs[0][1][0]

    def run(x: Any) -> list[np.ndarray]:
        arrays = keras.tree.flatten(x)
        if len(names) == len(arrays) == 1:
            x = {names[0]: arrays[0]}
        samples.check(f"'{path}'", inputs, x)
        given = {k: np.ascontiguousarray(x[k], dtype) for k, _, dtype in inputs}
        count = samples.num_samples(given)
        size = fixed or count
        spare = -count % size
        if spare:
            given = samples.take(given, np.arange(count + spare) % count)
        try:
            parts = [
                call(samples.take(given, slice(at, at + size)))
                for at in range(0, count, size)
            ]
        except Exception as error:
            message = f"'{path}' fails when it is run: {shorten(error)}"
            raise ValueError(message) from error
        order = ordered(list(parts[0]))
        return [
            np.concatenate([part[name] for part in parts])[:count] for name in order
        ]

    return run


def make_example_inputs(model: Runner, size: int) -> Any:
    """Inputs for a model where there are no data: normal numbers, integers zero.

    Raises:
        ValueError: if their shape is not known whole.
    """
    if not model.inputs:
        raise ValueError(
            "A network does not show what inputs it takes. Pass `data`, whose inputs "
            "show it."
        )
    drawn = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, (_, *shape), dtype in model.inputs:
        if None in shape:
            raise ValueError(
                f"Input '{name}' has the shape {(None, *shape)} without the batch, "
                "which is not known whole. Pass `data`, whose inputs show it."
            )
        real = "float" in dtype
        values = drawn.normal(size=(size, *shape)) if real else np.zeros((size, *shape))
        arrays[name] = values.astype(dtype)
    if model.network is None:
        return arrays
    return keras.tree.pack_sequence_as(
        graph.get_inputs(model.network), list(arrays.values())
    )
