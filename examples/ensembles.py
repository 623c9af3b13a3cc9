"""Train a student with one, two and four teachers, averaged in two ways.

The networks are those of digits.py. In section 2.1 of Romero et al., "FitNets" (arXiv
1412.6550), a student learns from an ensemble: from the arithmetic or the geometric mean
of its members' probabilities. The hint is the first member's.

    python examples/ensembles.py

If the program is interrupted, the same command resumes it.
"""

import argparse

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import digits
import keras
import study

import keras_fitnets as kf

ENSEMBLES = {
    "1 teacher": (1, "arithmetic"),
    "2, arithmetic": (2, "arithmetic"),
    "2, geometric": (2, "geometric"),
    "4, arithmetic": (4, "arithmetic"),
    "4, geometric": (4, "geometric"),
}


class Job:
    """The teachers of one seed, and their students."""

    def __init__(self, seed, options, test):
        self.seed, self.test = seed, test
        self.folder = options.folder / f"seed_{seed}"
        self.run = digits.Run(seed, self.folder, options)
        self.teachers = []
        for at in range(4):
            keras.utils.set_random_seed(4 * seed + at)
            self.teachers.append(digits.build_teacher_network())
            self.run.fit(f"teacher_{at}", self.teachers[at], options.teacher_epochs)

    def result(self, count, average):
        keras.utils.set_random_seed(self.seed)
        teacher = kf.Teacher(self.teachers[:count], average)
        student, logs = self.run.fitnet(teacher, name=f"{count}_{average}")
        best = max(logs["val_accuracy"])
        return {
            "teachers": self.measure_accuracy(teacher),
            "label_loss": logs["val_label_loss"][logs["val_accuracy"].index(best)],
            "validation_accuracy": study.measure_accuracy(student, self.run.validation),
            "test_accuracy": study.measure_accuracy(student, self.test),
        }

    def measure_accuracy(self, teacher):
        images, labels = self.test
        logits = [model.predict(images, verbose=0) for model in teacher.models]
        together = keras.ops.argmax(teacher.soft_logits(logits, 1.0, "softmax"), -1)
        return 100 * float(keras.ops.mean(keras.ops.equal(together, labels)))


def format_table(found):
    lines = [f"{'':<16}{'the teachers, %':>18}{'student, test, %':>20}"]
    for name, rows in found.items():
        shown = [
            study.format_mean([row[key] for row in rows])
            for key in ("teachers", "test_accuracy")
        ]
        lines.append(f"{name:<16}{shown[0]:>18}{shown[1]:>20}")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    digits.add_options(parser, seeds=5, folder="ensembles_run")
    options, settings = study.parse_options(parser, arguments)
    found = {name: [] for name in ENSEMBLES}
    test = digits.load("test")
    for seed in range(options.seeds):
        job = Job(seed, options, test)
        for name, rows in found.items():
            path = job.folder / f"{name}.json"
            rows.append(
                study.load_or_run(path, lambda j=job, of=ENSEMBLES[name]: j.result(*of))
            )
    seeds = [*range(options.seeds)]
    study.record(options.folder, settings, seeds=seeds, results=found)
    print(f"\n{format_table(found)}")


if __name__ == "__main__":
    study.run(main)
