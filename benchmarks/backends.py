"""What does a step cost on TensorFlow, on JAX and on PyTorch?

`python -m benchmarks.backends` measures in a process for each backend, one after the
other, round by round. In each it compares epochs of a Distiller, in every stage, with
the limit of that backend: epochs of the student alone, and the teacher's passes over
the same images. It also sets the student's own epochs of the three beside each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np

import keras_fitnets as kf
from benchmarks import networks
from benchmarks import run
from benchmarks.cache import STAGES
from benchmarks.cache import time_epoch
from keras_fitnets import backend
from keras_fitnets.report.timing import measure_in_turns

BATCH, BATCHES = 64, 4
BACKENDS = ("tensorflow", "jax", "torch")


def time_passes(teacher, x):
    """Return a function that times the teacher's passes over the images."""
    forward = backend.compile_function(
        lambda x: teacher(x, training=False), teacher.variables
    )

    def measure():
        start = time.perf_counter()
        for first in range(0, len(x), BATCH):
            keras.ops.convert_to_numpy(forward(x[first : first + BATCH]))
        return {"teacher": time.perf_counter() - start}

    return measure


def measure_here(repeats: int) -> dict[str, float]:
    """Return the seconds of each epoch on the backend of this process."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, 32, 32, 3)).astype("float32")
    y = rng.integers(10, size=len(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher = networks.maxout_teacher()
    student = networks.fitnet1()
    student.compile(keras.optimizers.RMSprop(1e-4), loss)
    size = {"batch_size": BATCH}
    runs = [time_epoch("student", student, x, y, **size), time_passes(teacher, x)]
    for stage in STAGES:
        hints = ("conv2", "conv6")
        distiller = kf.Distiller(teacher, networks.fitnet1(), hints, stage=stage)
        distiller.compile(keras.optimizers.RMSprop(1e-4), loss)
        runs.append(time_epoch(stage, distiller, x, y, **size))
    return measure_in_turns(runs, repeats, warm_up=1)


def main(rounds: int, repeats: int) -> dict:
    """Return the ratios on each backend, the medians over the rounds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in BACKENDS}
    for _ in range(rounds):
        for name in BACKENDS:
            command = [sys.executable, "-m", "benchmarks.backends", "--here"]
            done = subprocess.run(
                [*command, str(repeats)],
                env={**os.environ, "KERAS_BACKEND": name},
                capture_output=True,
                text=True,
                check=True,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1], flush=True)

    def take(name: str, ratio) -> float:
        return round(statistics.median(map(ratio, found[name])), 3)

    result = {
        name: {
            "kd / (student + teacher)": take(
                name, lambda s: s["kd"] / (s["student"] + s["teacher"])
            ),
            "joint / (student + teacher)": take(
                name, lambda s: s["joint"] / (s["student"] + s["teacher"])
            ),
            "hint / student": take(name, lambda s: s["hint"] / s["student"]),
        }
        for name in BACKENDS
    }
    for name in BACKENDS:
        pairs = zip(found[name], found["tensorflow"], strict=True)
        ratios = [one["student"] / other["student"] for one, other in pairs]
        result[name]["student / student on tensorflow"] = round(
            statistics.median(ratios), 3
        )
    return {"ratios": result, "seconds": found}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(measure_here(int(sys.argv[2]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--repeats", type=int, default=5)
        run("backends", main, parser)
