"""Train a thin, deep student on handwritten digits in three ways, and compare them.

The teacher is a maxout network of five layers. The student has eleven layers and a
tenth of the teacher's parameters. It is trained by plain backpropagation, by knowledge
distillation with an annealed λ, and as a FitNet: on a hint first, and then by
distillation. The program prints a table, draws a picture and saves the student.

    python examples/digits.py              # one seed, some minutes
    python examples/digits.py --seeds 5    # means and standard deviations

If the program is interrupted, the same command resumes it.
"""

import argparse
import csv
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import keras
import numpy as np
import study

import keras_fitnets as kf

TEACHER = [[48], [64], [96]]
STUDENT = [[8, 8, 8], [12, 12, 12], [14, 14, 14]]
HINTS = ("conv2", "conv6")
METHODS = {"plain": "Plain backprop", "kd": "KD", "fitnet": "FitNet"}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build_maxout_network(name, blocks, units, pieces, initializer):
    """Build blocks of 3x3 maxout convolutions with pools, a maxout layer and logits."""
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


def build_teacher_network():
    return build_maxout_network("teacher", TEACHER, 100, 5, "glorot_uniform")


def build_student_network():
    # First weights as small as the paper's: without a hint, the signal vanishes on its
    # way through the layers, and the gradient on its way back.
    initializer = keras.initializers.RandomUniform(-0.05, 0.05)
    return build_maxout_network("student", STUDENT, 24, 2, initializer)


def load(split):
    data = kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)
    images, labels = next(iter(data))
    return images.numpy(), labels.numpy()


def add_shifted_copies(images, labels, copies=4):
    """Return the images, and copies of them moved by fractions of a pixel."""
    moved = [images]
    for seed in range(copies):
        shift = keras.layers.RandomTranslation(
            0.09, 0.09, fill_mode="constant", seed=seed
        )
        moved.append(shift(images, training=True).numpy())
    return np.concatenate(moved), np.tile(labels, copies + 1)


class Run:
    """The trainings of one seed, each resumable from a folder of its own."""

    def __init__(self, seed, folder, options):
        self.seed, self.folder, self.options = seed, folder, options
        self.train = add_shifted_copies(*load("train"))
        self.validation = load("validation")
        self.steps = -(-len(self.train[0]) // options.batch_size)

    def optimizer(self, epochs):
        rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * self.steps)
        return keras.optimizers.RMSprop(rate)

    def compile(self, model, epochs):
        # The steps are so small that Python's part of each would matter. Therefore a
        # whole epoch is one call of the compiled function.
        model.compile(
            *(self.optimizer(epochs), LOSS, None, ["accuracy"]),
            steps_per_execution=self.steps,
        )

    def fit(self, name, model, epochs, callbacks=()):
        """Run an ordinary `fit` that ends with the weights of its best epoch."""
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
                    study.Bar(f"Seed {self.seed}, {name}", epochs),
                    *(keep, keras.callbacks.CSVLogger(log, append=True), backup),
                ],
            )
        model.load_weights(best)
        return read_log(log)

    def fitnet(self, teacher, hints=HINTS, name="fitnet"):
        """Train a student in two stages; return it with the logs of both."""
        hint_epochs, kd_epochs = self.options.hint_epochs, self.options.kd_epochs
        distiller = kf.Distiller(teacher, build_student_network(), hints=hints)
        self.compile(distiller, kd_epochs)
        title = f"Seed {self.seed}, {name}"
        history = kf.fit_stagewise(
            distiller,
            *self.train,
            validation_data=self.validation,
            monitor="val_accuracy",
            stages=[
                kf.Stage(
                    "hint",
                    hint_epochs,
                    optimizer=self.optimizer(hint_epochs),
                    callbacks=study.Bar(f"{title}, stage 1", hint_epochs),
                ),
                kf.Stage(
                    "kd",
                    kd_epochs,
                    callbacks=study.Bar(f"{title}, stage 2", kd_epochs),
                ),
            ],
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, kd_epochs)],
            checkpoint_dir=self.folder / name,
            batch_size=self.options.batch_size,
            verbose=0,
        )
        return distiller.student, {**history.kd.history, **history.hint.history}

    def all(self):
        """Train all four networks; return them with the logs of their trainings."""
        epochs = self.options.hint_epochs + self.options.kd_epochs
        networks, logs = {"teacher": build_teacher_network()}, {}
        teacher = networks["teacher"]
        logs["teacher"] = self.fit("teacher", teacher, self.options.teacher_epochs)
        networks["plain"] = build_student_network()
        logs["plain"] = self.fit("plain", networks["plain"], epochs)
        networks["kd"] = build_student_network()
        distiller = kf.Distiller(teacher, networks["kd"])
        annealing = kf.LambdaAnnealing(4.0, 1.0, epochs)
        logs["kd"] = self.fit("kd", distiller, epochs, [annealing])
        networks["fitnet"], logs["fitnet"] = self.fitnet(teacher)
        return networks, logs


def read_log(path):
    """Read the file of a CSVLogger as lists.

    An epoch that was repeated after an interruption has two lines; the last one counts.
    """
    if not path.exists():
        return {}
    with path.open() as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}
    names = next(iter(rows.values()), {})
    return {name: [float(row[name]) for row in rows.values()] for name in names}


def format_table(rows):
    lines = [
        f"{'':<16}{'parameters':>12}{'multiplications':>17}{'test accuracy, %':>20}"
    ]
    for row in rows:
        lines.append(
            f"{row['name']:<16}{row['parameters']:>12,}{row['multiplications']:>17,}"
            f"{study.format_mean(row['test']):>20}"
        )
    return "\n".join(lines)


def draw(logs, hint_epochs, teacher_accuracy, path):
    """Draw hint loss, λ and validation accuracy over the epochs of one seed."""
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
    # Draw the wide line first: two of the curves may coincide, and both stay visible.
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


def add_options(parser, seeds, folder):
    parser.add_argument(
        "--seeds", type=int, default=seeds, help="the number of seeds, from 0 on"
    )
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--kd-epochs", type=int, default=18)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path(folder))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, seeds=1, folder="digits_run")
    options, settings = study.parse_options(parser, arguments)
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
                    "multiplications": kf.report.multiplications(network),
                    "validation": [],
                    "test": [],
                },
            )
            row["validation"].append(study.measure_accuracy(network, run.validation))
            row["test"].append(study.measure_accuracy(network, test))
        if seed == 0:
            networks["fitnet"].save(options.folder / "student.keras")
            draw(
                *(logs, options.hint_epochs, rows["teacher"]["validation"][0]),
                options.folder / "digits.png",
            )
    print(f"\n{format_table(rows.values())}\n")
    study.record(
        *(options.folder, settings), seeds=list(range(options.seeds)), results=rows
    )
    print(f"The student, the picture and the figures are in {options.folder}/.")
    return rows


if __name__ == "__main__":
    study.run(main)
