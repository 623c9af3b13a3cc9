"""Prepare images as in the paper, and train students on them in three ways."""

from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import keras
import numpy as np
import study
import tensorflow as tf

import keras_fitnets as kf

METHODS = {"plain": "Backprop", "kd": "KD", "hint": "Hint, then KD"}
BATCH = 32


def prepare(path, data_dir, side=32):
    """Return the paper's splits of images and labels, normalised and whitened."""
    if not path.exists():
        halve = keras.layers.AveragePooling2D(32 // side)
        contrast = kf.datasets.GlobalContrastNormalization()
        whiten = kf.datasets.ZCAWhitening()
        arrays = {}
        for part, split in kf.datasets.splits("cifar10").items():
            data = kf.datasets.load("cifar10", split, 1000, False, data_dir=data_dir)
            pairs = [(contrast(halve(x)), y) for x, y in data]
            images = np.concatenate([x for x, _ in pairs])
            if part == "train":
                whiten.adapt(images)
            batches = np.split(images, len(images) // 1000)
            arrays[part] = np.concatenate([whiten(x) for x in batches])
            arrays[f"{part} labels"] = np.concatenate([y for _, y in pairs])
        # Write to another path first: if the program is killed now, an incomplete file
        # must not be mistaken for a complete one.
        beside = path.with_name(f"unfinished {path.name}")
        np.savez(beside, **arrays)
        beside.replace(path)
    found = np.load(path)
    parts = kf.datasets.splits("cifar10")
    return {part: (found[part], found[f"{part} labels"]) for part in parts}


def add_options(parser, folder, **epochs):
    parser.add_argument(
        "--data-dir", type=Path, help="the data directory of tensorflow-datasets"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--images", type=int, default=10_000, help="the number of training images"
    )
    for name, count in epochs.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=count)
    parser.add_argument("--folder", type=Path, default=Path(folder))


def load(options):
    """Return the first images of each split, halved to 16x16 pixels."""
    found = prepare(options.folder / "images.npz", options.data_dir, 16)
    counts = {"train": options.images, "validation": 5_000, "test": 10_000}
    return {
        part: (x[: counts[part]], y[: counts[part]]) for part, (x, y) in found.items()
    }


def create_early_stopping():
    """Return a callback that ends a training with the weights of its best epoch."""
    return keras.callbacks.EarlyStopping(
        "val_accuracy", patience=10**6, mode="max", restore_best_weights=True
    )


class Job:
    """A teacher, its cached outputs, and its students."""

    # A subclass may change the loss and the metric of the networks. It must add
    # `optimizer(epochs)`, which returns the students' optimizer.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalAccuracy

    def __init__(self, options, data, build_teacher, hint_layers):
        self.options, self.data = options, data
        keras.utils.set_random_seed(0)
        self.teacher = self._load_teacher(
            build_teacher, options.folder / "teacher.keras"
        )
        pairs = [(name, name) for name in hint_layers]
        self.cache_distiller = kf.Distiller(self.teacher, build_teacher(), pairs)

    def rate(self, first, epochs):
        steps = epochs * -(-self.options.images // BATCH)
        return keras.optimizers.schedules.CosineDecay(first, steps)

    def compile(self, model, optimizer):
        model.compile(optimizer, self.loss, metrics=[self.metric(name="accuracy")])

    def _load_teacher(self, build, path):
        if not path.exists():
            teacher, epochs = build(), self.options.teacher_epochs
            self.compile(teacher, keras.optimizers.Adam(self.rate(1e-3, epochs)))
            self._fit(teacher, "Teacher", epochs)
            teacher.save(path)
        return keras.saving.load_model(path)

    def _fit(self, network, title, epochs):
        return network.fit(
            *self.data["train"],
            batch_size=BATCH,
            epochs=epochs,
            validation_data=self.data["validation"],
            callbacks=[create_early_stopping(), study.Bar(title, epochs)],
            verbose=0,
        ).history

    def _cache(self, part, seed):
        dataset = tf.data.Dataset.from_tensor_slices(self.data[part]).batch(BATCH)
        return kf.cache_teacher(
            *(
                self.cache_distiller,
                dataset,
                self.options.folder / f"teacher's outputs, {part}",
            ),
            shuffle=part == "train",
            seed=seed,
            verbose=0,
        )

    def result(self, method, build_student, hints, seed, title):
        """Train a student; return its size, its test accuracy and its logs."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        student = build_student()
        logs = self._train(method, student, hints, seed, f"{title}, {method}")
        return {
            "parameters": student.count_params(),
            "multiplications": kf.report.multiplications(student),
            "test_accuracy": study.measure_accuracy(student, self.data["test"]),
            "val_accuracy": [100 * value for value in logs["val_accuracy"]],
            "loss": logs["loss"],
        }

    def _train(self, method, student, hints, seed, title):
        epochs, hint_epochs = self.options.epochs, self.options.hint_epochs
        if method == "plain":
            self.compile(student, self.optimizer(epochs))
            return self._fit(student, title, epochs)
        hints = hints if method == "hint" else None
        distiller = kf.Distiller(self.teacher, student, hints, temperature=3.0)
        options = {"validation_data": self._cache("validation", 0), "verbose": 0}
        options |= {"x": self._cache("train", seed), "shuffle": False}
        left = epochs - hint_epochs if hints else epochs
        self.compile(distiller, self.optimizer(left))
        annealing = kf.LambdaAnnealing(4.0, 1.0, left)
        if not hints:
            callbacks = [annealing, create_early_stopping(), study.Bar(title, epochs)]
            return distiller.fit(epochs=epochs, callbacks=callbacks, **options).history
        history = kf.fit_stagewise(
            distiller,
            stages=[
                kf.Stage(
                    "hint",
                    hint_epochs,
                    optimizer=self.optimizer(hint_epochs),
                    callbacks=study.Bar(f"{title}, stage 1", hint_epochs),
                ),
                kf.Stage("kd", left, callbacks=study.Bar(f"{title}, stage 2", left)),
            ],
            monitor="val_accuracy",
            callbacks=[annealing],
            **options,
        )
        return {**history.hint.history, **history.kd.history}
