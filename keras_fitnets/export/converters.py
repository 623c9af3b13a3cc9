"""Write a network as SavedModel, LiteRT or ONNX, quantised if wanted."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_fitnets.inspection import graph
from keras_fitnets.inspection.multiplications import unrolled
from keras_fitnets.runtimes.arrays import by_input_name
from keras_fitnets.runtimes.arrays import num_samples
from keras_fitnets.runtimes.arrays import take
from keras_fitnets.utils.errors import import_optional
from keras_fitnets.utils.keras_private import hold_constants_as_arrays
from keras_fitnets.utils.lazy import tf

QUANTIZATIONS = (None, "float16", "dynamic", "int8")


class Conversion(NamedTuple):
    """What to write, and how.

    Attributes:
        network: the network, Functional.
        path: `….tflite`, `….onnx`, or else a directory for a SavedModel.
        quantize: one of `QUANTIZATIONS`.
        representative_data: inputs for `"int8"`, in the network's structure, or None.
        has_int8_io: whether a LiteRT file takes and gives integers as well.
    """

    network: keras.Model
    path: Path
    quantize: str | None = None
    representative_data: Any = None
    has_int8_io: bool = False

    def write(self) -> None:
        """Write the network in the format that the ending of the path names."""
        writers: dict[str, Callable[[Conversion], None]] = {
            ".tflite": _write_litert,
            ".onnx": _write_onnx,
        }
        writers.get(self.path.suffix, _write_saved_model)(self)

    def export(self, path: Path, **options: Any) -> None:
        """Write the network to `path` with Keras' own `export`."""
        # Keras would fix the batch size of an input that has one; a file should run any
        # number of samples.
        signature = keras.tree.map_structure(
            lambda tensor: keras.InputSpec(
                tensor.dtype, (None, *tensor.shape[1:]), name=tensor.name
            ),
            graph.get_inputs(self.network),
        )
        self.network.export(path, verbose=False, input_signature=[signature], **options)

    def iterate_samples(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield each sample of the representative data as a batch, by input name."""
        x = by_input_name(self.representative_data, self.network)
        for i in range(num_samples(x)):
            yield take(x, slice(i, i + 1))


def _write_saved_model(conversion: Conversion) -> None:
    conversion.export(conversion.path)


def _write_litert(conversion: Conversion) -> None:
    lite = tf.lite
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        # A recurrent layer collects the outputs of its loop in a list of tensors, which
        # LiteRT has no operation for; see
        # https://github.com/tensorflow/tensorflow/issues/58668. Unrolled, it has none.
        unrolled(conversion.network),
    ):
        # The converter itself calibrates with an interpreter that TensorFlow has moved
        # to another package; see https://github.com/google-ai-edge/LiteRT/issues/4049.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is depr")
        conversion.export(Path(directory))
        converter = lite.TFLiteConverter.from_saved_model(directory)
        if conversion.quantize is not None:
            converter.optimizations = [lite.Optimize.DEFAULT]
        if conversion.quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if conversion.quantize == "int8":
            # Allow integer operations only. By default the converter would leave in
            # floats what it has no integer form for, and a microcontroller could not
            # run the file; this way it is an error.
            converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = conversion.iterate_samples
        if conversion.has_int8_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        conversion.path.write_bytes(converter.convert())


def _write_onnx(conversion: Conversion) -> None:
    import_optional("tf2onnx", "tf2onnx", "Writing ONNX")
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        _convert_tensors_to_arrays(conversion.network),
        hold_constants_as_arrays(conversion.network),
        _inline_functions(),
    ):
        # Keras looks for `np.object`, for the sake of older versions of tf2onnx, and
        # NumPy warns of the name; see https://github.com/keras-team/keras/pull/23095.
        warnings.filterwarnings("ignore", r"In the future `np.object`", FutureWarning)
        _register_erfc()
        if conversion.quantize is None:
            conversion.export(conversion.path, format="onnx")
        else:
            plain_path = Path(directory) / "plain.onnx"
            conversion.export(plain_path, format="onnx")
            _quantize_onnx(conversion, plain_path)


@contextlib.contextmanager
def _inline_functions() -> Iterator[None]:
    """Let functions that are called in a trace become part of it inside this block.

    Keras runs a convolution of several groups, as ConvNeXt has, in a function that XLA
    compiles, because TensorFlow has no such convolution on a CPU; see
    https://github.com/tensorflow/tensorflow/issues/29005. ONNX knows the convolution,
    but not the call of a compiled function.
    """
    are_eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(are_eager)


def _register_erfc() -> None:
    """Teach tf2onnx the complementary error function, unless it knows it already.

    The exact GELU of TensorFlow 2.21 is made of it, and ONNX has no such operation; see
    https://github.com/onnx/tensorflow-onnx/issues/2347.
    """
    tf_op = import_optional("tf2onnx.handler", "tf2onnx", "Writing ONNX").tf_op
    versions = [known for many in tf_op.get_opsets().values() for known in many]
    if any("Erfc" in known for known in versions):
        return

    class Erfc:
        """Writes erfc(x) as 1 - erf(x), which is off by a rounding of 1."""

        @classmethod
        def version_9(cls, graph: Any, node: Any, **options: Any) -> None:
            erf = graph.make_node("Erf", node.input)
            graph.copy_dtype(node.output[0], erf.output[0])
            graph.copy_shape(node.output[0], erf.output[0])
            one = graph.make_const(f"{node.name}_one", np.ones((), "float32"))
            node.type = "Sub"
            graph.replace_inputs(node, [one.output[0], erf.output[0]])

    # A decorator: it looks for the versions among the methods of the class.
    tf_op("Erfc")(Erfc)


def _quantize_onnx(conversion: Conversion, plain_path: Path) -> None:
    """Quantise the ONNX file at `plain_path` and write it to the conversion's path."""
    if conversion.quantize == "float16":
        onnx = import_optional("onnx", "onnx", "Writing ONNX")
        float16 = import_optional(
            "onnxruntime.transformers.float16", "onnxruntime", "float16"
        )
        # Inputs and outputs stay float32, so that callers need not know of float16.
        model = float16.convert_float_to_float16(
            onnx.load(plain_path), keep_io_types=True
        )
        onnx.save(model, conversion.path)
        return
    tools = import_optional(
        "onnxruntime.quantization", "onnxruntime", "Quantising ONNX"
    )
    # Fuse operations first, such as a convolution with its normalisation: each one left
    # would be quantised, and rounded, by itself.
    fused_path = plain_path.with_name("fused.onnx")
    tools.quant_pre_process(plain_path, fused_path, skip_symbolic_shape=True)
    if conversion.quantize == "dynamic":
        tools.quantize_dynamic(fused_path, conversion.path)
    else:
        reader = _CalibrationReader(conversion.iterate_samples())
        tools.quantize_static(fused_path, conversion.path, reader, per_channel=True)


@contextlib.contextmanager
def _convert_tensors_to_arrays(network: keras.Model) -> Iterator[None]:
    """Hold the tensors that layers keep as attributes as arrays inside this block.

    `Normalization` keeps its mean and variance as eager tensors. A traced function
    captures those as hidden inputs, and tf2onnx turns the captures into inputs of the
    ONNX file. An array becomes a constant.
    """
    tensors = [
        (layer, name, value)
        for layer in graph.get_descendants(network)
        for name, value in vars(layer).items()
        if isinstance(value, tf.Tensor)
    ]
    for layer, name, value in tensors:
        setattr(layer, name, value.numpy())
    try:
        yield
    finally:
        for layer, name, value in tensors:
            setattr(layer, name, value)


class _CalibrationReader:
    """Representative data in the form that onnxruntime reads: None at the end."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)
