"""The command and the examples hide the start-up log; other programs do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_fitnets.startup_log import hold_back_standard_error
from keras_fitnets.startup_log import is_command


@pytest.mark.parametrize(
    "name, line, expected",
    [
        ("/bin/keras-fitnets", "python /bin/keras-fitnets report a.keras", True),
        ("C:/keras-fitnets.exe", "python keras-fitnets.exe report a.keras", True),
        # Of `python -m`, the name is "-m" until the module is found.
        ("-m", "python -I -m keras_fitnets report a.keras", True),
        ("-m", "python -m keras_fitnets.report", False),
        ("-m", "python -m pytest keras_fitnets", False),
        ("/lib/pytest/__main__.py", "python -m pytest keras_fitnets", False),
        ("train.py", "python train.py keras-fitnets", False),
        ("", "python", False),
    ],
)
def test_the_command_is_distinguished_from_other_programs(name, line, expected):
    assert is_command([name, "report"], line.split()) is expected


def test_what_is_held_back_comes_out_where_something_fails(capfd):
    with hold_back_standard_error():
        os.write(2, b"No GPU was found.")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), hold_back_standard_error():
        os.write(2, b"A library is missing.")
        raise ImportError
    os.write(2, b" As before.")
    assert capfd.readouterr().err == "A library is missing. As before."


@pytest.mark.slow
def test_an_example_prints_nothing_of_the_start_up_log():
    program = "import quiet, tensorflow; print(tensorflow.ones(1).shape)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2] / "examples",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("(1,)\n", "")
