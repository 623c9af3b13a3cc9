"""A thin deep student learns handwritten digits from a wide teacher, or fails to.

Trains a maxout teacher of five layers, then one student of eleven layers and a tenth
of its parameters in three ways: by plain backpropagation, by knowledge distillation
with an annealed λ, and as a FitNet. Prints a table, draws a picture, saves the student.

    python examples/digits.py              # one seed, some minutes
    python examples/digits.py --seeds 5    # means and their spread

Interrupted, the same command goes on where it was.
"""

import argparse
import csv
import json
import os
import platform
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf

TEACHER = [[48], [64], [96]]
STUDENT = [[8, 8, 8], [12, 12, 12], [14, 14, 14]]
HINTS = ("conv2", "conv6")
METHODS = {"plain": "Plain backprop", "kd": "KD", "fitnet": "FitNet"}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def maxout_network(name, blocks, units, pieces, initializer):
    """3x3 maxout convolutions, a pool after each block, a maxout layer, logits."""
    options = {"kernel_initializer": initializer}
    inputs = x = keras.Input((8, 8, 1))
    layer = 0
    for block in blocks:
        for channels in block:
            layer += 1
            x = keras.layers.Conv2D(2 * channels, 3, padding="same", **options)(x)
            x = kf.Maxout(2, name=f"conv{layer}")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Dense(units * pieces, **options)(keras.layers.Flatten()(x))
    x = kf.Maxout(pieces, name="fc")(x)
    outputs = keras.layers.Dense(10, name="logits", **options)(x)
    return keras.Model(inputs, outputs, name=name)


def teacher_network():
    return maxout_network("teacher", TEACHER, 100, 5, "glorot_uniform")


def student_network():
    # As small as the paper's: without hints the signal dies on its way up.
    initializer = keras.initializers.RandomUniform(-0.05, 0.05)
    return maxout_network("student", STUDENT, 24, 2, initializer)


def multiplications(network):
    """Of one forward pass: each kernel weight as often as it is applied."""
    kernels = [layer for layer in network.layers if hasattr(layer, "kernel")]
    return sum(
        int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1]))
        for layer in kernels
    )


def load(split):
    data = kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)
    images, labels = next(iter(data))
    return images.numpy(), labels.numpy()


def with_shifted_copies(images, labels, copies=4):
    """The images, and copies of them moved by fractions of a pixel."""
    moved = [images]
    for seed in range(copies):
        shift = keras.layers.RandomTranslation(
            0.09, 0.09, fill_mode="constant", seed=seed
        )
        moved.append(shift(images, training=True).numpy())
    return np.concatenate(moved), np.tile(labels, copies + 1)


class Bar(keras.callbacks.Callback):
    """One bar of Keras' for a whole training."""

    def __init__(self, title, epochs):
        super().__init__()
        self.title, self.epochs = title, epochs

    def on_train_begin(self, logs=None):
        print(self.title)
        self.bar = keras.utils.Progbar(self.epochs, stateful_metrics=["val_accuracy"])

    def on_epoch_end(self, epoch, logs=None):
        shown = [(k, logs[k]) for k in ("loss", "val_accuracy") if k in logs]
        self.bar.update(epoch + 1, shown)


class Run:
    """The trainings of one seed, each in a folder from which it goes on."""

    def __init__(self, seed, folder, options):
        self.seed, self.folder, self.options = seed, folder, options
        self.train = with_shifted_copies(*load("train"))
        self.validation = load("validation")
        self.steps = -(-len(self.train[0]) // options.batch_size)

    def optimizer(self, epochs):
        rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * self.steps)
        return keras.optimizers.RMSprop(rate)

    def compile(self, model, epochs):
        # An epoch is one call into the graph: the steps are small.
        model.compile(
            *(self.optimizer(epochs), LOSS, None, ["accuracy"]),
            steps_per_execution=self.steps,
        )

    def fit(self, name, model, epochs, callbacks=()):
        """An ordinary `fit` that ends on the best validation accuracy."""
        folder = self.folder / name
        log, best = folder / "log.csv", folder / "best.weights.h5"
        folder.mkdir(parents=True, exist_ok=True)
        seen = read_log(log).get("val_accuracy", [])
        if len(seen) < epochs:
            self.compile(model, epochs)
            backup = keras.callbacks.BackupAndRestore(folder / "backup")
            keep = keras.callbacks.ModelCheckpoint(
                *(best, "val_accuracy", 0, True, True, "max"),
                initial_value_threshold=max(seen, default=None),
            )
            model.fit(
                *self.train,
                batch_size=self.options.batch_size,
                epochs=epochs,
                validation_data=self.validation,
                verbose=0,
                callbacks=[
                    *callbacks,
                    Bar(f"Seed {self.seed}, {name}", epochs),
                    *(keep, keras.callbacks.CSVLogger(log, append=True), backup),
                ],
            )
        model.load_weights(best)
        return read_log(log)

    def fitnet(self, teacher):
        """The two stages."""
        hint_epochs, kd_epochs = self.options.hint_epochs, self.options.kd_epochs
        distiller = kf.Distiller(teacher, student_network(), hints=HINTS)
        self.compile(distiller, kd_epochs)
        name = f"Seed {self.seed}, fitnet"
        history = kf.fit_stagewise(
            *(distiller, *self.train, hint_epochs, kd_epochs),
            validation_data=self.validation,
            monitor="val_accuracy",
            hint_optimizer=self.optimizer(hint_epochs),
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, kd_epochs)],
            hint_callbacks=[Bar(f"{name}, stage 1", hint_epochs)],
            kd_callbacks=[Bar(f"{name}, stage 2", kd_epochs)],
            checkpoint_dir=self.folder / "fitnet",
            batch_size=self.options.batch_size,
            verbose=0,
        )
        return distiller.student, {**history.kd.history, **history.hint.history}

    def all(self):
        """The four networks, and the logs of their training."""
        epochs = self.options.hint_epochs + self.options.kd_epochs
        networks, logs = {"teacher": teacher_network()}, {}
        teacher = networks["teacher"]
        logs["teacher"] = self.fit("teacher", teacher, self.options.teacher_epochs)
        networks["plain"] = student_network()
        logs["plain"] = self.fit("plain", networks["plain"], epochs)
        networks["kd"] = student_network()
        distiller = kf.Distiller(teacher, networks["kd"])
        annealing = kf.LambdaAnnealing(4.0, 1.0, epochs)
        logs["kd"] = self.fit("kd", distiller, epochs, [annealing])
        networks["fitnet"], logs["fitnet"] = self.fitnet(teacher)
        return networks, logs


def read_log(path):
    """A CSVLogger's file as lists; a line that a restored epoch wrote again, once."""
    if not path.exists():
        return {}
    with path.open() as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}
    names = next(iter(rows.values()), {})
    return {name: [float(row[name]) for row in rows.values()] for name in names}


def accuracy(network, data):
    images, labels = data
    predicted = network.predict(images, batch_size=len(images), verbose=0)
    return 100 * float(np.mean(predicted.argmax(-1) == labels))


def table(rows):
    lines = [
        f"{'':<16}{'parameters':>12}{'multiplications':>17}{'test accuracy, %':>20}"
    ]
    for row in rows:
        mean, spread = np.mean(row["test"]), np.std(row["test"])
        shown = f"{mean:.2f}" + (f" ± {spread:.2f}" if len(row["test"]) > 1 else "")
        lines.append(
            f"{row['name']:<16}{row['parameters']:>12,}{row['multiplications']:>17,}"
            f"{shown:>20}"
        )
    return "\n".join(lines)


def draw(logs, hint_epochs, teacher_accuracy, path):
    """Hint loss, λ and validation accuracy over the epochs of one seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fitnet, epochs = logs["fitnet"], hint_epochs + len(logs["fitnet"]["lambda"])
    first = np.arange(1, hint_epochs + 1)
    second = np.arange(hint_epochs + 1, epochs + 1)
    figure, axes = plt.subplot_mosaic(
        [["hint", "accuracy"], ["lambda", "accuracy"]],
        figsize=(10, 4.5),
        width_ratios=[1, 1.7],
        layout="constrained",
        sharex=True,
    )
    axes["hint"].plot(first, fitnet["hint_loss"], color="#009E73")
    axes["hint"].set(title="Stage 1: the hint is learned", ylabel="hint loss")
    axes["hint"].set_ylim(bottom=0)
    axes["lambda"].plot(second, fitnet["lambda"], color="#009E73")
    axes["lambda"].set(title="Stage 2: λ is annealed", ylabel="λ", xlabel="epoch")
    # Wide below narrow, since two of them may well be the same.
    styles = {
        "plain": {"color": "#E69F00", "linewidth": 6},
        "kd": {"color": "#0072B2", "linewidth": 2, "linestyle": "--"},
        "fitnet": {"color": "#009E73", "linewidth": 2},
    }
    right = axes["accuracy"]
    for method, style in styles.items():
        values = 100 * np.array(logs[method]["val_accuracy"])
        x = second if method == "fitnet" else np.arange(1, epochs + 1)
        right.plot(x, values, label=METHODS[method], **style)
    right.axhline(teacher_accuracy, color="black", linewidth=1)
    right.text(1, teacher_accuracy - 1, "teacher", va="top")
    for axis in axes.values():
        axis.axvline(hint_epochs + 0.5, color="0.8", zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    right.text(hint_epochs, 50, "FitNet's stage 1 ", ha="right", color="0.4")
    right.text(hint_epochs, 46, "has no labels ", ha="right", color="0.4")
    right.set(
        title="One student, three ways to train it",
        xlabel="epoch",
        ylabel="validation accuracy, %",
        ylim=(0, 102),
    )
    right.legend(frameon=False, loc="center right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def begin(parser, arguments, counts=("seeds",)):
    """The options, and those of them that a folder's run cannot change, only go on."""
    options = parser.parse_args(arguments)
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", *counts)}
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(
            f"{options.folder} holds a run of {kept.read_text()}; use --folder."
        )
    kept.write_text(json.dumps(settings))
    # One thread: the steps are so small that several would mostly wait for each other.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    # Each training is traced anew, which TensorFlow takes for an oversight.
    tf.get_logger().setLevel("ERROR")
    return options, settings


def record(name, settings, **found):
    """What a run has found, and what it was."""
    return {
        "command": " ".join(["python", f"examples/{name}.py", *sys.argv[1:]]),
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        **found,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--kd-epochs", type=int, default=18)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("digits_run"))
    options, settings = begin(parser, arguments)
    rows, test = {}, load("test")
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        run = Run(seed, options.folder / f"seed_{seed}", options)
        networks, logs = run.all()
        for key, network in networks.items():
            row = rows.setdefault(
                key,
                {
                    "name": {"teacher": "Teacher", **METHODS}[key],
                    "parameters": network.count_params(),
                    "multiplications": multiplications(network),
                    "validation": [],
                    "test": [],
                },
            )
            row["validation"].append(accuracy(network, run.validation))
            row["test"].append(accuracy(network, test))
        if seed == 0:
            networks["fitnet"].save(options.folder / "student.keras")
            draw(
                *(logs, options.hint_epochs, rows["teacher"]["validation"][0]),
                options.folder / "digits.png",
            )
    print(f"\n{table(rows.values())}\n")
    found = {"seeds": list(range(options.seeds)), "results": rows}
    results = record("digits", settings, **found)
    (options.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"The student, the picture and the figures are in {options.folder}/.")
    return rows


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on where this one stopped.")
