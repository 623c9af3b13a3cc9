"""How much time do the trials of a search save by sharing stage 1 and the teacher?

`python -m benchmarks.search` searches for λ and τ twice, with the same trials, for the
student of `examples/digits.py`: with `FitNetHyperModel`, and with a plain HyperModel,
which trains stage 1 and runs the teacher in each trial.
"""

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import digits
import keras
import keras_tuner
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import run

BATCH, RATE = 32, 3e-3
RANGES = {"lambda": (1.0, 8.0), "temperature": (1.0, 10.0)}


class ByHand(keras_tuner.HyperModel):
    """A plain HyperModel, as one would write it without this package's."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher

    def build(self, hp):
        distiller = kf.Distiller(
            self.teacher,
            digits.build_student_network(),
            digits.HINTS,
            lambda_=hp.Float("lambda", *RANGES["lambda"], sampling="log"),
            temperature=hp.Float("temperature", *RANGES["temperature"], sampling="log"),
        )
        distiller.compile(
            keras.optimizers.RMSprop(RATE), digits.LOSS, None, ["accuracy"]
        )
        return distiller

    def fit(self, hp, model, x, y, hint_epochs, epochs, callbacks, **options):
        stages = [
            kf.Stage("hint", hint_epochs),
            kf.Stage("kd", epochs, callbacks=callbacks),
        ]
        return kf.fit_stagewise(model, x, y, stages=stages, **options).kd


def main(trials: int, hint_epochs: int, epochs: int) -> dict:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    teacher = digits.build_teacher_network()
    job = digits.Run(0, None, SimpleNamespace(batch_size=BATCH))
    ours = kf.tuning.FitNetHyperModel(
        *(teacher, lambda hp: digits.build_student_network(), digits.HINTS),
        *(RANGES["lambda"], RANGES["temperature"], RATE, RATE),
        **{"loss": digits.LOSS, "metrics": ["accuracy"]},
    )
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, hypermodel in {"by hand": ByHand(teacher), "shared": ours}.items():
            tuner = keras_tuner.RandomSearch(
                *(hypermodel, "val_accuracy", trials, 0),
                directory=Path(folder) / name,
            )
            start = time.perf_counter()
            tuner.search(
                *job.train,
                validation_data=job.validation,
                **{"hint_epochs": hint_epochs, "epochs": epochs},
                **{"batch_size": BATCH, "verbose": 0},
            )
            seconds[name] = time.perf_counter() - start
    return {
        "trials": trials,
        "epochs of stage 1 and 2": [hint_epochs, epochs],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "by hand / shared": round(seconds["by hand"] / seconds["shared"], 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    run("search", main, parser)
