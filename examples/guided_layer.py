"""Which layer of the student should be guided? Accuracy for each guided layer.

The teacher and the eleven-layer student are those of digits.py. Each of the student's
nine convolutions in turn is the guided layer; the hint is the teacher's middle layer.
Section 2.2 of Romero et al., "FitNets" (arXiv 1412.6550), warns of deep guided layers.

    python examples/guided_layer.py

If the program is interrupted, the same command resumes it.
"""

import argparse

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import digits
import keras
import numpy as np
import study

HINT = digits.HINTS[0]
LAYERS = range(1, 1 + sum(map(len, digits.STUDENT)))


class Job:
    """The teacher of one seed, and its students."""

    def __init__(self, seed, options, test):
        self.seed, self.test = seed, test
        self.folder = options.folder / f"seed_{seed}"
        self.run = digits.Run(seed, self.folder, options)
        keras.utils.set_random_seed(seed)
        self.teacher = digits.build_teacher_network()
        self.run.fit("teacher", self.teacher, options.teacher_epochs)

    def result(self, layer):
        keras.utils.set_random_seed(self.seed)
        name = f"conv{layer}"
        student, logs = self.run.fitnet(self.teacher, (HINT, name), name)
        return {
            "hint_loss": min(logs["val_hint_loss"]),
            "train_accuracy": study.measure_accuracy(student, self.run.train),
            "validation_accuracy": study.measure_accuracy(student, self.run.validation),
            "test_accuracy": study.measure_accuracy(student, self.test),
        }


def draw(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    measures = {"test_accuracy": "test accuracy, %", "hint_loss": "hint loss, stage 1"}
    for axis, (key, label) in zip(axes, measures.items(), strict=True):
        for layer, rows in found.items():
            values = [row[key] for row in rows]
            axis.plot([layer] * len(values), values, "_", color="#009E73", alpha=0.6)
        means = [np.mean([row[key] for row in rows]) for rows in found.values()]
        axis.plot([*found], means, "o-", color="#009E73")
        axis.set(xlabel="guided layer of the student", xticks=[*found], ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylim=(0, 102), title="after both stages")
    axes[1].set(ylim=(0, None), title="on validation images")
    count = len(next(iter(found.values())))
    axes[0].text(9, 4, f"mean, and each of {count} seeds", ha="right", color="0.4")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def format_table(found):
    lines = [f"{'guided layer':<16}{'hint loss':>16}{'test accuracy, %':>20}"]
    for layer, rows in found.items():
        shown = [
            study.format_mean([row[key] for row in rows])
            for key in ("hint_loss", "test_accuracy")
        ]
        lines.append(f"{f'conv{layer}':<16}{shown[0]:>16}{shown[1]:>20}")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    digits.add_options(parser, seeds=5, folder="guided_layer_run")
    options, settings = study.parse_options(parser, arguments)
    found = {layer: [] for layer in LAYERS}
    test = digits.load("test")
    for seed in range(options.seeds):
        job = Job(seed, options, test)
        for layer, rows in found.items():
            path = job.folder / f"conv{layer}.json"
            rows.append(study.load_or_run(path, lambda j=job, at=layer: j.result(at)))
    draw(found, options.folder / "guided_layer.png")
    seeds = [*range(options.seeds)]
    study.record(options.folder, settings, seeds=seeds, results=found)
    print(f"\n{format_table(found)}")


if __name__ == "__main__":
    study.run(main)
