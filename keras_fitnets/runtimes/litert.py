"""LiteRT files, run by their interpreter."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import count_threads
from keras_fitnets.runtimes.base import run_by_name
from keras_fitnets.utils.errors import import_optional


def load_litert(path: Path) -> Runner:
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
    # Kept, since the interpreter is asked each time.
    entries, exits = signature.get_input_details(), signature.get_output_details()
    inputs = [
        (
            name,
            tuple(int(d) if d >= 0 else None for d in entry["shape_signature"]),
            "float32" if entry["quantization"][0] else np.dtype(entry["dtype"]).name,
        )
        for name, entry in entries.items()
    ]

    def call(given: dict[str, np.ndarray]) -> dict[str, Any]:
        quantized = {k: _quantize(v, entries[k]) for k, v in given.items()}
        found = signature(**quantized)
        return {name: _dequantize(v, exits[name]) for name, v in found.items()}

    return Runner(run_by_name(call, inputs, path), inputs, None, path.stat().st_size)


def _quantize(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    if not scale:
        return values
    limits = np.iinfo(tensor["dtype"])
    steps = np.round(values / scale) + zero
    return np.clip(steps, limits.min, limits.max).astype(tensor["dtype"])


def _dequantize(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    return (values.astype("float32") - zero) * scale if scale else values
