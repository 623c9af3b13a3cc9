"""The studies of docs/reproduction.md, and of what ships, in a short setting."""

import json
from pathlib import Path

import keras
import numpy as np
import processes
import pytest

import keras_fitnets as kf

# Each test trains in a process of its own.
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--images", "64", "--teacher-epochs", "1", "--epochs", "2"]
SHORT += ["--hint-epochs", "1", "--folder", "."]


def run(folder, program, *arguments, first="", results="results.json"):
    """Run a program; `first` is done to its module before.

    To trace the steps of all its trainings would take longer than to run the few.
    """
    eager = "import tensorflow\ntensorflow.config.run_functions_eagerly(True)"
    code = f"import sys, {program}\n{eager}\n{first}\n{program}.main(sys.argv[1:])"
    environment = {"PATH": "", "HOME": str(folder), "PYTHONPATH": str(EXAMPLES)}
    done = processes.run(["-c", code, *arguments], folder, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / results).read_text())


def write_images(folder, side):
    drawn, arrays = np.random.default_rng(0), {}
    for part in kf.datasets.splits("cifar10"):
        arrays[f"{part} labels"] = drawn.integers(0, 10, 64)
        arrays[part] = drawn.normal(size=(64, side, side, 3)).astype("float32")
    np.savez(folder / "images.npz", **arrays)
    return arrays


def test_depth(tmp_path):
    write_images(tmp_path, 16)
    shallow = "depth.BLOCKS = {5: (1, 1, 1)}"
    options = [*SHORT, "--budget", "100000", "--seeds", "1"]
    _, found = run(tmp_path, "depth", *options, first=shallow)
    for method in ("plain", "kd", "hint"):
        [row] = found["results"][method]["5"]
        assert 80_000 < row["multiplications"] <= 100_000
        assert len(row["val_accuracy"]) == (1 if method == "hint" else 2)
    assert (tmp_path / "depth.png").stat().st_size > 10_000

    # What was trained is not trained again.
    again, repeated = run(tmp_path, "depth", *options, first=shallow)
    assert "/2" not in again and repeated["results"] == found["results"]


def test_sigmoid(tmp_path):
    arrays = write_images(tmp_path, 16)
    _, found = run(
        tmp_path, "sigmoid", *SHORT, first="del sigmoid.STUDENTS['aflw_fitnet2']"
    )
    # Few images, small weights and one step: every student still says one class.
    share = 100 * np.isin(arrays["test labels"], (2, 3, 4, 5, 6, 7)).mean()
    for [row] in found["results"]["aflw_fitnet1"].values():
        assert (
            min(abs(row["test_accuracy"] - side) for side in (share, 100 - share))
            < 1e-6
        )
    times = found["teacher"]["multiplications"] / row["multiplications"]
    assert 10 < times < 15


UNTRAINED = """
import digits
plan = digits.STUDENT, 24, 2, "glorot_uniform"
ship.train_networks = lambda options: {
    "teacher": digits.build_teacher_network(),
    "student": digits.build_maxout_network("s", *plan),
}
ship.FILES = {"student, LiteRT, int8": ("student_int8.tflite", "int8")}
"""


def test_ship(tmp_path):
    options = ["--folder", ".", "--repeats", "1"]
    results = "files/results.json"
    text, found = run(tmp_path, "ship", *options, first=UNTRAINED, results=results)
    names = [row["model"] for row in found["rows"]]
    assert names[2:] == ["teacher, LiteRT", "student, LiteRT, int8"]
    files = [tmp_path / "files" / f"{n}.tflite" for n in ("teacher", "student_int8")]
    teacher, int8 = (file.stat().st_size for file in files)
    assert found["int8_is_smaller_than_the_teacher_by"] == teacher / int8 > 15
    assert (tmp_path / "ship.png").stat().st_size > 10_000
    table = (tmp_path / "files" / "table.md").read_text()
    assert len(table.splitlines()) == 2 + 4


SMALL = """
import dataclasses
from keras_fitnets import models
models.PLANS["fitnet1"] = models.Plan(
    ((2, 2), (2,)), (2, models.ALL), units=2, hints=("conv2", "conv3")
)
for name, recipe in cifar10.RECIPES.items():
    cifar10.RECIPES[name] = dataclasses.replace(
        recipe,
        teacher=models.Plan(((4,), (4,)), (2, 2), units=4),
        hint_layer="conv2",
        teacher_epochs=1,
        hint_epochs=2,
        kd_epochs=2,
    )
"""


@pytest.mark.parametrize("recipe", ["short", "paper"])
def test_cifar10(tmp_path, recipe):
    write_images(tmp_path, 32)
    options = ["--recipe", recipe, "--folder", ".", "--methods", "plain", "fitnet"]
    _, found = run(tmp_path, "cifar10", *options, first=SMALL)
    assert set(found["results"]) == {"Teacher", "Backprop", "FitNet"}
    fitnet = found["results"]["FitNet"]
    hint_epochs, kd_epochs = fitnet["epochs"]
    assert len(fitnet["hint"]["hint_loss"]) == hint_epochs
    assert len(fitnet["kd"]["label_loss"]) == kd_epochs
    # The paper's recipe chooses the epochs; the short one has them all.
    if recipe == "short":
        assert fitnet["epochs"] == [2, 2] and "validation" not in fitnet
    else:
        assert kd_epochs == 1 + int(np.argmax(fitnet["validation"]))


def test_the_search_compares_its_winner_with_the_paper(tmp_path):
    options = "--teacher-epochs 1 --hint-epochs 1 --kd-epochs 1 --batch-size 512"
    options += " --trials 2 --seeds 1 --finalists 2 --unseen-seeds 1 --folder ."
    # A fifth of the images, without their shifted copies, in three steps an epoch.
    few = "digits_search.digits.add_shifted_copies = lambda *data: data"
    _, results = run(tmp_path, "digits_search", *options.split(), first=few)
    assert len(results["trials"]) == len(results["finalists"]) == 2
    assert len({len(row["accuracy"]) for row in results["compared"].values()}) == 1
    losses = {
        str(t): np.mean(row["label_loss"]) for t, row in results["finalists"].items()
    }
    assert str(results["winner"]) == min(losses, key=losses.get)
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert student.count_params() == 20_614
    assert (tmp_path / "search.png").stat().st_size > 10_000


def write_resnet56(path):
    """An untrained teacher, in a file like that of the public one."""
    drawn = np.random.default_rng(0)
    arrays = {}

    def block(name, number, filters, channels):
        shape = (filters, channels, 3, 3)
        arrays[f"{name}conv{number}.weight"] = drawn.normal(0, 0.1, shape)
        for kind in ("weight", "running_var"):
            arrays[f"{name}bn{number}.{kind}"] = np.ones(filters)
        for kind in ("bias", "running_mean"):
            arrays[f"{name}bn{number}.{kind}"] = np.zeros(filters)

    block("", 1, 16, 3)
    channels = 16
    for stage, filters in enumerate((16, 32, 64)):
        for i in range(9):
            block(f"layer{stage + 1}.{i}.", 1, filters, channels)
            block(f"layer{stage + 1}.{i}.", 2, filters, filters)
            channels = filters
    arrays["linear.weight"] = drawn.normal(0, 0.1, (10, 64))
    arrays["linear.bias"] = np.zeros(10)
    np.savez(path, **arrays)


FEW = """
import numpy as np
rng = np.random.default_rng(0)
images = rng.normal(size=(20, 32, 32, 3)).astype("float32"), rng.integers(10, size=20)
few_images.load_images = lambda data_dir, part: images
few_images.VIEWS = 1
"""


def test_few_images(tmp_path):
    write_resnet56(tmp_path / "resnet56.npz")
    options = ["--teacher", "resnet56.npz", "--images", "20", "--epochs", "3"]
    options += ["--hint-weights", "auto", "1", "--folder", "."]
    options += ["--methods", "plain", "joint", "hint-kd", "--threads", "1"]
    _, found = run(tmp_path, "few_images", *options, first=FEW)
    settings = [(row["method"], row["hint_weight"]) for row in found["results"]]
    assert settings == [
        *[("plain", "auto"), ("joint", "auto"), ("joint", 1.0), ("hint-kd", "auto")]
    ]
