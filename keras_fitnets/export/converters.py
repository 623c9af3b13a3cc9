"""Writing a network as SavedModel, LiteRT or ONNX, quantised if that is asked for."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.inspection import graph
from keras_fitnets.inspection.multiplications import unrolled
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.utils.errors import import_optional

QUANTIZATIONS = (None, "float16", "dynamic", "int8")


def create_signature(network: keras.Model) -> list[Any]:
    """What the exported network takes: its inputs, of any number of samples."""

    def spec(tensor: Any) -> keras.InputSpec:
        return keras.InputSpec(
            tensor.dtype, (None, *tensor.shape[1:]), name=tensor.name
        )

    return [keras.tree.map_structure(spec, graph.get_inputs(network))]


def write(
    network: keras.Model,
    path: Path,
    quantize: str | None,
    representative_data: Any,
    int8_io: bool,
) -> None:
    """Write a network in the format that the path's ending names.

    Args:
        network: the network, Functional.
        path: `….tflite`, `….onnx`, or else a directory for a SavedModel.
        quantize: one of `QUANTIZATIONS`.
        representative_data: inputs, for `"int8"`.
        int8_io: whether a LiteRT file takes and gives integers as well.
    """
    signature = create_signature(network)
    writers: dict[str, Callable[..., None]] = {".tflite": _litert, ".onnx": _onnx}
    writer = writers.get(path.suffix, _saved_model)
    writer(network, path, signature, quantize, representative_data, int8_io)


def _saved_model(
    network: keras.Model, path: Path, signature: list[Any], *rest: Any
) -> None:
    network.export(path, verbose=False, input_signature=signature)


def _litert(
    network: keras.Model,
    path: Path,
    signature: list[Any],
    quantize: str | None,
    representative_data: Any,
    int8_io: bool,
) -> None:
    lite = tf.lite
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        # LiteRT has no list of tensors, in which a loop collects its steps.
        unrolled(network),
    ):
        # The converter finds ranges by an interpreter that TensorFlow gives up.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is depr")
        _saved_model(network, Path(directory), signature)
        converter = lite.TFLiteConverter.from_saved_model(directory)
        if quantize is not None:
            converter.optimizations = [lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            # Nothing falls back on floats: what has no integer form is an error.
            converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: _one_by_one(
                network, representative_data
            )
        if int8_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())


def _onnx(
    network: keras.Model,
    path: Path,
    signature: list[Any],
    quantize: str | None,
    representative_data: Any,
    int8_io: bool,
) -> None:
    import_optional("tf2onnx", "tf2onnx", "Writing ONNX")
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        _as_constants(network),
    ):
        # Keras looks for a name that NumPy gives up.
        warnings.filterwarnings("ignore", r"In the future `np.object`", FutureWarning)
        plain, ready = (Path(directory) / name for name in ("plain.onnx", "ready.onnx"))
        target = path if quantize is None else plain
        network.export(target, format="onnx", verbose=False, input_signature=signature)
        if quantize is None:
            return
        if quantize == "float16":
            onnx = import_optional("onnx", "onnx", "Writing ONNX")
            half = import_optional(
                "onnxruntime.transformers.float16", "onnxruntime", "float16"
            )
            model = half.convert_float_to_float16(onnx.load(plain), keep_io_types=True)
            onnx.save(model, path)
            return
        tools = import_optional(
            "onnxruntime.quantization", "onnxruntime", "Quantising ONNX"
        )
        tools.quant_pre_process(plain, ready, skip_symbolic_shape=True)
        if quantize == "dynamic":
            tools.quantize_dynamic(ready, path)
        else:
            reader = _Reader(_one_by_one(network, representative_data))
            tools.quantize_static(ready, path, reader, per_channel=True)


@contextlib.contextmanager
def _as_constants(network: keras.Model) -> Iterator[None]:
    """Tensors that layers keep, as arrays: tf2onnx would make inputs of them."""
    kept = [
        (layer, name, value)
        for layer in graph.get_descendants(network)
        for name, value in vars(layer).items()
        if isinstance(value, tf.Tensor)
    ]
    for layer, name, value in kept:
        setattr(layer, name, value.numpy())
    try:
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)


class _Reader:
    """Calibration data as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _one_by_one(network: keras.Model, x: Any) -> Iterator[dict[str, np.ndarray]]:
    """Each sample as a batch of its own, by the names of the inputs."""
    given = samples.by_input_name(x, network)
    for at in range(samples.num_samples(given)):
        yield samples.take(given, slice(at, at + 1))
