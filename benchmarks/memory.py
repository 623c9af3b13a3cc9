"""The peak memory of a training step, compared with the memory of its parts.

`python -m benchmarks.memory` runs some steps on batches of 64: of a Distiller in each
stage, of its student alone in plain Keras, and forward passes of its teacher. Each is
measured in a process of its own, several times, and the median is taken.

A step is compared with the peak of the student's plain step (weights, activations,
gradients, optimizer) plus that of the teacher's forward pass (weights, and those
activations of a batch that exist at the same time). All peaks count from the same
level: that of a process which has trained a network of one weight, before any of the
measured networks exist. They therefore include what Keras and TensorFlow keep of a
traced step.

The peak is the kernel's highest resident memory, reset after the first steps, which are
traced. Memory that was freed must not count. Therefore oneDNN is configured to allocate
by malloc, which uses separate pages for all but small tensors and returns them at once.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import NamedTuple

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import networks
from benchmarks import publish
from benchmarks.step import make_keras_step

BATCH, STEPS, TARGET = 64, 4, 1.05
STAGES = ("kd", "joint", "hint")
VARIANTS = ("student", "teacher", *STAGES)


class Pair(NamedTuple):
    """Functions that build the two networks, the hint, and the size of the images."""

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    hint: tuple[str, str]
    size: int


PAIRS = {
    "maxout": Pair(networks.maxout_teacher, networks.fitnet1, ("conv2", "conv6"), 32),
    "resnet": Pair(
        networks.resnet,
        lambda: networks.resnet("conv3_block4_out"),
        ("conv3_block4_out", "conv3_block1_out"),
        64,
    ),
}
ENVIRONMENT = {
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_ARENA_MAX": "1",
}


def read_memory(name: str) -> float:
    """Return a memory entry of the kernel for this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(name)).split()[1]) / 1e3


def measure_peak(steps: Callable[[], object]) -> float:
    """Return the peak memory while `steps` runs, in MB.

    If the kernel does not allow a reset, it is the peak of the whole process.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        steps()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    steps()
    return read_memory("VmHWM")


def measure(pair: Pair, variant: str) -> dict[str, float]:
    """Measure the memory of one variant in this process, in MB."""
    keras.utils.set_random_seed(0)
    tiny = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    ones = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.ones(1))).repeat()
    make_keras_step(tiny, ones)()
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, pair.size, pair.size, 3)), "float32")
    y = tf.constant(rng.integers(10, size=BATCH))
    data = tf.data.Dataset.from_tensors((x, y)).repeat()

    level = read_memory("VmRSS")
    teacher = None if variant == "student" else pair.teacher()
    student = None if variant == "teacher" else pair.student()
    if student is None:
        step: Callable[[], object] = tf.function(lambda: teacher(x, training=False))
    elif teacher is None:
        step = make_keras_step(student, data)
    else:
        step = make_keras_step(
            kf.Distiller(teacher, student, pair.hint, stage=variant), data
        )
    step()
    between = read_memory("VmRSS")
    peak = measure_peak(lambda: [step() for _ in range(STEPS)])
    models = [model for model in (teacher, student) if model is not None]
    weights = sum(w.numpy().nbytes for model in models for w in model.weights) / 1e6
    found = {"peak": peak - level, "between steps": between - level, "weights": weights}
    return {name: round(value, 1) for name, value in found.items()}


def measure_median(pair: str, variant: str, processes: int) -> dict[str, float]:
    """Measure in several processes; return the medians, and all the peaks."""
    command = [sys.executable, "-m", "benchmarks.memory", "--variant", pair, variant]
    found = []
    for _ in range(processes):
        done = subprocess.run(
            *(command,),
            **{"env": {**os.environ, **ENVIRONMENT}, "check": True},
            **{"stdout": subprocess.PIPE, "text": True},
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {**medians, "peaks": [one["peak"] for one in found]}


def main(processes: int) -> dict[str, Any]:
    pairs, ratios = {}, {}
    for pair in PAIRS:
        found = {
            variant: measure_median(pair, variant, processes) for variant in VARIANTS
        }
        bound = found["student"]["peak"] + found["teacher"]["peak"]
        pairs[pair] = {**found, "student + teacher": round(bound, 1)}
        ratios[pair] = {s: round(found[s]["peak"] / bound, 3) for s in STAGES}
    return {
        "batch": BATCH,
        "MB": pairs,
        "peak / (student + teacher)": {**ratios, "target": f"≤ {TARGET}"},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--processes",
        type=int,
        default=3,
        help="the number of processes for each variant",
    )
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--variant", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        name, variant = arguments.variant
        print(json.dumps(measure(PAIRS[name], variant)))
        sys.exit()
    command = f"python -m benchmarks.memory --processes {arguments.processes}"
    publish(command, main(arguments.processes), arguments.json)
