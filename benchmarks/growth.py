"""How does the cost of a step grow with the teacher, the hint pairs, the ensemble?

`python -m benchmarks.growth` measures steps of FitNet 1 in batches of 64, with and
without a cache of the teacher's outputs, and prints and draws them as multiples of the
student's own step.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import networks
from benchmarks import publish
from benchmarks.step import BATCH
from benchmarks.step import make_keras_step
from keras_fitnets.report import multiplications
from keras_fitnets.report.timing import measure_medians

WIDTHS = (8, 16, 32, 48, 64, 96)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)
SWEEPS = {
    "teacher": ("the teacher's multiplications, millions", 'stage "kd"'),
    "pairs": ("hint pairs, of a teacher with twice the channels", 'stage "joint"'),
    "ensemble": ("teachers of width 16", 'stage "kd"'),
}


def create_points(sweep: str) -> dict[float, tuple[Any, list | None]]:
    """Return the teacher and the hints for each point on the axis of a sweep."""
    if sweep == "teacher":
        teachers = [networks.maxout_teacher(width) for width in WIDTHS]
        return {multiplications(one) / 1e6: (one, None) for one in teachers}
    if sweep == "pairs":
        teacher = networks.wide_fitnet1()
        layers = [f"conv{i}" for i in COUNTS]
        return {n: (teacher, [(name, name) for name in layers[:n]]) for n in COUNTS}
    teachers = [networks.maxout_teacher(16) for _ in COUNTS]
    return {n: (teachers[:n], None) for n in COUNTS}


def measure(sweep: str, folder: Path, repeats: int) -> list[dict[str, float]]:
    """Measure, for each point, the steps as multiples of the student's own."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * BATCH, 32, 32, 3)).astype("float32")
    y = rng.integers(10, size=len(x))
    # The batches stay in memory, because loading them is not what is measured.
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).cache()
    steps = {"student": make_keras_step(networks.fitnet1(), data.repeat())}
    at = create_points(sweep)
    for point, (teacher, hints) in at.items():
        for kind in ("without", "cached"):
            distiller = kf.Distiller(teacher, networks.fitnet1(), hints)
            used = data
            if kind == "cached":
                used = kf.cache_teacher(
                    distiller, data, folder / f"{sweep}{point}", verbose=0
                )
            steps[f"{point} {kind}"] = make_keras_step(distiller, used.repeat())
        batch = tf.constant(x[:BATCH])
        steps[f"{point} teacher"] = tf.function(
            lambda d=distiller, b=batch: d.with_teacher_outputs(b).teacher_outputs
        )
    seconds = measure_medians(steps, repeats)
    own = seconds["student"]
    return [
        {
            "at": round(point, 1),
            "student + teacher": round(1 + seconds[f"{point} teacher"] / own, 3),
            "step": round(seconds[f"{point} without"] / own, 3),
            "step on a cache": round(seconds[f"{point} cached"] / own, 3),
        }
        for point in at
    ]


def draw(sweeps: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(sweeps), figsize=(12, 4), layout="constrained")
    styles = {
        "student + teacher": {"color": "0.6", "linewidth": 5},
        "step": {"color": "C0", "marker": "o"},
        "step on a cache": {"color": "C1", "marker": "s"},
    }
    for axis, (sweep, rows) in zip(axes, sweeps.items(), strict=True):
        for name, style in styles.items():
            axis.plot(
                [r["at"] for r in rows], [r[name] for r in rows], label=name, **style
            )
        label, stage = SWEEPS[sweep]
        axis.set(xlabel=label, title=stage, ylim=(0, None))
        axis.axhline(1, color="0.6", linestyle=":", label="the student's own step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("time of a step, student's own = 1")
    drawn = axes[0].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--plot", type=Path, help="draw the result in this file")
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        sweeps = {
            sweep: measure(sweep, Path(folder), options.repeats) for sweep in SWEEPS
        }
    command = f"python -m benchmarks.growth --repeats {options.repeats}"
    publish(command, {"student's own step": 1, **sweeps}, options.json)
    if options.plot:
        draw(sweeps, options.plot)


if __name__ == "__main__":
    main()
