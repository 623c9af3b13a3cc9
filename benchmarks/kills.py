"""Kill a training run again and again, and check that it ends as if undisturbed.

`python -m benchmarks.kills --kills 50` trains once without interruption. Then it starts
the same command, ends it with SIGKILL at a random moment, starts it again, and so on
until the command finishes; it goes on with further runs until the number of kills is
reached. Some kills are aimed at the writing of a checkpoint, and some at the end of
stage 1. The result of each run is compared bit for bit with the first one.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import publish

EPOCHS = 8
# The marks at which kills are aimed, in turn; "" is a random moment of the run.
AIMS = ("", "writing", "stage hint epoch", "", "stage hint end", "writing")
AIMED_WITHIN = 0.02


def train(directory: Path) -> None:
    """Train both stages, with everything that has a state; write down the result."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_fitnets as kf

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    marks = _create_marks(directory, keras)

    def network(*widths: int) -> keras.Model:
        layers = []
        for width in widths:
            layers += [keras.layers.Dense(width, "relu"), keras.layers.Dropout(0.1)]
            layers += [keras.layers.BatchNormalization()]
        ends = [keras.Input((20,)), keras.layers.Dense(5)]
        return keras.Sequential([ends[0], *layers, ends[1]])

    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 20)).astype("float32")
    y = np.argmax(x[:, :5] + 0.3 * rng.normal(size=(640, 5)), axis=1)
    distiller = kf.Distiller(network(64, 64), network(24, 24, 24, 24), hints="middle")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"])
    kd_callbacks = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=EPOCHS),
        kf.TemperatureAnnealing(5.0, 2.0, epochs=EPOCHS),
        keras.callbacks.ReduceLROnPlateau(
            "val_label_loss", 0.5, patience=1, mode="min"
        ),
    ]
    with _mark_writing(marks):
        history = kf.fit_stagewise(
            distiller,
            x,
            y,
            stages=[
                kf.Stage("hint", EPOCHS),
                kf.Stage("kd", EPOCHS, callbacks=kd_callbacks, patience=5),
            ],
            validation_split=0.2,
            callbacks=[marks],
            checkpoint_dir=directory / "run",
            verbose=0,
        )
    digest = hashlib.sha256()
    for variable in [*distiller.variables, *distiller.optimizer.variables]:
        digest.update(variable.numpy().tobytes())
    outcome = {
        "weights, seeds, optimizer": digest.hexdigest(),
        "lambda": distiller.lambda_,
        "temperature": distiller.temperature,
        "hint": [history.hint.epoch, history.hint.history],
        "kd": [history.kd.epoch, history.kd.history],
    }
    (directory / "outcome.json").write_text(json.dumps(outcome, default=float))


def _create_marks(directory, keras):
    class Marks(keras.callbacks.Callback):
        """Writes the progress of the run to a file."""

        def put(self, *words):
            with open(directory / "marks", "a") as file:
                file.write(" ".join(map(str, words)) + "\n")

        def on_epoch_begin(self, epoch, logs=None):
            self.put("stage", self.model.stage, "epoch", epoch + 1)

        def on_train_end(self, logs=None):
            self.put("stage", self.model.stage, "end")

    return Marks()


@contextlib.contextmanager
def _mark_writing(marks):
    """Write marks before and after each checkpoint is written."""
    from keras_fitnets.training.checkpoint_file import CheckpointFile

    write = CheckpointFile.write

    def marked(file, number, *content):
        marks.put("writing", number)
        write(file, number, *content)
        marks.put("written", number)

    CheckpointFile.write = marked
    yield
    CheckpointFile.write = write


class Run:
    """A run of the command in a directory, which can be started repeatedly."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self) -> subprocess.Popen:
        (self.directory / "marks").write_text("")
        command = [sys.executable, "-m", "benchmarks.kills", "--run", self.directory]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self.directory / "log", "w") as log:
            return subprocess.Popen(command, env=environment, stderr=log)

    def marks(self) -> list[str]:
        return (self.directory / "marks").read_text().splitlines()

    def outcome(self) -> dict:
        return json.loads((self.directory / "outcome.json").read_text())


def finish(run: Run, process: subprocess.Popen) -> None:
    if process.wait():
        raise SystemExit(f"The run failed: {(run.directory / 'log').read_text()}")


def kill_somewhere(run: Run, rng: random.Random, seconds: float, aim: str) -> str:
    """Start the run and kill it; return its last mark, or "" if it finished first."""
    process = run.start()
    wait_for_marks(run, process)
    if aim:
        passes = rng.randint(1, 2)
        while process.poll() is None and passes > sum(
            mark.startswith(aim) for mark in run.marks()
        ):
            time.sleep(0.0005)
    time.sleep(rng.uniform(0, AIMED_WITHIN if aim else seconds))
    if process.poll() is not None:
        finish(run, process)
        return ""
    process.kill()
    process.wait()
    return run.marks()[-1]


def wait_for_marks(run: Run, process: subprocess.Popen) -> None:
    while not run.marks() and process.poll() is None:
        time.sleep(0.002)


def describe_place(marks: list[str]) -> str:
    """Describe where the last mark is: "in a checkpoint's write", "in stage hint", …"""
    if marks[-1].startswith("writing"):
        return "in a checkpoint's write"
    stage = next(mark.split()[1] for mark in reversed(marks) if "stage" in mark)
    ended = "end" in marks[-1] or (len(marks) > 1 and "end" in marks[-2])
    return f"{'at the end of' if ended else 'in'} stage {stage}"


def compare(run: int, outcome: dict, expected: dict) -> None:
    if outcome != expected:
        raise SystemExit(f"Run {run} ended differently: {outcome}, not {expected}")


def main(kills: int, seed: int) -> dict:
    rng = random.Random(seed)
    places: collections.Counter[str] = collections.Counter()
    runs = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Run(Path(folder) / "whole")
        whole.directory.mkdir()
        process = whole.start()
        wait_for_marks(whole, process)
        begin = time.monotonic()
        finish(whole, process)
        # Much shorter than a whole run, which otherwise would rarely be killed twice.
        seconds = 0.3 * (time.monotonic() - begin)
        while sum(places.values()) < kills:
            run = Run(Path(folder) / f"run{runs}")
            run.directory.mkdir()
            while not (run.directory / "outcome.json").exists():
                if sum(places.values()) == kills:
                    finish(run, run.start())
                    break
                aim = AIMS[sum(places.values()) % len(AIMS)]
                mark = kill_somewhere(run, rng, seconds, aim)
                if mark:
                    where = describe_place(run.marks())
                    places[where] += 1
                    print(f"{sum(places.values())}: {where} ({mark})", flush=True)
            compare(runs, run.outcome(), whole.outcome())
            runs += 1
    return {
        "kills": sum(places.values()),
        "where": dict(places),
        "runs, each with the same bits as the undisturbed one": runs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        train(arguments.run)
    else:
        result = main(arguments.kills, arguments.seed)
        command = f"python -m benchmarks.kills --kills {arguments.kills}"
        command += f" --seed {arguments.seed}"
        publish(command, result, arguments.json)
