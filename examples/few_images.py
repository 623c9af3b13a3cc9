"""Train ResNet-8 under a public ResNet-56 on few images of CIFAR-10.

Each method trains the same student for as many epochs in all, on the same images with
the same flips and shifts, with the same optimizer:

    plain        labels alone
    kd           soft targets besides, without hints
    joint        soft targets and a hint in every step
    hint-kd      a stage on the hint, then soft targets
    hint-joint   a stage on the hint, then soft targets and the hint

    python examples/few_images.py --teacher resnet56_cifar10.npz --data-dir FOLDER

FOLDER is that of tensorflow-datasets. Accuracies are those of validation images, after
the last epoch; `--test` measures on the test images instead. If the program is
interrupted, the same command resumes it; what was trained is not trained again.
"""

import argparse
import itertools
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import keras
import numpy as np
import resnets
import study
import tensorflow as tf

import keras_fitnets as kf

BATCH, VIEWS = 100, 6
METHODS = ("plain", "kd", "joint", "hint-kd", "hint-joint")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_images(data_dir, part):
    """Return the normalised images of a part of the paper's splits, and the labels."""
    split = kf.datasets.splits("cifar10")[part]
    data = kf.datasets.load("cifar10", split, 1000, False, data_dir=data_dir)
    images, labels = zip(*data.as_numpy_iterator(), strict=True)
    return resnets.normalize(np.concatenate(images)), np.concatenate(labels)


def flip_and_shift(image, seed):
    """Mirror an image in half of the cases, and shift it by up to 4 pixels."""
    image = tf.image.stateless_random_flip_left_right(image, seed)
    padded = tf.pad(image, [(4, 4), (4, 4), (0, 0)])
    return tf.image.stateless_random_crop(padded, resnets.SHAPE, seed + 1)


class Job:
    """The images, the teacher and its cached outputs, and the students."""

    def __init__(self, options):
        self.options = options
        x, y = load_images(options.data_dir, "train")
        chosen = np.random.default_rng(0).permutation(len(x))[: options.images]
        self.train = x[chosen], y[chosen]
        part = "test" if options.test else "validation"
        self.judge = load_images(options.data_dir, part)
        self.teacher = resnets.create_resnet56(options.teacher)
        pair = resnets.TEACHER_LAYERS[1], resnets.STUDENT_LAYERS[1]
        self.hints = [pair]
        # Distillers of other students and settings read the cache of this one.
        distiller = kf.Distiller(self.teacher, resnets.create_resnet8(), self.hints)
        self.cache = kf.cache_teacher(
            distiller,
            tf.data.Dataset.from_tensor_slices(self.train).batch(BATCH),
            options.folder / "teacher's outputs",
            augment=flip_and_shift,
            views=VIEWS,
            shuffle=True,
        )

    def rate(self, first, epochs):
        steps = max(epochs * -(-self.options.images // BATCH), 1)
        return keras.optimizers.schedules.CosineDecay(first, steps)

    def train_student(self, method, seed, settings):
        """Return the accuracy of a student, and its logs."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        epochs = self.options.epochs
        hint_epochs = epochs // 3 if method.startswith("hint") else 0
        left = epochs - hint_epochs
        has_hints = method not in ("plain", "kd")
        student = resnets.create_resnet8()
        distiller = kf.Distiller(
            self.teacher,
            student,
            self.hints if has_hints else None,
            temperature=settings["temperature"],
            lambda_=settings["lambda"],
            hint_weight=settings["hint_weight"],
        )
        optimizer = keras.optimizers.SGD(self.rate(0.05, left), momentum=0.9)
        distiller.compile(optimizer, LOSS)
        callbacks = []
        if settings["lambda"] and settings["lambda_end"] is not None:
            ends = settings["lambda"], settings["lambda_end"]
            callbacks.append(kf.LambdaAnnealing(*ends, left))
        title = f"{method}, {settings}, seed {seed}"
        last = "joint" if method.endswith("joint") else "kd"
        stages = [kf.Stage(last, left, callbacks=[study.Bar(title, left)])]
        if hint_epochs:
            bar = study.Bar(f"{title}, stage 1", hint_epochs)
            first = kf.Stage(
                "hint",
                hint_epochs,
                optimizer=keras.optimizers.Adam(self.rate(1e-3, hint_epochs)),
                callbacks=[bar],
            )
            stages.insert(0, first)
        history = kf.fit_stagewise(
            distiller, self.cache, stages=stages, callbacks=callbacks, verbose=0
        )
        logs = [logs.history for _, logs in history.stages]
        return {"accuracy": study.measure_accuracy(student, self.judge), "logs": logs}


def list_settings(options, method):
    """Return the settings that a method is trained with: every combination."""
    grid = {
        "temperature": [options.temperature],
        "lambda": options.lambdas,
        "lambda_end": [options.lambda_end],
        "hint_weight": options.hint_weights,
    }
    # What a method does not have needs no second training.
    if method == "plain":
        grid["lambda"], grid["lambda_end"] = [0.0], [None]
    if method in ("plain", "kd", "hint-kd"):
        grid["hint_weight"] = ["auto"]
    return [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def parse_weight(text):
    return text if text == "auto" else float(text)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="an .npz file")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[16.0])
    parser.add_argument("--lambda-end", type=float, help="anneal λ to this")
    parser.add_argument(
        "--hint-weights", type=parse_weight, nargs="+", default=["auto"]
    )
    parser.add_argument("--test", action="store_true", help="on the test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("few_images_run"))
    free = ("teacher", "data_dir", "methods", "seeds", "lambdas", "lambda_end")
    free += ("hint_weights", "temperature", "threads")
    options, settings = study.parse_options(parser, arguments, free)
    job, found = Job(options), []
    for method in options.methods:
        for chosen in list_settings(options, method):
            name = "_".join(str(value) for value in (method, *chosen.values()))
            runs = [
                study.load_or_run(
                    options.folder / "runs" / f"{name}_{seed}.json",
                    lambda: job.train_student(method, seed, chosen),  # noqa: B023
                )
                for seed in options.seeds
            ]
            accuracies = [run["accuracy"] for run in runs]
            found.append({"method": method, **chosen, "accuracy": accuracies})
            print(f"{name:40} {study.format_mean(accuracies)} %")
    study.record(options.folder, settings, seeds=options.seeds, results=found)


if __name__ == "__main__":
    study.run(main)
