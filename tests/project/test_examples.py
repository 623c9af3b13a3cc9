"""The examples run as a user runs them, the long one in a short setting."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import keras
import processes
import pytest

import keras_fitnets  # noqa: F401 - registers the layers of the saved student

# Each test trains in processes of its own.
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--teacher-epochs", "2", "--hint-epochs", "2", "--kd-epochs", "3"]
SHORT += ["--batch-size", "512"]
DIGITS = [str(EXAMPLES / "digits.py"), *SHORT, "--folder", "run"]


# A shell's background job has SIGINT ignored, and so have the processes it starts. A
# title is to arrive before its training, not with its first epochs.
HEEDING = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdout.reconfigure(line_buffering=True)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_digits_interrupted_and_resumed(tmp_path):
    log = tmp_path / "log"
    process = processes.Program(["-c", HEEDING, *DIGITS], tmp_path, log=log)
    while "stage 1" not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(120) == 1
    assert "The same command goes on" in log.read_text()
    with (tmp_path / "run" / "seed_0" / "kd" / "log.csv").open() as file:
        before = list(csv.DictReader(file))
    assert [row["epoch"] for row in before] == list("01234")

    done = processes.run(DIGITS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Seed 0, kd" not in done.stdout
    assert "Seed 0, fitnet, stage 2" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    teacher, fitnet = results["teacher"], results["fitnet"]
    assert fitnet["parameters"] <= teacher["parameters"] / 10
    assert {name: len(row["test"]) for name, row in results.items()} == dict.fromkeys(
        ("teacher", "plain", "kd", "fitnet"), 1
    )
    student = keras.saving.load_model(tmp_path / "run" / "student.keras")
    assert student.count_params() == fitnet["parameters"]
    assert (tmp_path / "run" / "digits.png").stat().st_size > 10_000


@pytest.mark.parametrize("changed", [["--kd-epochs", "4"]])
def test_digits_refuses_a_folder_with_other_settings(tmp_path, changed):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    done = processes.run([*DIGITS, *changed], tmp_path)
    assert done.returncode == 2
    assert "holds a run of {}; use --folder" in done.stderr
