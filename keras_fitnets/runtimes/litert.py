"""LiteRT (`.tflite`) files, run by LiteRT's interpreter."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.runtimes.arrays import InputInfo
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import count_threads
from keras_fitnets.runtimes.base import make_run
from keras_fitnets.utils.errors import import_optional


def load_litert(path: Path) -> Runner:
    """Load a `.tflite` file.

    A file that takes or gives integers gets and returns floats all the same: they are
    quantised and dequantised here, by the scale and zero point that the file states.

    Raises:
        ValueError: if the file has no signature.
        ImportError: if ai-edge-litert is not installed.
    """
    runtime = import_optional(
        "ai_edge_litert.interpreter", "ai-edge-litert", f"Running '{path}'"
    )
    interpreter = runtime.Interpreter(str(path), num_threads=count_threads())
    if not interpreter.get_signature_list():
        raise ValueError(
            "it has no signature that names its inputs and outputs. Convert it anew: "
            "keras_fitnets.export.export_student, or tf.lite.TFLiteConverter."
        )
    signature = interpreter.get_signature_runner()
    # Keep the descriptions: each of these calls asks the interpreter for all tensors,
    # which would count towards the latency of every batch.
    input_details = signature.get_input_details()
    output_details = signature.get_output_details()
    inputs = [_describe_input(name, details) for name, details in input_details.items()]

    def call(batch: dict[str, np.ndarray]) -> dict[str, Any]:
        quantized = {k: _quantize(v, input_details[k]) for k, v in batch.items()}
        outputs = signature(**quantized)
        return {k: _dequantize(v, output_details[k]) for k, v in outputs.items()}

    return Runner(make_run(call, inputs, path), inputs, None, path.stat().st_size)


def _describe_input(name: str, details: dict[str, Any]) -> InputInfo:
    # LiteRT writes -1 for a free size, and a scale of 0 for a tensor without a scale.
    shape = tuple(int(n) if n >= 0 else None for n in details["shape_signature"])
    is_quantized = bool(details["quantization"][0])
    dtype = "float32" if is_quantized else np.dtype(details["dtype"]).name
    return InputInfo(name, shape, dtype)


def _quantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Return integers `q` with `values ≈ scale * (q - zero_point)`."""
    scale, zero_point = details["quantization"]
    if not scale:
        return values
    limits = np.iinfo(details["dtype"])
    steps = np.round(values / scale) + zero_point
    # A conversion of values outside the range would wrap around.
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


def _dequantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Return the floats that integers of a quantised tensor stand for."""
    scale, zero_point = details["quantization"]
    return (values.astype("float32") - zero_point) * scale if scale else values
