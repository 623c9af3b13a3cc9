"""Train FitNet 1 to 4 on CIFAR-10 by backprop, by KD and in two stages.

These are the accuracies of Table 5 of Romero et al., "FitNets" (arXiv 1412.6550). The
recipe "paper" is the paper's, and needs an accelerator: it has the paper's teacher and
up to 500 epochs a stage. The number of epochs is chosen on 10,000 images; the students
are then trained on all 50,000. The recipe "short" takes some hours of a CPU: it has a
smaller teacher, and a few epochs, fixed in number, with a falling learning rate, on all
50,000 images.

    python examples/cifar10.py --data-dir FOLDER    # FOLDER of tensorflow-datasets
    python examples/cifar10.py --data-dir FOLDER --net fitnet4 --recipe paper

If the program is interrupted, the same command resumes it. Once the teacher is trained,
other processes may run other --methods in the same folder.
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
    """The teacher, and the length of each training.

    With `patience`, the epochs are an upper limit, and their number is chosen on
    validation images. Without it, all epochs are used, and the learning rate falls to
    nothing during them.
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
    """The teacher, its cached outputs, and its students."""

    def __init__(self, options):
        self.options, self.recipe = options, RECIPES[options.recipe]
        self.strategy = kf.strategy()
        self.data = images.prepare(options.folder / "images.npz", options.data_dir)
        both = zip(self.data["train"], self.data["validation"], strict=True)
        self.data["all"] = tuple(np.concatenate(arrays) for arrays in both)
        self.teacher = self._load_teacher(options.folder / "teacher.keras")

    def _load_teacher(self, path):
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

    def cache(self, distiller, part):
        training = {"augment": flip, "views": 2, "shuffle": True}
        return kf.cache_teacher(
            *(distiller, self.examples(part).batch(BATCH)),
            self.options.folder / f"teacher's outputs, {part}",
            batch_size=self.recipe.batch,
            seed=self.options.seed,
            **({} if part == "validation" else training),
        )

    def result(self, method):
        """Return the results of a method: from its file, or else by training."""
        name = f"{method}_{self.options.seed}"
        path = self.options.folder / f"{name}.json"
        if not path.exists():
            hint_epochs, kd_epochs = self.recipe.hint_epochs, self.recipe.kd_epochs
            if method != "fitnet":
                hint_epochs, kd_epochs = 0, hint_epochs + kd_epochs
            counts, found = (hint_epochs, kd_epochs), {}
            if self.recipe.patience:
                _, history = self._train(method, "train", *counts)
                counts = best_epochs(history)
                found["validation"] = history.kd.history["val_accuracy"]
            student, history = self._train(method, "all", *counts)
            student.save(path.with_suffix(".keras"))
            found |= {
                "epochs": counts,
                "hint": history.hint.history,
                "kd": history.kd.history,
                "parameters": student.count_params(),
                "multiplications": kf.report.multiplications(student),
                "test_accuracy": study.measure_accuracy(student, self.data["test"]),
            }
            path.write_text(json.dumps(found))
        return json.loads(path.read_text())

    def _train(self, method, part, hint_epochs, kd_epochs):
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
                # Without the soft term this is backprop, at the same cost of a step.
                lambda_=0.0 if method == "plain" else 4.0,
            )
        data = self.cache(distiller, part)
        rates = [recipe.rate(n * len(data)) for n in (hint_epochs, kd_epochs)]
        with self.strategy.scope():
            hint_optimizer, optimizer = map(keras.optimizers.RMSprop, rates)
            distiller.compile(optimizer, LOSS, metrics=["accuracy"])
        annealing = kf.LambdaAnnealing(4.0, 1.0, recipe.patience and 500 or kd_epochs)
        chosen, patience = {}, None
        if part == "train":
            chosen["validation_data"] = self.cache(distiller, "validation")
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
    """Return the number of the best epoch of each stage, counted from 1."""
    hint = history.hint.history.get("val_hint_loss")
    first = int(np.argmin(hint)) + 1 if hint else 0
    return first, int(np.argmax(history.kd.history["val_accuracy"])) + 1


def format_table(rows):
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
    parser.add_argument(
        "--data-dir", type=Path, help="the data directory of tensorflow-datasets"
    )
    parser.add_argument("--net", choices=nets, default="fitnet1")
    parser.add_argument("--recipe", choices=RECIPES, default="short")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("cifar10_run"))
    parser.add_argument("--threads", type=int, default=0, help="0 uses all cores")
    options, settings = study.parse_options(
        *(parser, arguments, ("methods", "seed", "data_dir", "threads"))
    )
    job = Job(options)
    rows = {
        "Teacher": {
            "parameters": job.teacher.count_params(),
            "multiplications": kf.report.multiplications(job.teacher),
            "test_accuracy": study.measure_accuracy(job.teacher, job.data["test"]),
        }
    }
    for method in options.methods:
        rows[METHODS[method]] = job.result(method)
    study.record(options.folder, settings, seed=options.seed, results=rows)
    print(f"\n{format_table(rows)}")


if __name__ == "__main__":
    study.run(main)
