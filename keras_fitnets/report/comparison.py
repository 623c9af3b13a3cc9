"""Any number of models side by side."""

import os
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.losses import check_activation
from keras_fitnets.report.table import Report
from keras_fitnets.report.timing import measure_medians
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.runtimes.base import Runner
from keras_fitnets.runtimes.base import make_example_inputs
from keras_fitnets.runtimes.predictions import predict_classes
from keras_fitnets.runtimes.predictions import score
from keras_fitnets.runtimes.runner import load_runner
from keras_fitnets.utils.checks import check_integer

# What the first model has for each of another's, where less is better.
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
    """Put models side by side: how large, how fast and how good each is.

    The columns of Table 5 of Romero et al., "FitNets" (arXiv 1412.6550), and its ratios
    to the first model, the teacher: parameters, multiplications (`multiplications`),
    bytes, and the median latency and throughput of forward passes from arrays to
    arrays, the models taking turns. Of data there is accuracy, the share of equal
    choices with the first model, and the expected calibration error of Guo et al.
    (arXiv 1706.04599), `Σ_b n_b / n |accuracy_b - confidence_b|` over 15 bins.

    Args:
        models: from names to models: a `keras.Model`, a `Distiller` for its student,
            what `export_student` returned, or the path of a `.keras`, `.tflite` or
            `.onnx` file or of a SavedModel. The first is what the others are compared
            with.
        data: `(x, y)`, `x` alone, or a `tf.data.Dataset` of batches of either. Labels
            are classes, one-hot vectors, or 0 and 1 for each sigmoid unit. Without it
            nothing is told of how good the models are.
        batch_size: samples in a forward pass where throughput is measured.
        repeats: how often each time is measured; 0 leaves the times out.
        activation: what the outputs mean, `"softmax"` or `"sigmoid"`; `"auto"` sees it
            from the end of a network, or takes what the first model has, and of a
            first one that shows nothing one unit for sigmoid and several for softmax.
            Whether they are logits is seen from there too; where none is to
            be seen, values that are all between 0 and 1, and add up to 1 for softmax,
            are probabilities.
        verbose: 0 shows no progress.

    Returns:
        A `Report`, with `rows`, `to_markdown()`, `to_html()` and `plot(path)`.

    Raises:
        TypeError, ValueError: for what is no model, models of other inputs or outputs
            than the first, labels that do not fit, or outputs of NaN or infinity.
        FileNotFoundError, ImportError: for a file that is not there, or whose runtime
            is not installed.

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
    _check(models, batch_size, repeats, activation)
    ready = {name: load_runner(model) for name, model in models.items()}
    x, y = (None, None) if data is None else samples.to_arrays(data)
    first = next(iter(ready.values()))
    notes: list[str] = []
    rows: list[dict[str, Any]] = [
        {"model": name, **_measure_size(name, models[name], model, x, notes)}
        for name, model in ready.items()
    ]
    bar = keras.utils.Progbar(len(rows) + 2 * repeats, verbose=verbose)
    reference = None
    for row, (name, model) in zip(rows, ready.items(), strict=True):
        if x is not None:
            outputs = model.predict(_name_inputs(x, model, first), batch_size)
            chosen = predict_classes(name, model, outputs, activation, reference)
            reference = reference or chosen
            row |= score(name, chosen, reference, y)
        bar.add(1)
    if repeats:
        sample = make_example_inputs(first, 1) if x is None else x
        for key, size in (("latency", 1), ("throughput", batch_size)):
            steps = _create_steps(ready, first, sample, size)
            times = measure_medians(steps, repeats, progress=bar.add)
            for row in rows:
                seconds = times[row["model"]]
                row[key] = seconds if key == "latency" else size / seconds
    for row in rows:
        _add_ratios(row, rows[0])
    return Report(rows, batch_size, tuple(notes))


def _check(models: Any, batch_size: Any, repeats: Any, activation: Any) -> None:
    fits = isinstance(models, Mapping) and all(isinstance(n, str) for n in models)
    if not fits or not models:
        raise TypeError(
            "`models` must be a dictionary from names to models, at least one; "
            f'received {models!r}. For example {{"teacher": teacher}}.'
        )
    if activation != "auto":
        check_activation(activation)
    check_integer("batch_size", batch_size)
    check_integer("repeats", repeats, minimum=0)


def _measure_size(
    name: str, model: Any, ready: Runner, x: Any, notes: list[str]
) -> dict[str, int | None]:
    found: dict[str, int | None] = {"parameters": None, "multiplications": None}
    # What `export_student` returns is a path that knows the counts of its network.
    if isinstance(model, os.PathLike) and hasattr(model, "multiplications"):
        counts: Any = model
        found = {
            "parameters": counts.parameters,
            "multiplications": counts.multiplications,
        }
    elif ready.network is not None:
        found["parameters"] = ready.network.count_params()
        try:
            found["multiplications"] = multiplications(ready.network, x)
        except ValueError as error:
            notes.append(f"{name}: {error}")
    return {**found, "bytes": ready.bytes}


def _name_inputs(x: Any, model: Runner, first: Runner) -> Any:
    """The inputs as a model takes them: a file has its several inputs by name."""
    return x if model.network is not None else samples.by_input_name(x, first.network)


def _create_steps(
    ready: Mapping[str, Runner], first: Runner, x: Any, size: int
) -> dict[str, Callable[[], object]]:
    """For each model a forward pass of so many samples."""
    batch = samples.take(x, np.arange(size) % samples.num_samples(x))

    def step(model: Runner) -> Callable[[], object]:
        given = _name_inputs(batch, model, first)
        return lambda: model.run(given)

    return {name: step(model) for name, model in ready.items()}


def _add_ratios(row: dict[str, Any], first: dict[str, Any]) -> None:
    for key, ratio in _RATIOS.items():
        row[ratio] = first[key] / row[key] if row.get(key) and first.get(key) else None
    if row.get("throughput"):
        row["throughput_ratio"] = row["throughput"] / first["throughput"]
