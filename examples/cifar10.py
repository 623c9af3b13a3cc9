"""FitNet 1 to 4 on CIFAR-10: by backprop, by KD and in two stages.

The accuracies of Table 5 of Romero et al., "FitNets" (arXiv 1412.6550). The recipe
"paper" is the paper's, for an accelerator: its teacher, up to 500 epochs a stage, their
number chosen on 10,000 images and then used on all 50,000. The recipe "short" is for
some hours of a CPU: a smaller teacher, few epochs whose number is fixed, and a falling
rate, on all 50,000 images.

    python examples/cifar10.py --data-dir FOLDER    # that of tensorflow-datasets
    python examples/cifar10.py --data-dir FOLDER --net fitnet4 --recipe paper

Interrupted, the same command goes on where it was; once the teacher is trained, other
processes may do other --methods in the same folder.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import images
import keras
import numpy as np
import study
import tensorflow as tf

import keras_fitnets as kf

BATCH, TEMPERATURE = 128, 3.0
METHODS = {"plain": "Backprop", "kd": "KD", "fitnet": "FitNet"}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How long each network is trained, and what its teacher is.

    With `patience` the epochs are the most there may be, and how many there are is
    chosen on validation images; without it the rate falls to nothing in their course.
    """

    teacher: str | kf.models.Plan
    hint_layer: str
    teacher_epochs: int
    hint_epochs: int
    kd_epochs: int
    batch: int
    patience: int | None = None

    def rate(self, steps):
        if self.patience:
            return 0.005
        return keras.optimizers.schedules.CosineDecay(0.005, max(steps, 1))


SMALL = kf.models.Plan(((32, 32), (64, 64), (128, 128)), (2, 2, 2), units=300)
RECIPES = {
    "paper": Recipe("cifar_teacher", "conv2", 150, 500, 500, 128, 100),
    "short": Recipe(SMALL, "conv4", 12, 4, 12, 64),
}


def flip(image, seed):
    return tf.image.stateless_random_flip_left_right(image, seed)


class Job:
    """The teacher, what it says of the images, and the students it has."""

    def __init__(self, options):
        self.options, self.recipe = options, RECIPES[options.recipe]
        self.strategy = kf.strategy()
        self.data = images.prepared(options.folder / "images.npz", options.data_dir)
        both = zip(self.data["train"], self.data["validation"], strict=True)
        self.data["all"] = tuple(np.concatenate(arrays) for arrays in both)
        self.teacher = self._taught(options.folder / "teacher.keras")

    def _taught(self, path):
        if not path.exists():
            epochs = self.recipe.teacher_epochs
            keras.utils.set_random_seed(0)
            seeds = tf.data.Dataset.random(0, rerandomize_each_iteration=True).batch(2)
            data = tf.data.Dataset.zip(self.examples("all").shuffle(50_000), seeds)
            data = data.map(lambda x, seed: (flip(x[0], seed), x[1])).batch(BATCH)
            with self.strategy.scope():
                teacher = kf.models.build(self.recipe.teacher, max_norm="paper")
                steps = epochs * -(-len(self.data["all"][0]) // BATCH)
                rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
                teacher.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
            backup = keras.callbacks.BackupAndRestore(path.with_name("teacher_backup"))
            teacher.fit(
                data.prefetch(2),
                epochs=epochs,
                shuffle=False,
                callbacks=[study.Bar("Teacher", epochs), backup],
                verbose=0,
            )
            teacher.save(path)
        with self.strategy.scope():
            return keras.saving.load_model(path)

    def examples(self, part):
        return tf.data.Dataset.from_tensor_slices(self.data[part])

    def cached(self, distiller, part):
        training = {"augment": flip, "views": 2, "shuffle": True}
        return kf.cache_teacher(
            *(distiller, self.examples(part).batch(BATCH)),
            self.options.folder / f"teacher's outputs, {part}",
            batch_size=self.recipe.batch,
            seed=self.options.seed,
            **({} if part == "validation" else training),
        )

    def result(self, method):
        """The student that a method gives, from its file if it was trained before."""
        name = f"{method}_{self.options.seed}"
        path = self.options.folder / f"{name}.json"
        if not path.exists():
            hint_epochs, kd_epochs = self.recipe.hint_epochs, self.recipe.kd_epochs
            if method != "fitnet":
                hint_epochs, kd_epochs = 0, hint_epochs + kd_epochs
            counts, found = (hint_epochs, kd_epochs), {}
            if self.recipe.patience:
                _, history = self._trained(method, "train", *counts)
                counts = best_epochs(history)
                found["validation"] = history.kd.history["val_accuracy"]
            student, history = self._trained(method, "all", *counts)
            student.save(path.with_suffix(".keras"))
            found |= {
                "epochs": counts,
                "hint": history.hint.history,
                "kd": history.kd.history,
                "parameters": student.count_params(),
                "multiplications": kf.report.multiplications(student),
                "test_accuracy": study.accuracy(student, self.data["test"]),
            }
            path.write_text(json.dumps(found))
        return json.loads(path.read_text())

    def _trained(self, method, part, hint_epochs, kd_epochs):
        options, recipe = self.options, self.recipe
        title, guided = f"{METHODS[method]}, {part}", kf.models.PLANS[options.net].hints
        keras.utils.set_random_seed(options.seed)
        with self.strategy.scope():
            student = kf.models.build(
                options.net, initializer="paper", max_norm="paper"
            )
            distiller = kf.Distiller(
                self.teacher,
                student,
                hints=(recipe.hint_layer, guided[1]),
                temperature=TEMPERATURE,
                # Without the soft term it is backprop, at the same cost a step.
                lambda_=0.0 if method == "plain" else 4.0,
            )
        data = self.cached(distiller, part)
        rates = [recipe.rate(n * len(data)) for n in (hint_epochs, kd_epochs)]
        with self.strategy.scope():
            hint_optimizer, optimizer = map(keras.optimizers.RMSprop, rates)
            distiller.compile(optimizer, LOSS, metrics=["accuracy"])
        annealing = kf.LambdaAnnealing(4.0, 1.0, recipe.patience and 500 or kd_epochs)
        chosen, patience = {}, None
        if part == "train":
            chosen["validation_data"] = self.cached(distiller, "validation")
            chosen["monitor"], patience = "val_accuracy", recipe.patience
        history = kf.fit_stagewise(
            distiller,
            data,
            stages=[
                kf.Stage(
                    "hint",
                    hint_epochs,
                    optimizer=hint_optimizer,
                    callbacks=study.Bar(f"{title}, stage 1", hint_epochs),
                    patience=patience,
                ),
                kf.Stage(
                    "kd",
                    kd_epochs,
                    callbacks=study.Bar(f"{title}, stage 2", kd_epochs),
                    patience=patience,
                ),
            ],
            callbacks=[] if method == "plain" else [annealing],
            checkpoint_dir=options.folder / f"{method}_{options.seed}, {part}",
            shuffle=False,
            verbose=0,
            **chosen,
        )
        return student, history


def best_epochs(history):
    """How many epochs each stage had when it was best."""
    hint = history.hint.history.get("val_hint_loss")
    first = int(np.argmin(hint)) + 1 if hint else 0
    return first, int(np.argmax(history.kd.history["val_accuracy"])) + 1


def table(rows):
    heads = {"parameters": 12, "multiplications": 17, "test accuracy, %": 18}
    lines = [" " * 12 + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for name, row in rows.items():
        lines.append(
            f"{name:<12}{row['parameters']:>12,}{row['multiplications']:>17,}"
            f"{row['test_accuracy']:>18.2f}"
        )
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    nets = [name for name in kf.models.NAMES if name.startswith("fitnet")]
    parser.add_argument("--data-dir", type=Path, help="that of tensorflow-datasets")
    parser.add_argument("--net", choices=nets, default="fitnet1")
    parser.add_argument("--recipe", choices=RECIPES, default="short")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("cifar10_run"))
    parser.add_argument("--threads", type=int, default=0, help="0: all there are")
    options, settings = study.begin(
        *(parser, arguments, ("methods", "seed", "data_dir", "threads"))
    )
    job = Job(options)
    rows = {
        "Teacher": {
            "parameters": job.teacher.count_params(),
            "multiplications": kf.report.multiplications(job.teacher),
            "test_accuracy": study.accuracy(job.teacher, job.data["test"]),
        }
    }
    for method in options.methods:
        rows[METHODS[method]] = job.result(method)
    study.record(options.folder, settings, seed=options.seed, results=rows)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    study.run(main)
