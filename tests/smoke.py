"""What an installed wheel must do, outside the repository: `make wheel` runs it."""

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_fitnets as kf


def network(width):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, "relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def run(folder, *arguments):
    """What the installed command prints, from a shell that has chosen no log level."""
    command = [Path(sys.prefix, "bin", "keras-fitnets"), *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def check_metadata():
    """That the wheel says of itself what `pyproject.toml` does."""
    found = importlib.metadata.metadata("keras-fitnets")
    assert found["Version"] == kf.__version__
    assert found["License-Expression"] == "Apache-2.0"
    assert "knowledge distillation" in found["Keywords"].split(",")
    extras = {"dev", "docs", "examples", "export", "hub", "jax", "torch", "tuner"}
    assert set(found.get_all("Provides-Extra")) == extras
    required = importlib.metadata.requires("keras-fitnets")
    assert sum("extra ==" not in one for one in required) == 8
    modules = importlib.metadata.packages_distributions()
    owned = [name for name, owners in modules.items() if "keras-fitnets" in owners]
    assert owned == ["keras_fitnets"]


def main():
    place = Path(kf.__file__)
    assert sys.prefix in str(place), f"{place} is not the installed package"
    check_metadata()
    assert (importlib.resources.files("keras_fitnets") / "py.typed").is_file()

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)).astype("float32"), rng.integers(3, size=64)
    distiller = kf.Distiller(network(16), network(2), hints=("hidden", "hidden"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"])
    history = kf.fit_stagewise(distiller, x, y, 2, 2, verbose=0)
    assert len(history.hint.history["hint_loss"]) == 2
    with tempfile.TemporaryDirectory() as folder:
        distiller.student.save(f"{folder}/student.keras")
        file = kf.export.export_student(f"{folder}/student.keras", f"{folder}/saved")
        models = {"teacher": distiller.teacher.models[0], "student": file}
        report = kf.report.compare(models, (x, y), repeats=1, verbose=0)
        usage = run(folder, "--help")
        exported = run(folder, "export", "student.keras", "again")
        table = run(folder, "report", "student.keras", "again", "--repeats", "0")
    expected = np.mean(distiller.student.predict(x, verbose=0).argmax(-1) == y)
    assert report.rows[1]["accuracy"] == expected
    print(report)
    assert usage.startswith("Usage: keras-fitnets ")
    assert exported.startswith("again: ")
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "student.keras",
        "again",
    ]
    # The extras are not there, and say how to get them.
    try:
        kf.export.export_student(distiller, "student.onnx")
    except ImportError as error:
        assert "keras-fitnets[export]" in str(error)
    else:
        raise AssertionError("tf2onnx is there without the extra")
    print(f"keras_fitnets {kf.__version__} works as it was installed.")


if __name__ == "__main__":
    main()
