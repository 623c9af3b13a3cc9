"""For those who live in a shell: reports and exports of saved models."""

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from keras_fitnets import datasets
from keras_fitnets.export import export_student
from keras_fitnets.export.converters import QUANTIZATIONS
from keras_fitnets.report import Report
from keras_fitnets.report import compare
from keras_fitnets.version import __version__

_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": str,
    "markdown": Report.to_markdown,
    "html": Report.to_html,
}


def _data_options(command: Callable[..., None]) -> Callable[..., None]:
    """The two ways to name data, and how far they go."""
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
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
@click.version_option(__version__, package_name="keras-fitnets")
def main() -> None:
    """Thin, deep, fast Keras networks: look at them, and ship them."""


@main.command()
@click.argument("models", nargs=-1, required=True)
@_data_options
@click.option("--batch-size", default=128, show_default=True, help="Of the throughput.")
@click.option("--repeats", default=20, show_default=True, help="Of each time; or 0.")
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
    """Put MODELS side by side, the first of them as what the others are measured by.

    Each is a .keras, .tflite or .onnx file, or the directory of a SavedModel.
    """

    def work() -> None:
        found = compare(
            _named(models),
            _data(data, dataset, split, data_dir),
            batch_size=batch_size,
            repeats=repeats,
            verbose=0,
        )
        click.echo(_FORMATS[form](found))
        if plot is not None:
            found.plot(plot)

    _told(work)


@main.command()
@click.argument("source")
@click.argument("path")
@_data_options
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

    PATH ends in .tflite or .onnx, or becomes the directory of a SavedModel. Of the file
    of a Distiller the student is written. Quantising to int8 finds the ranges of the
    activations by --data or --dataset.
    """

    def work() -> None:
        given = _data(data, dataset, split, data_dir)
        if quantize == "int8" and given is None:
            raise click.UsageError(
                "--quantize int8 finds the ranges of the activations by data. Name "
                "some hundred samples as the student sees them: --data or --dataset."
            )
        found = export_student(
            source,
            path,
            quantize=quantize,
            representative_data=given if quantize == "int8" else None,
            data=given,
            tolerance=tolerance,
            activation=activation,
            int8_io=int8_io,
        )
        told = f"{found.path}: {found.bytes:,} bytes; off by at most "
        told += f"{found.largest_difference:.2g} of the largest output"
        for name, share in (
            ("chosen alike", found.agreement),
            ("accuracy", found.accuracy),
        ):
            told += "" if share is None else f"; {name} {100 * share:.2f} %"
        click.echo(told)

    _told(work)


def _told(work: Callable[[], None]) -> None:
    """Errors as sentences, with exit code 1."""
    try:
        work()
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


def _named(models: Sequence[str]) -> dict[str, str]:
    """By the names of their files, or their paths where two have one name."""
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        names = list(models)
    if len(set(names)) < len(names):
        raise ValueError(f"One model is named twice: {', '.join(models)}.")
    return dict(zip(names, models, strict=True))


def _data(
    data: str | None, dataset: str | None, split: str, data_dir: str | None
) -> Any:
    if data is not None and dataset is not None:
        raise click.UsageError("Name the data once: --data or --dataset.")
    if dataset is not None:
        return datasets.load(dataset, split, 1000, False, data_dir=data_dir)
    if data is None:
        return None
    if Path(data).suffix != ".npz":
        raise ValueError(
            f"--data must be a .npz file with an array `x`, and `y`; received '{data}'."
            " numpy.savez writes one."
        )
    try:
        with (
            Path(data).open("rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            arrays = dict(file)
    # A damaged file may be told of by an error of any class.
    except Exception as error:
        raise ValueError(f"'{data}' cannot be read: {error}") from error
    if "x" not in arrays:
        raise ValueError(
            f"'{data}' has no array `x` but {sorted(arrays)}. Name the inputs `x` and "
            "the labels `y`: `numpy.savez(path, x=x, y=y)`."
        )
    return (arrays["x"], arrays["y"]) if "y" in arrays else arrays["x"]
