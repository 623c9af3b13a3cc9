"""Networks and exported files alike, as functions from arrays to arrays."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.runtimes.runner import arrays
from keras_fitnets.inspection import graph
from keras_fitnets.distillation.distiller import Distiller


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that `export_student` wrote, and how it compares with its network.

    Args:
        path: the file, or the directory of a SavedModel.
        format: `"saved_model"`, `"litert"` or `"onnx"`.
        quantize: None, `"float16"`, `"dynamic"` or `"int8"`.
        bytes: its size.
        parameters: those of the network.
        multiplications: those of one sample; None where they cannot be counted.
        largest_difference: between an output of the file and of the network, divided by
            the largest output of the network.
        agreement: the share of equal choices.
        accuracy: the file's; None without labels.

    Example:

    >>> Exported("a.tflite", "litert", None, 1000, 200, 200, 1e-7, 1.0, None).bytes
    1000
    """

    path: str
    format: str
    quantize: str | None
    bytes: int
    parameters: int
    multiplications: int | None
    largest_difference: float
    agreement: float | None
    accuracy: float | None


class Running(NamedTuple):
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
        starts = range(0, samples.count(x), batch_size)
        parts = [
            self.run(samples.taken(x, slice(at, at + batch_size))) for at in starts
        ]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]


def running(model: Any) -> Running:
    """A model, or a file of one in the runtime that it is made for.

    Args:
        model: a `keras.Model`, of a `Distiller` the student; an `Exported`; the path of
            a `.keras`, `.tflite` or `.onnx` file, or of a SavedModel's directory.

    Raises:
        TypeError, ValueError: if it is none of these, has no weights yet, or cannot be
            read.
        FileNotFoundError: if there is no such file.
        ImportError: if its runtime is not installed.
    """
    if isinstance(model, Exported):
        model = model.path
    if isinstance(model, keras.Model):
        return _keras(student_of(model))
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "A model must be a keras.Model, what `export_student` returned, or the "
            "path of a .keras, .tflite or .onnx file or of a SavedModel; received "
            f"{model!r}."
        )
    path = Path(model)
    if not path.exists():
        raise FileNotFoundError(f"There is no '{path}', looked for in {Path.cwd()}.")
    readers = {
        ".keras": lambda path: _keras(loaded(path)),
        ".tflite": _litert,
        ".onnx": _onnx,
    }
    if path.suffix not in readers and not path.is_dir():
        raise ValueError(
            f"'{path}' ends in none of {', '.join(readers)} and is no directory of a "
            "SavedModel, so it is not known how to run it."
        )
    read = _saved_model if path.is_dir() else readers[path.suffix]
    with told(f"'{path}' cannot be read"):
        return read(path)


def loaded(path: Path) -> keras.Model:
    """The network of a `.keras` file; of a Distiller's, the student."""
    return student_of(keras.saving.load_model(path, compile=False))


def student_of(model: keras.Model) -> keras.Model:
    """The student of a Distiller; any other network as it is."""
    return model.student if isinstance(model, Distiller) else model


def check_built(network: keras.Model) -> keras.Model:
    """The network, if it has weights."""
    if not network.built:
        raise ValueError(
            f"Network '{network.name}' has no weights yet, since its input shape is "
            "unknown. Start it with keras.Input(...), or call it on a batch."
        )
    return network


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of other libraries, which may be of any class, as a sentence."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """What an error says; of a long text beginning and end."""
    text = " ".join(str(error).split())
    return text if len(text) <= 1000 else f"{text[:500]} […] {text[-500:]}"


def need(module: str, package: str, what: str) -> Any:
    """Import a module of the extra `export`."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            f"{what} needs {package}, which cannot be imported: {error}. Run "
            f"`pip install {package}`, or install keras-fitnets[export]."
        ) from error


def _keras(network: keras.Model) -> Running:
    check_built(network)
    inputs = samples.inputs_of(network)
    traced: dict[Any, Callable[..., list[Any]]] = {}

    def run(x: Any) -> list[np.ndarray]:
        tensors = [tf.convert_to_tensor(array) for array in keras.tree.flatten(x)]
        # Keras would take the first and leave out the others.
        if inputs and len(inputs) != len(tensors):
            raise ValueError(
                f"Network '{network.name}' takes {len(inputs)} input(s); received "
                f"{len(tensors)} array(s). Data are `x` or the tuple `(x, y)`, where "
                "`x` may be a list or a dictionary of inputs."
            )
        specs = tuple(tf.TensorSpec.from_tensor(tensor) for tensor in tensors)
        if specs not in traced:
            # Of each batch size one that knows it, as the runtimes of files do.
            step = tf.function(graph.flat_pass(network, x), autograph=False)
            traced[specs] = step.get_concrete_function(*specs)
        try:
            return [output.numpy() for output in traced[specs](*tensors)]
        except tf.errors.OpError as error:
            message = f"Network '{network.name}' fails when it is run: {brief(error)}"
            raise ValueError(message) from error

    size = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in network.weights)
    return Running(run, inputs, network, size)


def _saved_model(path: Path) -> Running:
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
    return Running(_by_name(call, inputs, path), inputs, None, size)


def _onnx(path: Path) -> Running:
    runtime = need("onnxruntime", "onnxruntime", f"Running '{path}'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _threads()
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

    run = _by_name(call, inputs, path, ordered=list)
    return Running(run, inputs, None, path.stat().st_size)


def _litert(path: Path) -> Running:
    runtime = need("ai_edge_litert.interpreter", "ai-edge-litert", f"Running '{path}'")
    interpreter = runtime.Interpreter(str(path), num_threads=_threads())
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
        quantized = {k: _quantized(v, entries[k]) for k, v in given.items()}
        found = signature(**quantized)
        return {name: _dequantized(v, exits[name]) for name, v in found.items()}

    return Running(_by_name(call, inputs, path), inputs, None, path.stat().st_size)


def _threads() -> int:
    """As many as TensorFlow has for one operation, so that times are fair."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def _quantized(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    if not scale:
        return values
    limits = np.iinfo(tensor["dtype"])
    steps = np.round(values / scale) + zero
    return np.clip(steps, limits.min, limits.max).astype(tensor["dtype"])


def _dequantized(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    return (values.astype("float32") - zero) * scale if scale else values


def _as_keras_orders(names: Sequence[str]) -> list[str]:
    """Keras numbers the outputs of a list, and sorts those of a dictionary."""
    numbers = [re.fullmatch(r"output_(\d+)", name) for name in names]
    if all(numbers):
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return sorted(names)


def _by_name(
    call: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    inputs: list[samples.Input],
    path: Path,
    ordered: Callable[[Sequence[str]], list[str]] = _as_keras_orders,
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
        count = samples.count(given)
        size = fixed or count
        spare = -count % size
        if spare:
            given = samples.taken(given, np.arange(count + spare) % count)
        try:
            parts = [
                call(samples.taken(given, slice(at, at + size)))
                for at in range(0, count, size)
            ]
        except Exception as error:
            message = f"'{path}' fails when it is run: {brief(error)}"
            raise ValueError(message) from error
        order = ordered(list(parts[0]))
        return [
            np.concatenate([part[name] for part in parts])[:count] for name in order
        ]

    return run
