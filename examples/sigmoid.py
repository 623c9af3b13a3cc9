"""Networks that end in a sigmoid: animals against vehicles, by KD and with hints.

The networks are built like the AFLW networks of Romero et al., "FitNets" (arXiv
1412.6550): a wide teacher of four layers and two thin students of eight, with ReLU and
without padding. Instead of faces they see 16x16 images of CIFAR-10. The soft term is a
binary cross-entropy.

    python examples/sigmoid.py --data-dir FOLDER    # FOLDER of tensorflow-datasets

Every training is stored: if the program is interrupted, the same command resumes with
the next one.
"""

import argparse
import functools

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import images
import keras
import numpy as np
import study

import keras_fitnets as kf

METHODS = images.METHODS
STUDENTS = {"aflw_fitnet1": "FitNet 1", "aflw_fitnet2": "FitNet 2"}
# The classes bird, cat, deer, dog, frog and horse of CIFAR-10; the others are
# vehicles.
ANIMALS = range(2, 8)


class Job(images.Job):
    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def metric(self, name):
        return keras.metrics.BinaryAccuracy(name, threshold=0.0)

    def optimizer(self, epochs):
        return keras.optimizers.RMSprop(self.rate(0.001, epochs))


def load(options):
    return {
        part: (x, np.isin(y, ANIMALS).astype("float32"))
        for part, (x, y) in images.load(options).items()
    }


def load_or_train(job, name, method, seed):
    build = functools.partial(kf.models.build, name, initializer="paper")
    hints = kf.models.PLANS[name].hints
    return study.load_or_run(
        job.options.folder / "trainings" / f"{name}_{method}_{seed}.json",
        lambda: job.result(method, build, hints, seed, STUDENTS[name]),
    )


def format_table(teacher, found):
    """Format test errors in percent, and multiplications relative to the teacher."""
    lines = [f"{'':<12}{'mult':>8}" + "".join(f"{n:>18}" for n in METHODS.values())]
    for name, rows in found.items():
        times = teacher["multiplications"] / rows["kd"][0]["multiplications"]
        errors = (
            study.format_mean([100 - row["test_accuracy"] for row in rows[method]])
            for method in METHODS
        )
        shown = "".join(f"{error:>18}" for error in errors)
        lines.append(f"{STUDENTS[name]:<12}{f'1/{times:.1f}':>8}{shown}")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    epochs = {"teacher_epochs": 4, "epochs": 12, "hint_epochs": 4}
    images.add_options(parser, "sigmoid_run", **epochs)
    options, settings = study.parse_options(parser, arguments, ("seeds", "data_dir"))
    build_teacher = functools.partial(kf.models.build, "aflw_teacher")
    job = Job(options, load(options), build_teacher, hint_layers=("conv3",))
    teacher = {
        "parameters": job.teacher.count_params(),
        "multiplications": kf.report.multiplications(job.teacher),
        "test_accuracy": study.measure_accuracy(job.teacher, job.data["test"]),
    }
    found = {
        name: {
            method: [load_or_train(job, name, method, seed) for seed in options.seeds]
            for method in METHODS
        }
        for name in STUDENTS
    }
    study.record(
        *(options.folder, settings),
        seeds=options.seeds,
        teacher=teacher,
        results=found,
    )
    print(f"\nTeacher: error {100 - teacher['test_accuracy']:.2f} %")
    print(f"Students: test error, %\n{format_table(teacher, found)}")


if __name__ == "__main__":
    study.run(main)
