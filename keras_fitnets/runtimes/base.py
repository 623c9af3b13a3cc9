"""What all runtimes share: the runner, named inputs, batches, and example inputs."""

import os
import re
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_fitnets.inspection import graph
from keras_fitnets.runtimes.arrays import InputInfo
from keras_fitnets.runtimes.arrays import cast_input
from keras_fitnets.runtimes.arrays import check_inputs
from keras_fitnets.runtimes.arrays import num_samples
from keras_fitnets.runtimes.arrays import take
from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.errors import shorten
from keras_fitnets.utils.lazy import tf


class Runner(NamedTuple):
    """A network that is ready to run, whatever its runtime.

    Attributes:
        run: a function from inputs, one array `(samples, ...)` or a structure of them,
            to a list of the outputs.
        inputs: what the network expects.
        network: the Keras model, or None for a file of another runtime.
        bytes: the size of the file; of a Keras model the memory of its weights.
    """

    run: Callable[[Any], list[np.ndarray]]
    inputs: list[InputInfo]
    network: keras.Model | None
    bytes: int

    def predict(self, x: Any, batch_size: int) -> list[np.ndarray]:
        """Return the outputs for any number of samples, computed batch by batch."""
        starts = range(0, num_samples(x), batch_size)
        batches = [self.run(take(x, slice(i, i + batch_size))) for i in starts]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def count_threads() -> int:
    """Return the number of threads that TensorFlow uses within one operation.

    Every runtime gets the same number, so that their latencies can be compared.
    """
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def _sort_like_keras(names: Sequence[str]) -> list[str]:
    """Sort the output names of a file into the order of the Keras network's outputs.

    `keras.Model.export` names a list of outputs `output_0`, `output_1`, …, and a
    dictionary by its keys, which Keras flattens in alphabetical order. LiteRT and
    TensorFlow return outputs in no particular order. As text, `output_10` would sort
    before `output_2`, hence the numeric key.
    """
    if all(re.fullmatch(r"output_\d+", name) for name in names):
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return sorted(names)


def make_run(
    call: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    inputs: list[InputInfo],
    path: Path,
    sort_outputs: Callable[[Sequence[str]], list[str]] = _sort_like_keras,
) -> Callable[[Any], list[np.ndarray]]:
    """Make the `run` of a `Runner` out of a runtime's own call.

    Args:
        call: maps a dictionary from input names to arrays to one from output names to
            arrays, for one batch.
        inputs: what the file expects.
        path: the file, for messages.
        sort_outputs: puts the output names into the order of the network's outputs.
    """
    names = [info.name for info in inputs]
    fixed_batch_size = inputs[0].shape[0]

    def run(x: Any) -> list[np.ndarray]:
        arrays = keras.tree.flatten(x)
        # With one input there is no doubt which array it takes, whatever its name.
        if len(names) == len(arrays) == 1:
            x = {names[0]: arrays[0]}
        check_inputs(f"'{path}'", inputs, x)
        named = {
            info.name: cast_input(f"'{path}'", info, x[info.name]) for info in inputs
        }
        count = num_samples(named)
        # A file may have been written for one batch size. Repeat samples until the last
        # batch is full, and drop their outputs at the end.
        size = fixed_batch_size or count
        padding = -count % size
        if padding:
            named = take(named, np.arange(count + padding) % count)
        try:
            batches = [
                call(take(named, slice(start, start + size)))
                for start in range(0, count, size)
            ]
        # Each runtime raises errors of its own classes.
        except Exception as error:
            raise ValueError(
                f"'{path}' fails when it runs: {shorten(error)}"
            ) from error
        return [
            np.concatenate([batch[name] for batch in batches])[:count]
            for name in sort_outputs(list(batches[0]))
        ]

    return run


def make_example_inputs(model: Runner, size: int) -> Any:
    """Make up inputs for a model where no data are given.

    Floats are drawn from a normal distribution with a fixed seed. Integers are zero,
    the one value that is valid both as a pixel and as an index into a table. Text is
    empty.

    Args:
        model: the model.
        size: the number of samples.

    Returns:
        Arrays `(size, ...)`: for a Keras model in the structure that it takes, for a
        file as a dictionary by name.

    Raises:
        ValueError: if the shape of an input is not fully known.
    """
    if not model.inputs:
        raise ValueError(
            "The network does not declare its inputs, so none can be made up. Pass "
            "`data`, whose inputs it takes."
        )
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for info in model.inputs:
        shape = info.shape[1:]
        if None in shape:
            raise ValueError(
                f"Input '{info.name}' has the shape {(None, *shape)}, with more than "
                "the batch size unknown, so none can be made up. Pass `data`, whose "
                "inputs have a shape."
            )
        if is_text_dtype(info.dtype):
            arrays[info.name] = np.full((size, *shape), "", object)
            continue
        is_float = "float" in info.dtype
        values = (
            rng.normal(size=(size, *shape)) if is_float else np.zeros((size, *shape))
        )
        arrays[info.name] = values.astype(info.dtype)
    if model.network is None:
        return arrays
    return keras.tree.pack_sequence_as(
        graph.get_inputs(model.network), list(arrays.values())
    )
