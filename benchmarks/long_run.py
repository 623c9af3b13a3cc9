"""500 epochs of a tiny problem: does memory grow, and is a step traced twice?

`python -m benchmarks.long_run` trains both stages for 500 epochs each, with validation,
annealing, checkpoints and `CheckNumerics`. It prints the memory of the process after
ten epochs and at the end, how often each step was traced, and how much was logged.
"""

import argparse
import collections
import os
import tempfile
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import run

SETTLED = 10


def measure_memory() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


TRACES: collections.Counter[str] = collections.Counter()


class TraceCounter(kf.Distiller):
    """A Distiller that counts how often its steps are traced, by stage."""

    def train_step(self, data):
        TRACES[f"{self.stage} train"] += not tf.executing_eagerly()
        return super().train_step(data)

    def test_step(self, data):
        TRACES[f"{self.stage} test"] += not tf.executing_eagerly()
        return super().test_step(data)


class Memory(keras.callbacks.Callback):
    """Records the memory of the process after each epoch."""

    def __init__(self):
        super().__init__()
        self.megabytes: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        self.megabytes.append(measure_memory())


def network(*widths):
    hidden = [keras.layers.Dense(width, "relu") for width in widths]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3)])


def main(epochs: int) -> dict:
    keras.utils.set_random_seed(0)
    TRACES.clear()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = np.argmax(x, axis=1) % 3
    distiller = TraceCounter(network(16, 16), network(4, 4, 4), hints="middle")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"])
    memory = {"hint": Memory(), "kd": Memory()}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        history = kf.fit_stagewise(
            distiller,
            x,
            y,
            validation_data=(x, y),
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs), kf.CheckNumerics()],
            stages=[
                kf.Stage("hint", epochs, callbacks=memory["hint"]),
                kf.Stage(
                    "kd",
                    epochs,
                    callbacks=[memory["kd"], keras.callbacks.CSVLogger(log)],
                ),
            ],
            checkpoint_dir=Path(folder) / "run",
            verbose=0,
        )
        lines = len(log.read_text().splitlines()) - 1
    logs = {**history.hint.history, **history.kd.history}
    return {
        "epochs of each stage": epochs,
        "memory in MB": {
            stage: {
                f"after epoch {SETTLED}": round(one.megabytes[SETTLED - 1], 1),
                "at the end": round(one.megabytes[-1], 1),
            }
            for stage, one in memory.items()
        },
        "traces": dict(TRACES),
        "values in the History, for each log": sorted(set(map(len, logs.values()))),
        "lines in the CSV log of stage 2": lines,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=500)
    run("long_run", main, parser)
