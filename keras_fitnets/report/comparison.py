"""Measure any number of models side by side."""

import os
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_fitnets import backend
from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.losses import check_activation
from keras_fitnets.report.table import Report
from keras_fitnets.report.timing import measure_medians
from keras_fitnets.runtimes.arrays import by_input_name
from keras_fitnets.runtimes.arrays import num_samples
from keras_fitnets.runtimes.arrays import take
from keras_fitnets.runtimes.arrays import to_arrays
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import make_example_inputs
from keras_fitnets.runtimes.predictions import Predictions
from keras_fitnets.runtimes.predictions import predict_classes
from keras_fitnets.runtimes.predictions import score
from keras_fitnets.runtimes.runner import load_runner
from keras_fitnets.utils.checks import check_integer

# Columns of which less is better, and the names of their ratios: the first model's
# value over another's, so that a ratio above 1 is always a gain.
_RATIOS = {
    "parameters": "compression",
    "multiplications": "multiplications_ratio",
    "bytes": "bytes_ratio",
    "latency": "speed_up",
}


def compare(
    models: Mapping[str, Any],
    data: Any = None,
    *,
    batch_size: int = 128,
    repeats: int = 20,
    activation: str = "auto",
    verbose: int = 1,
) -> Report:
    """Compare models side by side: how large, how fast and how good each one is.

    Use it at the end of a distillation, to see what the student costs and what it is
    worth beside its teacher, and what an export or a quantisation changed.

    The columns are those of Table 5 of Romero et al., "FitNets" (arXiv 1412.6550), with
    ratios to the first model, the teacher: parameters, multiplications
    (`multiplications`), bytes, and the median latency and throughput of forward passes
    from arrays to arrays, the models taking turns. With data there are also the
    accuracy, the share of predictions that agree with the first model's, and the
    expected calibration error of Guo et al. (arXiv 1706.04599), `Σ_b n_b / n
    |accuracy_b - confidence_b|` over 15 bins.

    Args:
        models: from names to models: a `keras.Model`, a `Distiller` for its student,
            what `export_student` returned, or the path of a `.keras`, `.tflite` or
            `.onnx` file or of a SavedModel. The others are compared with the first.
        data: `(x, y)`, `x` alone, or a `tf.data.Dataset` of batches of either. Labels
            are classes `(samples,)`, one-hot vectors `(samples, classes)`, or 0 and 1
            for each sigmoid unit. Without data the quality is not measured.
        batch_size: the samples in a forward pass for the throughput.
        repeats: how often each time is measured; 0 leaves the times out.
        activation: what the outputs mean, `"softmax"` or `"sigmoid"`. `"auto"` reads it
            off the last layer of a network. A model that does not show it shares the
            first model's; if the first one does not show it either, one unit is a
            sigmoid and several are a softmax. Whether outputs are logits is read off
            the last layer too; where that is not visible, values that all lie between 0
            and 1, and for softmax add up to 1, are probabilities.
        verbose: 0 shows no progress bar.

    Returns:
        A `Report`, with `rows`, `to_markdown()`, `to_html()` and `plot(path)`.

    Raises:
        TypeError: if `models` is not a dictionary of models.
        ValueError: for models of other inputs or outputs than the first, labels that do
            not fit, or outputs that are NaN or infinity.
        ValueError: on another backend of Keras than TensorFlow.
        FileNotFoundError: if there is no such file.
        ImportError: if the runtime of a file is not installed.

    Example:

    >>> import keras, numpy as np
    >>> import keras_fitnets as kf
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, "relu"),
    ...         keras.layers.Dense(3),
    ...     ])
    >>> data = np.ones((8, 4)), np.ones(8)
    >>> report = kf.report.compare(
    ...     {"teacher": net(64), "student": net(4)}, data, repeats=1, verbose=0
    ... )
    >>> [row["multiplications"] for row in report.rows]
    [448, 28]
    """
    backend.check_tensorflow(
        "kf.report.compare",
        "Save the networks as `.keras` files, and run KERAS_BACKEND=tensorflow "
        "keras-fitnets report teacher.keras student.keras.",
    )
    _check_arguments(models, batch_size, repeats, activation)
    runners = {name: load_runner(model) for name, model in models.items()}
    x, y = (None, None) if data is None else to_arrays(data)
    first = next(iter(runners.values()))
    notes: list[str] = []
    rows: list[dict[str, Any]] = [
        {"model": name, **_measure_size(name, models[name], runner, x, notes)}
        for name, runner in runners.items()
    ]
    bar = keras.utils.Progbar(len(rows) + 2 * repeats, verbose=verbose)
    reference: Predictions | None = None
    for row, (name, runner) in zip(rows, runners.items(), strict=True):
        if x is not None:
            outputs = runner.predict(_prepare_inputs(x, runner, first), batch_size)
            predictions = predict_classes(name, runner, outputs, activation, reference)
            if reference is None:
                reference = predictions
            row |= score(name, predictions, reference, y)
        bar.add(1)
    if repeats:
        sample = make_example_inputs(first, 1) if x is None else x
        for key, size in (("latency", 1), ("throughput", batch_size)):
            steps = _make_steps(runners, first, sample, size)
            times = measure_medians(steps, repeats, progress=bar.add)
            for row in rows:
                seconds = times[row["model"]]
                row[key] = seconds if key == "latency" else size / seconds
    for row in rows:
        _add_ratios(row, rows[0])
    return Report(rows, batch_size, tuple(notes))


def _check_arguments(
    models: Any, batch_size: Any, repeats: Any, activation: Any
) -> None:
    is_by_name = isinstance(models, Mapping) and all(
        isinstance(name, str) for name in models
    )
    if not is_by_name or not models:
        raise TypeError(
            "`models` must be a dictionary from names to models, at least one; "
            f'received {models!r}. For example {{"teacher": teacher}}.'
        )
    if activation != "auto":
        check_activation(activation)
    check_integer("batch_size", batch_size)
    check_integer("repeats", repeats, minimum=0)


def _measure_size(
    name: str, model: Any, runner: Runner, x: Any, notes: list[str]
) -> dict[str, int | None]:
    """Return parameters, multiplications and bytes; note what cannot be counted.

    Args:
        name: the model's name, for the note.
        model: what the user passed.
        runner: the same, ready to run.
        x: a batch of inputs, or None.
        notes: the notes of the report.
    """
    size: dict[str, int | None] = {"parameters": None, "multiplications": None}
    # A file shows no parameters or multiplications, but an `Exported` is a path that
    # carries those of its network. Its attributes are enough to recognise it, so that
    # this package need not import the exporter.
    if isinstance(model, os.PathLike) and hasattr(model, "multiplications"):
        exported: Any = model
        size["parameters"] = exported.parameters
        size["multiplications"] = exported.multiplications
    elif runner.network is not None:
        size["parameters"] = runner.network.count_params()
        try:
            size["multiplications"] = multiplications(runner.network, x)
        except ValueError as error:
            notes.append(f"{name}: {error}")
    return {**size, "bytes": runner.bytes}


def _prepare_inputs(x: Any, runner: Runner, first: Runner) -> Any:
    """Return inputs as a model takes them.

    A Keras network takes the user's own structure. A file has names for its inputs,
    which are those of the network that it was exported from: the first model's.
    """
    return x if runner.network is not None else by_input_name(x, first.network)


def _make_steps(
    runners: Mapping[str, Runner], first: Runner, x: Any, size: int
) -> dict[str, Callable[[], object]]:
    """Return a function for each model that makes a forward pass of `size` samples."""
    # Repeat the samples where there are fewer than the batch needs.
    batch = take(x, np.arange(size) % num_samples(x))

    def make_step(runner: Runner) -> Callable[[], object]:
        inputs = _prepare_inputs(batch, runner, first)
        return lambda: runner.run(inputs)

    return {name: make_step(runner) for name, runner in runners.items()}


def _add_ratios(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Add to a row how it compares with the first one."""
    for key, ratio in _RATIOS.items():
        # Nothing is divided by 0, or by what could not be counted.
        is_known = bool(row.get(key) and first.get(key))
        row[ratio] = first[key] / row[key] if is_known else None
    if row.get("throughput"):
        row["throughput_ratio"] = row["throughput"] / first["throughput"]
