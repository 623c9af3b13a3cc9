"""ONNX files, run by ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.runtimes.arrays import InputInfo
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import count_threads
from keras_fitnets.runtimes.base import make_run
from keras_fitnets.utils.errors import import_optional


def load_onnx(path: Path) -> Runner:
    """Load an `.onnx` file.

    Raises:
        ImportError: if onnxruntime is not installed.
    """
    runtime = import_optional("onnxruntime", "onnxruntime", f"Running '{path}'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    session = runtime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    inputs = [_describe_input(node) for node in session.get_inputs()]
    output_names = [node.name for node in session.get_outputs()]

    def call(batch: dict[str, np.ndarray]) -> dict[str, Any]:
        outputs = session.run(output_names, batch)
        return dict(zip(output_names, outputs, strict=True))

    # ONNX keeps the outputs in the network's own order: `list` leaves them in it.
    run = make_run(call, inputs, path, sort_outputs=list)
    return Runner(run, inputs, None, path.stat().st_size)


def _describe_input(node: Any) -> InputInfo:
    # A free size is a name or None. A dtype reads "tensor(float)", in the words of C++.
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    name = node.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    return InputInfo(node.name, shape, dtype)
