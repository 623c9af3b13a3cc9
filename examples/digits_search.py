"""A search for λ, τ, the learning rate and the hint, on handwritten digits.

The teacher and the student of examples/digits.py, and thirty trials with KerasTuner, in
which the teacher is run once, and stage 1 once for each hint. What it has found is then
trained with three seeds, beside λ = 4 and τ = 3, which Romero et al., "FitNets" (arXiv
1412.6550) use: the validation split compares, and the test split is used once.

    python examples/digits_search.py

Interrupted, the same command goes on where it was. It runs on several machines too:
see docs/search.md.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

import keras_fitnets as kf

try:
    import digits
except ImportError:  # Imported, rather than run.
    from examples import digits

HINTS = [("conv2", "conv6"), ("conv2", "conv4"), ("conv1", "conv3"), None]
PAPER = {"lambda": 4.0, "temperature": 3.0, "learning_rate": 3e-3}
BATCH = 32


class Job:
    """The digits, their teacher, and how a student of some seed is searched."""

    def __init__(self, options):
        self.options = options
        settings = SimpleNamespace(batch_size=BATCH)
        keras.utils.set_random_seed(0)
        run = digits.Run(0, options.folder, settings)
        self.train, self.validation, self.steps = run.train, run.validation, run.steps
        self.teacher = digits.teacher_network()
        run.fit("teacher", self.teacher, options.teacher_epochs)

    def hypermodel(self, seed, **fixed):
        def optimizer(rate):
            steps = self.options.kd_epochs * self.steps
            return keras.optimizers.RMSprop(
                keras.optimizers.schedules.CosineDecay(rate, steps)
            )

        ranges = {
            "hints": HINTS,
            "lambda_": (0.5, 16.0),
            "temperature": (1.0, 10.0),
            "learning_rate": (1e-3, 1e-2),
        }
        return kf.tuning.FitNetHyperModel(
            self.teacher,
            lambda hp: digits.student_network(),
            **{**ranges, **fixed},
            hint_learning_rate=3e-3,
            loss=digits.LOSS,
            metrics=["accuracy"],
            optimizer=optimizer,
            annealing=lambda start: kf.LambdaAnnealing(
                start, min(1.0, start), self.options.kd_epochs
            ),
            seed=seed,
            directory=self.options.folder / "shared",
        )

    def arguments(self):
        return {
            "x": self.train[0],
            "y": self.train[1],
            "validation_data": self.validation,
            "hint_epochs": self.options.hint_epochs,
            "epochs": self.options.kd_epochs,
            "batch_size": BATCH,
            "verbose": 0,
        }

    def trained(self, seed, values):
        """The best validation accuracy, %, of these hyperparameters with a seed."""
        hypermodel = self.hypermodel(seed)
        hp = keras_tuner.HyperParameters()
        hp.values = dict(values)
        student = hypermodel.build(hp)
        history = hypermodel.fit(hp, student, **self.arguments()).history
        return 100 * max(history["val_accuracy"])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3, help="for the comparison")
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--kd-epochs", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path("search_run"))
    options = parser.parse_args(arguments)
    # One thread: the steps are so small that several would mostly wait for each other.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    # Each trial is traced anew, which TensorFlow takes for an oversight.
    tf.get_logger().setLevel("ERROR")

    job = Job(options)
    tuner = keras_tuner.BayesianOptimization(
        job.hypermodel(seed=0),
        # An accuracy of few images is the same for many trials.
        objective=keras_tuner.Objective("val_label_loss", "min"),
        max_trials=options.trials,
        seed=0,
        directory=options.folder,
        project_name="search",
    )
    tuner.search(**job.arguments())
    kf.tuning.plot(tuner, options.folder / "search.png")

    winner = tuner.get_best_hyperparameters()[0].values
    paper = {**winner, **PAPER, "hint": "conv2 -> conv6", "hint_learning_rate": 3e-3}
    accuracies = {
        name: [job.trained(seed, values) for seed in range(options.seeds)]
        for name, values in {"paper": paper, "winner": winner}.items()
    }
    [student] = tuner.get_best_models()
    student.save(options.folder / "student.keras")
    record = {
        "command": " ".join(["python", "examples/digits_search.py", *sys.argv[1:]]),
        "settings": {k: v for k, v in vars(options).items() if k != "folder"},
        "winner": winner,
        "validation accuracy, %": accuracies,
        "mean": {name: float(np.mean(found)) for name, found in accuracies.items()},
        "test accuracy of the winner, %": digits.accuracy(student, digits.load("test")),
        "trials": [
            {
                "score": trial.score,
                "status": trial.status,
                **trial.hyperparameters.values,
            }
            for trial in tuner.oracle.trials.values()
        ],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    (options.folder / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "trials"}, indent=2))
    return record


if __name__ == "__main__":
    main()
