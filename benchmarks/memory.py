"""The peak memory of a training step, beside what it is made of.

`python -m benchmarks.memory` takes some steps on batches of 64: of a Distiller in each
stage, of its student alone in plain Keras, and forward passes of its teacher, each in a
process of its own, and several times for a median.

The bound on a step is the peak of the student's plain step (weights, activations,
gradients, optimizer) plus that of the teacher's forward pass (weights, and as many of
the activations of a batch as are alive at once). All count from the same level, that
of a process which has trained a network of one weight, before any of these are built;
so what Keras and TensorFlow keep of a traced step is in them too.

A peak is the kernel's high-water mark of the resident memory, begun anew after the
first steps, in which the step is traced. Memory that was freed must not count: oneDNN
is told to allocate by malloc, which has pages of its own for all but small tensors,
and gives them back at once.
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
from benchmarks.step import by_keras

BATCH, STEPS, TARGET = 64, 4, 1.05
STAGES = ("kd", "joint", "hint")
VARIANTS = ("student", "teacher", *STAGES)


class Pair(NamedTuple):
    """Makers of the two networks, the hint, and the size of the images."""

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


def memory(name: str) -> float:
    """What the kernel says of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(name)).split()[1]) / 1e3


def peak_of(steps: Callable[[], object]) -> float:
    """The peak while steps are taken, or of all the process where none can be begun."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        steps()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    steps()
    return memory("VmHWM")


def measure(pair: Pair, variant: str) -> dict[str, float]:
    """The memory of one variant in this process, in MB."""
    keras.utils.set_random_seed(0)
    tiny = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    ones = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.ones(1))).repeat()
    by_keras(tiny, ones)()
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, pair.size, pair.size, 3)), "float32")
    y = tf.constant(rng.integers(10, size=BATCH))
    data = tf.data.Dataset.from_tensors((x, y)).repeat()

    level = memory("VmRSS")
    teacher = None if variant == "student" else pair.teacher()
    student = None if variant == "teacher" else pair.student()
    if student is None:
        step: Callable[[], object] = tf.function(lambda: teacher(x, training=False))
    elif teacher is None:
        step = by_keras(student, data)
    else:
        step = by_keras(kf.Distiller(teacher, student, pair.hint, stage=variant), data)
    step()
    between = memory("VmRSS")
    peak = peak_of(lambda: [step() for _ in range(STEPS)])
    models = [model for model in (teacher, student) if model is not None]
    weights = sum(w.numpy().nbytes for model in models for w in model.weights) / 1e6
    found = {"peak": peak - level, "between steps": between - level, "weights": weights}
    return {name: round(value, 1) for name, value in found.items()}


def median_of(pair: str, variant: str, processes: int) -> dict[str, float]:
    """The medians of some processes that measure, and all their peaks."""
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
        found = {variant: median_of(pair, variant, processes) for variant in VARIANTS}
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
    parser.add_argument("--processes", type=int, default=3, help="of each variant")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--variant", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        name, variant = arguments.variant
        print(json.dumps(measure(PAIRS[name], variant)))
        sys.exit()
    command = f"python -m benchmarks.memory --processes {arguments.processes}"
    publish(command, main(arguments.processes), arguments.json)
