"""Search for λ, τ, the learning rate and the hint, on handwritten digits.

The teacher and the student are those of digits.py. KerasTuner runs thirty trials, each
the mean of three seeds. The teacher is run once for all of them, and stage 1 once for
each hint and seed. The best of thirty trials is partly lucky. Therefore the five best
are trained again with further seeds, which choose the winner among them. The winner is
then compared with λ = 4 and τ = 3 of Romero et al., "FitNets" (arXiv 1412.6550), with
seeds that no choice has used. All of this happens on the validation split; the test
split is used once, for the winner.

    python examples/digits_search.py

If the program is interrupted, the same command resumes it. Several machines can share
the search: see docs/searching.md.
"""

import argparse
import json
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import digits
import keras
import keras_tuner
import numpy as np
import study

import keras_fitnets as kf

HINTS = [digits.HINTS, ("conv2", "conv4"), None]
HINT_RATE = RATE = 3e-3
PAPER = {"lambda": 4.0, "temperature": 3.0}
# The other settings of digits.py.
USUAL = {"learning_rate": RATE, "hint": " -> ".join(digits.HINTS)}
# The options that another call may change in the same folder.
COUNTS = ("trials", "finalists", "unseen_seeds")


class Job:
    """The digits, their teacher, and the training of students."""

    def __init__(self, options):
        keras.utils.set_random_seed(0)
        run = digits.Run(0, options.folder, options)
        self.options, self.steps = options, run.steps
        self.teacher = digits.build_teacher_network()
        run.fit("teacher", self.teacher, options.teacher_epochs)
        self.data = {
            "x": run.train[0],
            "y": run.train[1],
            "validation_data": run.validation,
            "hint_epochs": options.hint_epochs,
            "epochs": options.kd_epochs,
            "batch_size": options.batch_size,
            "verbose": 0,
        }

    def optimizer(self, rate):
        steps = self.options.kd_epochs * self.steps
        return keras.optimizers.RMSprop(
            keras.optimizers.schedules.CosineDecay(rate, steps)
        )

    def annealing(self, start):
        return kf.LambdaAnnealing(start, min(1.0, start), self.options.kd_epochs)

    def hypermodel(self, seed):
        return kf.tuning.FitNetHyperModel(
            self.teacher,
            lambda hp: digits.build_student_network(),
            hints=HINTS,
            lambda_=(0.5, 16.0),
            temperature=(1.0, 10.0),
            learning_rate=(1e-3, 1e-2),
            hint_learning_rate=HINT_RATE,
            loss=digits.LOSS,
            metrics=["accuracy"],
            optimizer=self.optimizer,
            annealing=self.annealing,
            seed=seed,
            directory=self.options.folder / "shared",
        )

    def train(self, values, seeds):
        """Return the best epoch's label loss and accuracy on the validation split."""
        return {
            metric: [self._train(values, seed)[metric] for seed in seeds]
            for metric in ("label_loss", "accuracy")
        }

    def _train(self, values, seed):
        log = self.options.folder / "trained.json"
        known = json.loads(log.read_text()) if log.exists() else {}
        key = json.dumps([seed, values], sort_keys=True)
        if key not in known:
            hypermodel = self.hypermodel(seed)
            hp = keras_tuner.HyperParameters()
            hp.values = dict(values)
            history = hypermodel.fit(hp, hypermodel.build(hp), **self.data).history
            best = int(np.argmin(history["val_label_loss"]))
            known[key] = {
                "label_loss": history["val_label_loss"][best],
                "accuracy": 100 * history["val_accuracy"][best],
            }
            log.write_text(json.dumps(known))
        return known[key]


def format_table(rows):
    lines = [f"{'':<32}{'label loss':>18}{'accuracy, %':>18}"]
    for name, row in rows.items():
        shown = [
            study.format_mean(row[metric], places)
            for metric, places in (("label_loss", 4), ("accuracy", 2))
        ]
        lines.append(f"{name:<32}{shown[0]:>18}{shown[1]:>18}")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument(
        "--seeds", type=int, default=3, help="the number of seeds of each trial"
    )
    parser.add_argument("--finalists", type=int, default=5)
    parser.add_argument(
        "--unseen-seeds",
        type=int,
        default=9,
        help="the number of seeds of the final comparison",
    )
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--kd-epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("search_run"))
    options, settings = study.parse_options(parser, arguments, COUNTS)

    job = Job(options)
    tuner = keras_tuner.BayesianOptimization(
        job.hypermodel(seed=0),
        executions_per_trial=options.seeds,
        # On few images, many trials have the same accuracy, but not the same loss.
        objective=keras_tuner.Objective("val_label_loss", "min"),
        max_trials=options.trials,
        seed=0,
        directory=options.folder,
        project_name="search",
    )
    bar = study.Bar("A trial, stage 2", options.kd_epochs)
    tuner.search(**job.data, callbacks=[bar])
    kf.tuning.plot(tuner, options.folder / "search.png")
    count, finalists = options.seeds, min(options.finalists, options.trials)
    chosen_by = [*range(count, 2 * count)]
    unseen = [*range(2 * count, 2 * count + options.unseen_seeds)]
    best = [hp.values for hp in tuner.get_best_hyperparameters(finalists)]
    final = {str(values): job.train(values, chosen_by) for values in best}
    losses = [np.mean(row["label_loss"]) for row in final.values()]
    place = int(np.argmin(losses))
    winner = best[place]
    compared = {
        "λ = 4, τ = 3, the rest usual": {**winner, **USUAL, **PAPER},
        "λ = 4, τ = 3, the rest found": {**winner, **PAPER},
        "all found": winner,
    }
    compared = {name: job.train(row, unseen) for name, row in compared.items()}
    student = tuner.get_best_models(finalists)[place]
    student.save(options.folder / "student.keras")
    results = study.record(
        options.folder,
        {**settings, "trials": options.trials, "finalists": finalists},
        seeds={"search": [*range(count)], "finalists": chosen_by, "compared": unseen},
        winner=winner,
        finalists=final,
        compared=compared,
        test_accuracy_of_the_winner=study.measure_accuracy(
            student, digits.load("test")
        ),
        trials=[
            {"val_label_loss": trial.score, **trial.hyperparameters.values}
            for trial in tuner.oracle.get_best_trials(options.trials)
        ],
    )
    print(f"\nFound, the best of {finalists} finalists: {winner}\n")
    print(f"On the validation split, seeds {unseen}:\n{format_table(compared)}\n")
    print(f"Test accuracy: {results['test_accuracy_of_the_winner']:.2f} %")
    print(f"The student, the picture and the figures are in {options.folder}/.")
    return results


if __name__ == "__main__":
    study.run(main)
