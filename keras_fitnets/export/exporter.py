"""Export a trained student, and keep the file only if it agrees with the student."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fitnets import backend
from keras_fitnets.export.converters import QUANTIZATIONS
from keras_fitnets.export.converters import Conversion
from keras_fitnets.export.export_model import build_export_model
from keras_fitnets.export.result import Exported
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.runtimes.arrays import by_input_name
from keras_fitnets.runtimes.arrays import check_inputs
from keras_fitnets.runtimes.arrays import num_samples
from keras_fitnets.runtimes.arrays import to_arrays
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import make_example_inputs
from keras_fitnets.runtimes.keras_model import get_student
from keras_fitnets.runtimes.keras_model import load_keras_model
from keras_fitnets.runtimes.predictions import predict_classes
from keras_fitnets.runtimes.predictions import score
from keras_fitnets.runtimes.runner import load_runner
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.errors import reraise_as_value_error

# The largest difference of an output from the network's, divided by the network's
# largest output, by `quantize`.
TOLERANCES = {None: 1e-3, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2}
_FORMATS = {".tflite": "litert", ".onnx": "onnx"}
_BATCH_SIZE = 128


def export_student(
    source: Any,
    path: Any,
    *,
    quantize: str | None = None,
    representative_data: Any = None,
    data: Any = None,
    tolerance: float | None = None,
    preprocessing: Any = None,
    activation: str | None = None,
    int8_io: bool = False,
) -> Exported:
    """Write the student alone to a file, and compare the file with the student.

    Use it when training is over. The file is written with Keras' own `export`; nothing
    of the teacher or the regressors is in it. It is then loaded in its own runtime and
    run beside the Keras model. If `max |file - network| / max |network|` over the
    outputs is above `tolerance`, an error is raised, and what was at `path` before
    stays there.

    Args:
        source: a `Distiller`, a `keras.Model`, or the path of a `.keras` file of one.
        path: `….tflite` for LiteRT, where recurrent layers are unrolled, `….onnx` for
            ONNX; anything else becomes the directory of a SavedModel.
        quantize: None for float32. For LiteRT and ONNX also `"float16"` (weights; ONNX
            computes in it too), `"dynamic"` (weights in 8 bits, activations quantised
            at run time) or `"int8"` (both in 8 bits).
        representative_data: for `"int8"` some hundred inputs, which show the ranges of
            the activations: `x`, `(x, y)` or a `tf.data.Dataset` of batches, with the
            samples in the first axis.
        data: what the file is compared on, in the same forms. With labels the
            `accuracy` is measured too. By default `representative_data`, or else 32
            samples from a normal distribution, integers being zero.
        tolerance: by default 1e-3, and 1e-2, 0.1, 0.2 for the three quantisations.
        preprocessing: a layer, or a list of them, that goes into the file in front of
            the student: normalisation, for instance. `data` are then raw inputs.
        activation: `"softmax"` or `"sigmoid"`, to follow a student that gives logits.
        int8_io: for a LiteRT file in int8, take and give integers as well, as
            microcontrollers need it.

    Returns:
        An `Exported`, which `keras_fitnets.report.compare` takes as a model.

    Raises:
        TypeError: if `source` is no network, `path` no path, or `preprocessing` no
            layer.
        ValueError: for a network that cannot be exported, arguments that exclude each
            other, or a file that differs from the network by more than `tolerance`.
        OSError: if nothing can be written there.
        ImportError: if a runtime is not installed; the extra `export` has them.

    Example:

    >>> import keras
    >>> import keras_fitnets as kf
    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> exported = kf.export.export_student(student, "student.tflite")
    >>> exported.format, exported.parameters, exported.agreement
    ('litert', 15, 1.0)
    """
    backend.check_tensorflow(
        "kf.export.export_student",
        "Save the student, `distiller.student.save('student.keras')`, and run "
        "KERAS_BACKEND=tensorflow keras-fitnets export student.keras student.tflite.",
    )
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"`path` must be the path of a file; received {path!r}. For example "
            '"student.tflite".'
        )
    path = Path(path)
    _check_options(path, quantize, representative_data, tolerance, int8_io)
    _check_path(path)
    student = graph.check_built(_load_student(source))
    calibration_x, x, y = None, None, None
    if representative_data is not None:
        calibration_x, _ = to_arrays(representative_data)
        x = calibration_x
    if data is not None:
        x, y = to_arrays(data)
    network = build_export_model(student, preprocessing, activation, x)
    model = load_runner(network)
    _check_no_text(path, model)
    if x is None:
        x = make_example_inputs(model, 32)
    for inputs in (x, calibration_x):
        if inputs is not None:
            owner = f"Network '{network.name}'"
            check_inputs(owner, model.inputs, by_input_name(inputs, network))
    with _create_folder_beside(path) as folder:
        new_path = Path(folder) / path.name
        # The converters raise errors of many classes for what they cannot convert.
        with reraise_as_value_error(
            f"Network '{network.name}' cannot be exported to '{path}'"
            + _advise_on_sizes(path, network)
        ):
            Conversion(network, new_path, quantize, calibration_x, int8_io).write()
            file = load_runner(new_path)
            file_outputs = file.predict(by_input_name(x, network), _BATCH_SIZE)
        outputs = model.predict(x, _BATCH_SIZE)
        comparison = _compare_outputs(model, outputs, file_outputs, y)
        largest = TOLERANCES[quantize] if tolerance is None else tolerance
        # Not `>`: a difference of NaN, for which no comparison holds, is refused too.
        if not comparison["largest_difference"] <= largest:
            raise ValueError(
                f"On {num_samples(x)} samples the file differs from the network by "
                + _describe_difference(path, quantize, comparison, largest)
            )
        _replace(new_path, path)
    return Exported(
        path=str(path),
        format=_FORMATS.get(path.suffix, "saved_model"),
        quantize=quantize,
        bytes=file.bytes,
        parameters=network.count_params(),
        multiplications=_count_multiplications(network, x),
        **comparison,
    )


def _check_options(
    path: Path,
    quantize: Any,
    representative_data: Any,
    tolerance: Any,
    int8_io: Any,
) -> None:
    """Check that the options fit together, and the format."""
    check_choice("quantize", quantize, QUANTIZATIONS)
    if quantize is not None and path.suffix not in _FORMATS:
        raise ValueError(
            f"A SavedModel, which '{path}' would be, is not quantised; received "
            f'quantize={quantize!r}. Let the path end in ".tflite" or ".onnx".'
        )
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            'quantize="int8" needs data to find the ranges of the activations. Pass '
            "some hundred inputs as `representative_data`, as the student will see "
            "them."
        )
    if int8_io and (quantize != "int8" or path.suffix != ".tflite"):
        raise ValueError(
            '`int8_io` is for LiteRT files with quantize="int8"; received '
            f"quantize={quantize!r} for '{path}'. Leave it out."
        )
    if tolerance is not None:
        check_number("tolerance", tolerance)


def _check_path(path: Path) -> None:
    """Check that nothing but an older export would be replaced at `path`."""
    if path.suffix in (".keras", ".h5"):
        raise ValueError(
            f"'{path}' ends like one of Keras' own files. End it in .tflite or .onnx, "
            "or in nothing for a SavedModel; `student.save` writes a .keras file."
        )
    # `Path(".").name` is empty: the current folder, the root, and their parents.
    if path.name in ("", ".."):
        raise ValueError(
            f"'{path}' is a folder that others are in. Name a new one within it."
        )
    is_file_format = path.suffix in _FORMATS
    if path.exists() and path.is_dir() == is_file_format:
        found, wanted = (
            ("a directory", "a file") if is_file_format else ("a file", "a SavedModel")
        )
        raise ValueError(
            f"'{path}' exists and is {found}, not {wanted} to replace. Remove it, or "
            "choose another path."
        )
    if path.is_dir() and any(path.iterdir()) and not _is_saved_model(path):
        raise ValueError(
            f"The directory '{path}' holds something other than a SavedModel, and "
            "would be replaced. Choose another path, or one ending in .tflite or .onnx."
        )


def _check_no_text(path: Path, model: Runner) -> None:
    """Raise for text in a format whose runtimes have no operations for it."""
    names = [info.name for info in model.inputs if is_text_dtype(info.dtype)]
    if names and path.suffix in _FORMATS:
        raise ValueError(
            f"'{path}' would have to read text, as input {names}, and LiteRT and ONNX "
            "have neither text nor the tables that look it up. Export a SavedModel, "
            "by a path without an ending, or the part of the student behind the lookup."
        )


def _advise_on_sizes(path: Path, network: keras.Model) -> str:
    """Return what to try if LiteRT cannot convert inputs of unknown sizes, or nothing.

    It has no operation for many that it could convert if it knew all sizes but one.
    """
    inputs = graph.get_inputs(network)
    flat = keras.tree.flatten(inputs)
    if path.suffix != ".tflite" or not any(None in t.shape[1:] for t in flat):
        return ""
    shapes = {tensor.name: tuple(tensor.shape) for tensor in flat}
    example = (
        "{t.name: keras.Input((128,), dtype=t.dtype, name=t.name) for t in "
        "student.inputs}"
        if isinstance(inputs, dict)
        else "keras.Input((128, ...))"
    )
    return (
        f". LiteRT needs to know most sizes, and the inputs are {shapes}. Fix them: "
        f"with inputs = {example}, export keras.Model(inputs, student(inputs)). The "
        "converter said"
    )


def _create_folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder next to `path`.

    It is on the same file system, so that a file in it can be moved to `path` in one
    step, and is never seen there half written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=".export_")
    except OSError as error:
        raise OSError(
            f"Nothing can be written into '{path.parent}': {error.strerror}. Choose "
            "another path."
        ) from error


def _load_student(source: Any) -> keras.Model:
    if isinstance(source, (str, os.PathLike)):
        if Path(source).suffix != ".keras" or not Path(source).is_file():
            raise ValueError(
                f"'{source}' is no `.keras` file in {Path.cwd()}. Pass the path of "
                "one, or a Distiller or a keras.Model."
            )
        with reraise_as_value_error(f"'{source}' cannot be read"):
            return load_keras_model(Path(source))
    if not isinstance(source, keras.Model):
        raise TypeError(
            "The source of an export must be a Distiller, a keras.Model or the path of "
            f"a `.keras` file; received {source!r}."
        )
    return get_student(source)


def _compare_outputs(
    model: Runner, outputs: list[np.ndarray], file_outputs: list[np.ndarray], y: Any
) -> dict[str, Any]:
    """Compare the outputs of a file with those of the network.

    Args:
        model: the network.
        outputs: its outputs, arrays `(samples, ...)`.
        file_outputs: those of the file for the same inputs.
        y: labels, or None.

    Returns:
        `largest_difference`, `agreement` and `accuracy`, as `Exported` has them.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError(
            "The network itself gives NaN or infinity, so no file can be compared with "
            "it. Look at its weights, at `preprocessing` that was not adapted, and at "
            "`data`."
        )
    largest = max(float(np.max(np.abs(output))) for output in outputs)
    differences = [
        float(np.max(np.abs(one.astype("float64") - other)))
        for one, other in zip(file_outputs, outputs, strict=True)
    ]
    comparison: dict[str, Any] = {
        # A network that gives zeros alone has no scale to divide by.
        "largest_difference": max(differences) / (largest or 1.0),
        "agreement": None,
        "accuracy": None,
    }
    if len(outputs) == 1 and np.isfinite(file_outputs[0]).all():
        # The network shows what its outputs mean, a file does not: read both as the
        # network's.
        reference = predict_classes("", model, outputs, "auto")
        predictions = predict_classes("", model, file_outputs, "auto")
        scores = score("", predictions, reference, y)
        comparison["agreement"] = scores["agreement"]
        comparison["accuracy"] = scores["accuracy"]
    return comparison


def _describe_difference(
    path: Path, quantize: str | None, comparison: dict[str, Any], tolerance: float
) -> str:
    """Return how far a file is off, and what to do about it."""
    agreement = comparison["agreement"]
    same = "" if agreement is None else f" ({100 * agreement:.1f} % predicted alike)"
    if quantize is None:
        advice = "Rounding cannot explain this: a layer is exported as something else."
    elif quantize == "int8":
        advice = (
            "Pass more, or more typical, `representative_data`, or take "
            '"dynamic" or "float16".'
        )
    else:
        advice = "Take a finer `quantize`."
    return (
        f"{comparison['largest_difference']:.3g} of the largest output{same}; the "
        f"tolerance is {tolerance:g}, so nothing was written to '{path}'. {advice} If "
        "the file is good enough, pass a larger `tolerance`."
    )


def _count_multiplications(network: keras.Model, x: Any) -> int | None:
    try:
        return multiplications(network, x)
    # A loop hides its operations from the count, which does not hinder an export.
    except ValueError:
        return None


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()


def _replace(source: Path, path: Path) -> None:
    """Move a file or SavedModel to `path`, in place of an older one."""
    # Unlike a file, a directory cannot be replaced by a move unless it is empty.
    if path.is_dir():
        shutil.rmtree(path)
    source.replace(path)
