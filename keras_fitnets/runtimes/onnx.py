"""ONNX files, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import count_threads
from keras_fitnets.runtimes.base import run_by_name
from keras_fitnets.utils.errors import import_optional


def load_onnx(path: Path) -> Runner:
    runtime = import_optional("onnxruntime", "onnxruntime", f"Running '{path}'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    session = runtime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    dtypes = {"tensor(float)": "float32", "tensor(double)": "float64"}
    inputs = [
        (
            one.name,
            tuple(d if isinstance(d, int) else None for d in one.shape),
            dtypes.get(one.type) or one.type[len("tensor(") : -1],
        )
        for one in session.get_inputs()
    ]
    names = [one.name for one in session.get_outputs()]

    def call(given: dict[str, np.ndarray]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, given), strict=True))

    run = run_by_name(call, inputs, path, ordered=list)
    return Runner(run, inputs, None, path.stat().st_size)
