"""Export the digits' student to files that ship, and compare them with its teacher.

The networks are those of `examples/digits.py`, which are trained first if needed. The
program exports the teacher, and the student in every format and quantisation, and
compares all files on the test images: sizes, times and accuracy.

    python examples/ship.py
"""

import argparse

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import digits
import keras
import study

import keras_fitnets as kf

# The student's files, and their quantisation.
FILES = {
    "student, LiteRT": ("student.tflite", None),
    "student, LiteRT, float16": ("student_float16.tflite", "float16"),
    "student, LiteRT, dynamic": ("student_dynamic.tflite", "dynamic"),
    "student, LiteRT, int8": ("student_int8.tflite", "int8"),
    "student, ONNX": ("student.onnx", None),
    "student, ONNX, int8": ("student_int8.onnx", "int8"),
}


def train_networks(options):
    """Return the teacher and the FitNet of `examples/digits.py`, with seed 0."""
    keras.utils.set_random_seed(0)
    run = digits.Run(0, options.folder / "seed_0", options)
    found, _ = run.all()
    return {"teacher": found["teacher"], "student": found["fitnet"]}


def export(teacher, student, folder, data, representative):
    """Export the teacher to one file, and the student to all of `FILES`."""
    options = {"data": data, "representative_data": representative}
    files = {
        "teacher, LiteRT": kf.export.export_student(
            teacher, folder / "teacher.tflite", **options
        )
    }
    for name, (path, quantize) in FILES.items():
        files[name] = kf.export.export_student(
            student, folder / path, quantize=quantize, **options
        )
    return files


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    digits.add_options(parser, seeds=1, folder="digits_run")
    parser.add_argument(
        "--repeats",
        type=int,
        default=50,
        help="the number of repeats of each measurement",
    )
    options, settings = study.parse_options(parser, arguments, ("seeds", "repeats"))
    found, folder = train_networks(options), options.folder / "files"
    test = digits.load("test")
    files = export(*found.values(), folder, test, digits.load("train")[0])
    report = kf.report.compare({**found, **files}, test, repeats=options.repeats)
    report.plot(options.folder / "ship.png")
    smaller = files["teacher, LiteRT"].bytes / files["student, LiteRT, int8"].bytes
    study.record(
        *(folder, settings),
        batch_size=report.batch_size,
        rows=report.rows,
        int8_is_smaller_than_the_teacher_by=smaller,
    )
    (folder / "table.md").write_text(report.to_markdown() + "\n")
    print(f"\n{report}\n")
    print(f"The int8 file is {smaller:.1f} times smaller than the teacher's.")
    return report


if __name__ == "__main__":
    study.run(main)
