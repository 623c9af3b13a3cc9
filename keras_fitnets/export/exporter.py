"""From a trained student to a checked file."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fitnets.export import converters
from keras_fitnets.export.export_model import build_export_model
from keras_fitnets.export.result import Exported
from keras_fitnets.inspection.graph import check_built
from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import make_example_inputs
from keras_fitnets.runtimes.keras_model import get_student
from keras_fitnets.runtimes.keras_model import load_keras_model
from keras_fitnets.runtimes.predictions import predict_classes
from keras_fitnets.runtimes.predictions import score
from keras_fitnets.runtimes.runner import load_runner
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.errors import reraise_as_value_error

# The largest difference of an output, over the network's largest output.
TOLERANCES = {None: 1e-3, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2}
_BATCH = 128


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

    Through Keras' own `export`; nothing of the teacher or the regressors is in it. The
    file is then loaded in its own runtime and run beside the Keras model. Where
    `max |file - network| / max |network|` over the outputs is above `tolerance` it is
    an error, and what was at `path` before stays there.

    Args:
        source: a `Distiller`, a `keras.Model`, or the path of a `.keras` file of one.
        path: `….tflite` for LiteRT, where recurrent layers are unrolled, `….onnx` for
            ONNX; anything else becomes the directory of a SavedModel.
        quantize: None for float32; of LiteRT and ONNX `"float16"` (weights; ONNX
            computes in it too), `"dynamic"` (weights in 8 bits, activations as they
            come) or `"int8"` (both).
        representative_data: for `"int8"` some hundred inputs, by which the ranges of
            the activations are found: `x`, `(x, y)` or a `tf.data.Dataset` of batches.
        data: what the file is compared on, in the same forms; with labels `accuracy` is
            told. By default `representative_data`, or else 32 normal samples, integers
            being zero.
        tolerance: by default 1e-3, and 1e-2, 0.1, 0.2 for the three quantisations.
        preprocessing: a layer, or a list of them, that goes into the file in front of
            the student: normalisation, for instance. `data` are then raw inputs.
        activation: `"softmax"` or `"sigmoid"`, that goes in behind a student of logits.
        int8_io: of a LiteRT file in int8, take and give integers too, as
            microcontrollers ask for.

    Returns:
        An `Exported`, which `keras_fitnets.report.compare` takes for a model.

    Raises:
        TypeError, ValueError: for what cannot be exported, or arguments that do not go
            together; if the file is further from the network than `tolerance`.
        OSError: where nothing can be written.
        ImportError: if a runtime is not installed; the extra `export` brings them.

    Example:

    >>> import keras
    >>> import keras_fitnets as kf
    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> found = kf.export.export_student(student, "student.tflite")
    >>> found.format, found.parameters, found.agreement
    ('litert', 15, 1.0)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`path` must be the path of a file; received {path!r}.")
    path = Path(path)
    _check(path, quantize, representative_data, tolerance, int8_io)
    student = check_built(_load_student(source))
    inputs, x, y = None, None, None
    if representative_data is not None:
        x = inputs = samples.to_arrays(representative_data)[0]
    if data is not None:
        x, y = samples.to_arrays(data)
    network = build_export_model(student, preprocessing, activation, x)
    model = load_runner(network)
    x = make_example_inputs(model, 32) if x is None else x
    for given in (x, inputs):
        if given is not None:
            what = f"Network '{network.name}'"
            samples.check_inputs(
                what, model.inputs, samples.by_input_name(given, network)
            )
    with _create_folder(path) as folder:
        beside = Path(folder) / path.name
        with reraise_as_value_error(
            f"Network '{network.name}' cannot be exported to '{path}'"
        ):
            converters.write(network, beside, quantize, inputs, int8_io)
            file = load_runner(beside)
            given = file.predict(samples.by_input_name(x, network), _BATCH)
        found = _compare_outputs(model, file, model.predict(x, _BATCH), given, y)
        most = TOLERANCES[quantize] if tolerance is None else tolerance
        if not found["largest_difference"] <= most:
            raise ValueError(
                _describe_difference(
                    path, quantize, found, most, samples.num_samples(x)
                )
            )
        _move(beside, path)
    return Exported(
        path=str(path),
        format={".tflite": "litert", ".onnx": "onnx"}.get(path.suffix, "saved_model"),
        quantize=quantize,
        parameters=network.count_params(),
        multiplications=_multiplications(network, x),
        **found,
    )


def _check(
    path: Path,
    quantize: Any,
    representative_data: Any,
    tolerance: Any,
    int8_io: Any,
) -> None:
    check_choice("quantize", quantize, converters.QUANTIZATIONS)
    if quantize is not None and path.suffix not in (".tflite", ".onnx"):
        raise ValueError(
            f"A SavedModel, which '{path}' would be, is not quantised; received "
            f'quantize={quantize!r}. Let the path end in ".tflite" or ".onnx".'
        )
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            'quantize="int8" finds the ranges of the activations by data: pass some '
            "hundred inputs as `representative_data`, as the student sees them in use."
        )
    if int8_io and (quantize != "int8" or path.suffix != ".tflite"):
        raise ValueError(
            '`int8_io` is for LiteRT files with quantize="int8"; received '
            f"quantize={quantize!r} for '{path}'."
        )
    if tolerance is not None:
        check_number("tolerance", tolerance)
    if path.suffix in (".keras", ".h5"):
        raise ValueError(
            f"'{path}' has an ending of Keras' own. Take .tflite or .onnx, or none for "
            "a SavedModel; `student.save` writes a .keras file."
        )
    if path.name in ("", ".."):
        raise ValueError(
            f"'{path}' is a folder that others are in. Name a new one within it."
        )
    file = path.suffix in (".tflite", ".onnx")
    if path.exists() and path.is_dir() == file:
        what = "a directory, and no file" if file else "a file, and no SavedModel"
        raise ValueError(f"'{path}' is there already: {what} to be replaced.")
    if path.is_dir() and any(path.iterdir()) and not _is_saved_model(path):
        raise ValueError(
            f"The directory '{path}' holds something else than a SavedModel, and would "
            "be replaced. Choose another path, or one ending in .tflite or .onnx."
        )


def _create_folder(path: Path) -> tempfile.TemporaryDirectory[str]:
    """In the same folder as a path, so that what is in it can be moved there."""
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
                f"'{source}' is no `.keras` file that is there, looked for in "
                f"{Path.cwd()}. Pass one, or a Distiller or a keras.Model."
            )
        with reraise_as_value_error(f"'{source}' cannot be read"):
            return load_keras_model(Path(source))
    if not isinstance(source, keras.Model):
        raise TypeError(
            "What is exported must be a Distiller, a keras.Model or the path of a "
            f"`.keras` file; received {source!r}."
        )
    return get_student(source)


def _compare_outputs(
    model: Runner,
    file: Runner,
    wanted: list[np.ndarray],
    given: list[np.ndarray],
    y: Any,
) -> dict[str, Any]:
    """The outputs of a file beside those of the network."""
    if not all(np.isfinite(output).all() for output in wanted):
        raise ValueError(
            "The network itself gives NaN or infinity, so no file can be compared with "
            "it. Look at its weights, at `preprocessing` that was not adapted, and at "
            "`data`."
        )
    largest = max(float(np.max(np.abs(output))) for output in wanted)
    differences = [
        float(np.max(np.abs(one.astype("float64") - other)))
        for one, other in zip(given, wanted, strict=True)
    ]
    found: dict[str, Any] = {
        "bytes": file.bytes,
        "largest_difference": max(differences) / (largest or 1.0),
        "agreement": None,
        "accuracy": None,
    }
    if len(wanted) == 1 and np.isfinite(given[0]).all():
        # What the outputs mean is seen from the network; a file does not show it.
        own, files = (
            predict_classes("", model, each, "auto") for each in (wanted, given)
        )
        rates = score("", files, own, y)
        found |= {name: rates[name] for name in ("agreement", "accuracy")}
    return found


def _describe_difference(
    path: Path,
    quantize: str | None,
    found: dict[str, Any],
    tolerance: float,
    count: int,
) -> str:
    agreement = found["agreement"]
    same = "" if agreement is None else f" ({100 * agreement:.1f} % chosen alike)"
    remedy = {
        None: "This is no rounding: a layer is exported as something else.",
        "int8": "Pass more, or more typical, `representative_data`, or take "
        '"dynamic" or "float16".',
    }.get(quantize, "Take a finer `quantize`.")
    return (
        f"On {count} samples the file differs from the network by "
        f"{found['largest_difference']:.3g} of the largest output{same}; the tolerance "
        f"is {tolerance:g}, so nothing was written to '{path}'. {remedy} If it is good "
        "enough, pass a larger `tolerance`."
    )


def _multiplications(network: keras.Model, x: Any) -> int | None:
    try:
        return multiplications(network, x)
    except ValueError:
        return None


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()


def _move(source: Path, path: Path) -> None:
    """To its place, where an older file or SavedModel may be."""
    if path.is_dir():
        shutil.rmtree(path)
    source.replace(path)
