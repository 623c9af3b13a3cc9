"""Command line: report and export.

Data flow from the options through `_load_data` into `report.compare` or
`export_student`; what those return is printed, and their errors become one line.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from keras_fitnets import datasets
from keras_fitnets.export import Exported
from keras_fitnets.export import export_student
from keras_fitnets.export.converters import QUANTIZATIONS
from keras_fitnets.report import Report
from keras_fitnets.report import compare
from keras_fitnets.version import __version__

# What `--format` prints a report with.
_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": str,
    "markdown": Report.to_markdown,
    "html": Report.to_html,
}


def _add_data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name data, from a file or from a data set."""
    options = (
        click.option(
            "--data", metavar="FILE", help="A .npz with `x`, and `y` if known."
        ),
        click.option(
            "--dataset", help="A data set of keras_fitnets.datasets: digits, …"
        ),
        click.option(
            "--split", default="test", show_default=True, help="Of --dataset."
        ),
        click.option("--data-dir", help="Where tensorflow-datasets has --dataset."),
    )
    # Decorators apply from the bottom up: reversed, the help lists them in this order.
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
@click.version_option(__version__, package_name="keras-fitnets")
def main() -> None:
    """Thin, deep, fast Keras networks: compare them, and export them."""


@main.command()
@click.argument("models", nargs=-1, required=True)
@_add_data_options
@click.option("--batch-size", default=128, show_default=True, help="Of the throughput.")
@click.option(
    "--repeats", default=20, show_default=True, help="Of each time; 0 for no times."
)
@click.option("--format", "form", type=click.Choice([*_FORMATS]), default="text")
@click.option("--plot", metavar="FILE", help="Also draw accuracy over multiplications.")
def report(
    models: Sequence[str],
    data: str | None,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    batch_size: int,
    repeats: int,
    form: str,
    plot: str | None,
) -> None:
    """Compare MODELS side by side; ratios are to the first one.

    Each is a .keras, .tflite or .onnx file, or the directory of a SavedModel.
    """
    with _print_errors():
        # No progress bar: the report is to be read by other programs as well.
        result = compare(
            _name_models(models),
            _load_data(data, dataset, split, data_dir),
            batch_size=batch_size,
            repeats=repeats,
            verbose=0,
        )
        click.echo(_FORMATS[form](result))
        if plot is not None:
            result.plot(plot)


@main.command()
@click.argument("source")
@click.argument("path")
@_add_data_options
# Without the option nothing is quantised, which the library calls None.
@click.option("--quantize", type=click.Choice([q for q in QUANTIZATIONS if q]))
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]))
@click.option("--int8-io", is_flag=True, help="Take and give integers (LiteRT, int8).")
@click.option("--tolerance", type=float, help="How far the file may be off.")
def export(
    source: str,
    path: str,
    data: str | None,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    quantize: str | None,
    activation: str | None,
    int8_io: bool,
    tolerance: float | None,
) -> None:
    """Write SOURCE, a .keras file, to PATH, and compare the two.

    PATH ends in .tflite or .onnx, or becomes the directory of a SavedModel. If SOURCE
    is the file of a Distiller, its student is written. Quantising to int8 finds the
    ranges of the activations from --data or --dataset.
    """
    with _print_errors():
        # Ask for data here, in the words of the command: the library's error speaks of
        # `representative_data`, which is no option.
        arrays = _load_data(data, dataset, split, data_dir)
        if quantize == "int8" and arrays is None:
            raise click.UsageError(
                "--quantize int8 finds the ranges of the activations from data. Name "
                "some hundred samples, as the student will see them: --data or "
                "--dataset."
            )
        exported = export_student(
            source,
            path,
            quantize=quantize,
            representative_data=arrays if quantize == "int8" else None,
            data=arrays,
            tolerance=tolerance,
            activation=activation,
            int8_io=int8_io,
        )
        click.echo(_describe(exported))


def _describe(exported: Exported) -> str:
    """Return one line on an exported file, without what was not measured."""
    line = f"{exported.path}: {exported.bytes:,} bytes; off by at most "
    line += f"{exported.largest_difference:.2g} of the largest output"
    if exported.agreement is not None:
        line += f"; predicted alike {100 * exported.agreement:.2f} %"
    if exported.accuracy is not None:
        line += f"; accuracy {100 * exported.accuracy:.2f} %"
    return line


@contextlib.contextmanager
def _print_errors() -> Iterator[None]:
    """Print the library's errors as a line, with exit code 1, and no traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


def _name_models(models: Sequence[str]) -> dict[str, str]:
    """Name models by their files, or by their paths if two files have one name."""
    # The names are printed in the table, where a path would be wide.
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        names = list(models)
    if len(set(names)) < len(names):
        raise ValueError(
            f"A model is named twice: {', '.join(models)}. Name each one once."
        )
    return dict(zip(names, models, strict=True))


def _load_data(
    data: str | None, dataset: str | None, split: str, data_dir: str | None
) -> Any:
    """Return `(x, y)`, `x`, a dataset, or None, as the options name them."""
    if data is not None and dataset is not None:
        raise click.UsageError("Name the data once: --data or --dataset.")
    # In the order of the files, so that the command gives the same result every time.
    if dataset is not None:
        return datasets.load(
            dataset, split, batch_size=1000, shuffle=False, data_dir=data_dir
        )
    if data is None:
        return None
    if Path(data).suffix != ".npz":
        raise ValueError(
            f"--data must be a .npz file with an array `x`, and `y` if known; received "
            f"'{data}'. `numpy.savez(path, x=x, y=y)` writes one."
        )
    # A file from a stranger could run code if pickles were allowed. A damaged one can
    # raise errors of many classes.
    try:
        with (
            Path(data).open("rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            arrays = dict(file)
    except Exception as error:
        raise ValueError(f"'{data}' cannot be read: {error}") from error
    if "x" not in arrays:
        raise ValueError(
            f"'{data}' has no array `x`, only {sorted(arrays)}. Name the inputs `x` "
            "and the labels `y`: `numpy.savez(path, x=x, y=y)`."
        )
    return (arrays["x"], arrays["y"]) if "y" in arrays else arrays["x"]
