"""How deep a thin network may be and still learn: backprop, distillation, hints.

Figure 2 of Romero et al., "FitNets" (arXiv 1412.6550), on CIFAR-10, small enough for a
CPU: maxout networks of 3x3 kernels with 3 to 13 layers, all of about as many
multiplications, from the paper's first weights and without BatchNorm, each trained in
three ways for equally many epochs. The images are halved to 16x16 pixels, normalised in
contrast and whitened.

    python examples/depth.py --data-dir FOLDER    # tensorflow-datasets', with CIFAR-10

Every training is kept: interrupted, the same command goes on with the next, and other
processes may do other --seeds in the same folder once the teacher is trained.
"""

import argparse
import functools
from pathlib import Path

import images
import keras
import numpy as np
import study
import tensorflow as tf

import keras_fitnets as kf

SIDE, BATCH, RATE = 16, 32, 0.005
BLOCKS = {
    **{3: (1,), 5: (1, 1, 1), 7: (2, 2, 1), 9: (2, 3, 2)},
    **{11: (3, 3, 3), 13: (4, 4, 3)},
}
METHODS = {"plain": "Backprop", "kd": "KD", "hint": "Hint, then KD"}
TEACHER = kf.models.Plan(((48,), (96,), (96,)), units=200)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plan_of(layers, width):
    """A network of some layers, the fully-connected one and the softmax included."""
    blocks = [(width * at,) * count for at, count in enumerate(BLOCKS[layers], 1)]
    pools = (2,) * (len(blocks) - 1) + (kf.models.ALL,)
    return kf.models.Plan(blocks, pools, units=100)


def build(plan, **options):
    return kf.models.build(plan, (SIDE, SIDE, 3), **options)


@functools.cache
def widest(layers, budget):
    """The plan of the widest network within the budget."""
    width = 1
    while study.multiplications(build(plan_of(layers, width + 1))) <= budget:
        width += 1
    return plan_of(layers, width)


def hints_of(plan):
    """The second blocks' last convolutions, as in the paper's tables; or the first."""
    first_two = plan.blocks[:2]
    return f"conv{len(first_two)}", f"conv{sum(map(len, first_two))}"


def load(options):
    """The first images of each split."""
    found = images.prepared(options.folder / "images.npz", options.data_dir, SIDE)
    counts = {"train": options.images, "validation": 5_000, "test": 10_000}
    return {
        part: (x[: counts[part]], y[: counts[part]]) for part, (x, y) in found.items()
    }


def best():
    """A network ends with the weights of its best epoch."""
    return keras.callbacks.EarlyStopping(
        "val_accuracy", patience=10**6, mode="max", restore_best_weights=True
    )


class Job:
    """The teacher, its cache, and the trainings, each kept in the folder."""

    def __init__(self, options):
        self.options, self.data = options, load(options)
        keras.utils.set_random_seed(0)
        self.teacher = self._taught(options.folder / "teacher.keras")
        pairs = [(name, name) for name in ("conv1", "conv2")]
        self.teller = kf.Distiller(self.teacher, build(TEACHER), pairs)

    def cached(self, part, seed):
        dataset = tf.data.Dataset.from_tensor_slices(self.data[part]).batch(BATCH)
        return kf.cache_teacher(
            *(self.teller, dataset, self.options.folder / f"teacher's outputs, {part}"),
            shuffle=part == "train",
            seed=seed,
            verbose=0,
        )

    def _taught(self, path):
        if not path.exists():
            teacher = build(TEACHER, max_norm="paper")
            rate = keras.optimizers.schedules.CosineDecay(
                1e-3, self.options.teacher_epochs * -(-self.options.images // BATCH)
            )
            teacher.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
            teacher.fit(
                *self.data["train"],
                batch_size=BATCH,
                epochs=self.options.teacher_epochs,
                validation_data=self.data["validation"],
                verbose=0,
                callbacks=[best(), study.Bar("Teacher", self.options.teacher_epochs)],
            )
            teacher.save(path)
        return keras.saving.load_model(path)

    def optimizer(self, epochs):
        steps = epochs * -(-self.options.images // BATCH)
        return keras.optimizers.RMSprop(
            keras.optimizers.schedules.CosineDecay(RATE, steps)
        )

    def training(self, method, layers, seed):
        """What came out of one training; from its file if it was done before."""
        path = self.options.folder / "trainings" / f"{method}_{layers}_{seed}.json"
        return study.kept(path, lambda: self._result(method, layers, seed))

    def _result(self, method, layers, seed):
        # Looking for it builds networks, which draw random numbers.
        plan = widest(layers, self.options.budget)
        keras.utils.set_random_seed(seed)
        student = build(plan, initializer="paper", max_norm="paper")
        logs = self._trained(method, plan, student, f"{method}, {layers} layers", seed)
        return {
            "parameters": student.count_params(),
            "multiplications": study.multiplications(student),
            "test_accuracy": study.accuracy(student, self.data["test"]),
            "val_accuracy": [100 * value for value in logs["val_accuracy"]],
            "loss": logs["loss"],
        }

    def _trained(self, method, plan, student, title, seed):
        epochs, hint_epochs = self.options.epochs, self.options.hint_epochs
        keras.utils.clear_session()
        if method == "plain":
            student.compile(self.optimizer(epochs), LOSS, metrics=["accuracy"])
            return student.fit(
                *self.data["train"],
                batch_size=BATCH,
                epochs=epochs,
                validation_data=self.data["validation"],
                callbacks=[best(), study.Bar(title, epochs)],
                verbose=0,
            ).history
        hints = hints_of(plan) if method == "hint" else None
        distiller = kf.Distiller(self.teacher, student, hints, temperature=3.0)
        stages = (hint_epochs, epochs - hint_epochs) if hints else (0, epochs)
        distiller.compile(self.optimizer(stages[1]), LOSS, metrics=["accuracy"])
        options = {"validation_data": self.cached("validation", 0), "verbose": 0}
        options |= {"x": self.cached("train", seed), "shuffle": False}
        if method == "kd":
            annealing = kf.LambdaAnnealing(4.0, 1.0, epochs)
            callbacks = [annealing, best(), study.Bar(title, epochs)]
            return distiller.fit(epochs=epochs, callbacks=callbacks, **options).history
        history = kf.fit_stagewise(
            distiller,
            hint_epochs=hint_epochs,
            kd_epochs=epochs - hint_epochs,
            hint_optimizer=self.optimizer(hint_epochs),
            monitor="val_accuracy",
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs - hint_epochs)],
            hint_callbacks=[study.Bar(f"{title}, stage 1", hint_epochs)],
            kd_callbacks=[study.Bar(f"{title}, stage 2", epochs - hint_epochs)],
            **options,
        )
        return {**history.hint.history, **history.kd.history}


def summary(found):
    """Mean and spread over the seeds, of the best epochs' test accuracy."""
    lines = [f"{'layers':<8}" + "".join(f"{name:>20}" for name in METHODS.values())]
    for layers in BLOCKS:
        shown = []
        for method in METHODS:
            values = [row["test_accuracy"] for row in found[method][str(layers)]]
            shown.append(study.shown(values, 1))
        lines.append(f"{layers:<8}" + "".join(f"{text:>20}" for text in shown))
    return "\n".join(lines)


def draw(found, teacher, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    styles = {
        "plain": {"color": "#E69F00", "marker": "s", "linestyle": ":"},
        "kd": {"color": "#0072B2", "marker": "^", "linestyle": "--"},
        "hint": {"color": "#009E73", "marker": "o"},
    }
    for method, style in styles.items():
        rows = [[r["test_accuracy"] for r in rows] for rows in found[method].values()]
        axis.plot([*BLOCKS], [np.mean(r) for r in rows], label=METHODS[method], **style)
        for layers, row in zip(BLOCKS, rows, strict=True):
            axis.plot([layers] * len(row), row, "_", color=style["color"], alpha=0.6)
    axis.axhline(teacher, color="black", linewidth=1)
    axis.text(13, teacher, "teacher", va="bottom", ha="right")
    axis.axhline(10, color="0.7", linewidth=1, zorder=0)
    axis.text(3, 10, "chance", va="bottom", color="0.4")
    axis.set(
        xlabel="layers, of about as many multiplications",
        ylabel="test accuracy, %",
        xticks=[*BLOCKS],
        ylim=(0, None),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.12))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="that of tensorflow-datasets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=10_000, help="to train on")
    parser.add_argument("--budget", type=int, default=3_000_000, help="multiplications")
    parser.add_argument("--teacher-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=24, help="of both stages")
    parser.add_argument("--hint-epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("depth_run"))
    options, settings = study.begin(parser, arguments, ("seeds", "data_dir"))
    job = Job(options)
    teacher = study.accuracy(job.teacher, job.data["test"])
    found = {method: {str(layers): [] for layers in BLOCKS} for method in METHODS}
    for seed in options.seeds:
        for layers in BLOCKS:
            for method in METHODS:
                found[method][str(layers)].append(job.training(method, layers, seed))
    draw(found, teacher, options.folder / "depth.png")
    study.record(
        *(options.folder, settings),
        seeds=options.seeds,
        teacher={"test_accuracy": teacher, "parameters": job.teacher.count_params()},
        results=found,
    )
    print(f"\nTeacher: {teacher:.1f} %\n{summary(found)}")


if __name__ == "__main__":
    study.run(main)
