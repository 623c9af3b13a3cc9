"""`python -m keras_fitnets`, as a shell sees it."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

import keras_fitnets as kf
from keras_fitnets.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a teacher, a student and data, to work in."""
    monkeypatch.chdir(tmp_path)
    tiny.network(hidden=40, seed=1).save("teacher.keras")
    tiny.network(hidden=5, seed=2).save("student.keras")
    x, y = tiny.data(samples=50)
    np.savez("data.npz", x=x, y=y)
    return tmp_path


def call(*arguments, code=0):
    """What is written to the standard output and to the standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main(arguments)
    assert end.value.code == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def test_report_and_export_are_those_of_the_library(folder):
    models = ("teacher.keras", "student.keras")
    shown = call("report", *models, "--data", "data.npz", "--repeats", "0")[0]
    with np.load("data.npz") as data:
        pair = data["x"], data["y"]
    expected = kf.report.compare(
        {name: name for name in models}, pair, repeats=0, verbose=0
    )
    assert shown == f"{expected}\n"
    arguments = ("--data", "data.npz", "--repeats", "0", "--format", "markdown")
    shown = call("report", *models, *arguments, "--plot", "a.png")[0]
    assert shown == f"{expected.to_markdown()}\n"
    assert (folder / "a.png").stat().st_size > 5_000

    arguments = ("--quantize", "int8", "--data", "data.npz")
    told = call("export", "student.keras", "student.tflite", *arguments)[0]
    size = (folder / "student.tflite").stat().st_size
    assert told.startswith(f"student.tflite: {size:,} bytes; off by at most 0.0")
    assert "; predicted alike " in told and "; accuracy " in told
    shown = call("report", *models, "student.tflite", "--repeats", "0")[0]
    assert shown.splitlines()[3].split()[:3] == ["student.tflite", "–", "–"]


def test_a_data_set_is_named(folder):
    network = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(network).save("digits.keras")
    options = ("--dataset", "digits", "--repeats", "0", "--format", "html")
    shown = call("report", "digits.keras", *options)[0]
    x, y = next(iter(kf.datasets.load("digits", "test", 1000)))
    model = keras.saving.load_model("digits.keras")
    accuracy = np.mean(model.predict(x, verbose=0).argmax(-1) == y.numpy())
    assert f">{100 * accuracy:.2f}</td>" in shown


@pytest.mark.slow
def test_what_the_page_types_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "shipping.md").read_text("utf-8")
    typed = re.findall(r"^keras-fitnets (.+)$", page, re.MULTILINE)
    assert {line.split()[0] for line in typed} == {"report", "export"}
    monkeypatch.chdir(tmp_path)
    for name, width in (("teacher", 32), ("student", 8)):
        ends = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        hidden = keras.layers.Dense(width, "relu")
        keras.Sequential([*ends[:2], hidden, ends[2]]).save(f"{name}.keras")
    x, y = next(iter(kf.datasets.load("digits", "train", 200)))
    np.savez("data.npz", x=x, y=y)
    for line in typed:
        call(*line.split())
    written = {path.name for path in tmp_path.iterdir()}
    assert {"student.tflite", "student_int8.tflite", "report.png"} <= written


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (["report"], 2, "Missing argument 'MODELS...'"),
        (["report", "no.keras"], 1, "Error: There is no 'no.keras' in "),
        (["report", "student.keras", "student.keras"], 1, "A model is named twice"),
        (["report", "data.npz"], 1, "ends in none of .keras, .tflite, .onnx"),
        (["report", "student.keras", "--data", "a.csv"], 1, "must be a .npz file"),
        (["report", "student.keras", "--data", "no.npz"], 1, "No such file"),
        (["report", "student.keras", "--data", "y.npz"], 1, "no array `x`, only ['y']"),
        (["report", "student.keras", "--data", "cut.npz"], 1, "'cut.npz' cannot be re"),
        (["report", "cut.keras"], 1, "Error: 'cut.keras' cannot be read: "),
        (["report", "cut.onnx"], 1, "Error: 'cut.onnx' cannot be read: "),
        (["report", "cut.tflite"], 1, "Error: 'cut.tflite' cannot be read: "),
        (["report", "cut"], 1, "Error: 'cut' cannot be read: "),
        (["report", "student.keras", "--repeats", "-1"], 1, "`repeats` must be a"),
        (
            ["report", "student.keras", "--data", "data.npz", "--dataset", "digits"],
            2,
            "Name the data once: --data or --dataset.",
        ),
        (["export", "student.keras"], 2, "Missing argument 'PATH'"),
        (["export", "a.keras", "b.onnx"], 1, "'a.keras' is no `.keras` file in"),
        (["export", "cut.keras", "b.onnx"], 1, "Error: 'cut.keras' cannot be read: "),
        (["export", "student.keras", "data.npz/a"], 1, "written into 'data.npz'"),
        (["export", "student.keras", "a", "--quantize", "int4"], 2, "is not one of"),
        (
            ["export", "student.keras", "a.tflite", "--quantize", "int8"],
            2,
            "--quantize int8 finds the ranges of the activations from data",
        ),
    ],
)
def test_errors_are_sentences_with_exit_codes(folder, arguments, code, told):
    np.savez("y.npz", y=np.ones(3))
    (folder / "cut").mkdir()
    for name in (
        "cut.npz",
        "cut.keras",
        "cut.onnx",
        "cut.tflite",
        "cut/saved_model.pb",
    ):
        (folder / name).write_bytes((folder / "student.keras").read_bytes()[:500])
    out, err = call(*arguments, code=code)
    assert told in err
    assert "Traceback" not in err and not out


@pytest.fixture
def environment(monkeypatch):
    """That of a shell, where nobody has chosen how much TensorFlow logs."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")


@pytest.mark.slow
def test_python_runs_it_as_a_module(environment):
    command = [sys.executable, "-m", "keras_fitnets", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1]) == (0, kf.__version__)
    # Nothing of TensorFlow's start-up log.
    assert done.stderr == ""


@pytest.mark.slow
def test_the_installed_command_prints_its_answer_alone(environment, folder):
    # What an installer makes out of the entry point; `make wheel` runs the real one.
    script = folder / "keras-fitnets"
    script.write_text("from keras_fitnets.cli import main\nmain()\n")
    arguments = ["report", "student.keras", "--data", "data.npz", "--repeats", "0"]
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call(*arguments)[0]
