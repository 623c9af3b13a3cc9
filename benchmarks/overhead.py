"""What training costs besides arithmetic, in the main job of `examples/digits.py`.

`python -m benchmarks.overhead` measures, with the teacher, the student, the data, the
optimizer and the one thread of that example,

- the time to the first step: from the call of `fit` on new networks, just compiled, to
  the end of the first batch, beside the student alone in plain Keras, whose step has no
  teacher to trace and to run;
- an epoch in stage "kd": of `fit`, with one, eight or all steps in a call, beside a
  loop by hand with the same loss and optimizer, but without logs, and beside a plain
  `fit` of the student with as many forward passes of the teacher;
- what `import keras_fitnets` adds to `import keras`;
- how often each step is traced.

Seconds are of the process's own processor time, but for the import: on one thread that
is what it would take on an idle machine.
"""

import argparse
import functools
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import digits
import keras
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import run
from benchmarks.cache import Epoch
from benchmarks.long_run import TRACES
from benchmarks.long_run import Watching
from keras_fitnets.report.timing import measure_in_turns

EPOCHS = 26  # of the learning rate's schedule, as many as the example's
TEMPERATURE, LAMBDA = 3.0, 4.0
OPTIONS: dict[str, Any] = {"batch_size": 32, "verbose": 0}
STAGES = ("hint", "kd", "joint")
STEPS_A_CALL = ("1", "8", "all")
IMPORT = """
import time, keras
start = time.perf_counter()
import keras_fitnets
from keras_fitnets.report.timing import medians_of
print(time.perf_counter() - start)
"""
Run = Callable[[], dict[str, float]]

# A time over the sum of others, and what the ratio should be.
RATIOS = {
    **{
        f"first step, {name} / plain": (f"first step, {name}", ["first step, plain"])
        for name in (*STAGES, "fit_stagewise")
    },
    **{
        f"epoch, {n} a call, kd / {beside}": (
            f"epoch, {n} a call, kd",
            [f"epoch, {n} a call, {other}" for other in others],
        )
        for n in STEPS_A_CALL
        for beside, others in {
            "by hand": ["by hand"],
            "(student + teacher)": ["student", "teacher"],
        }.items()
    },
}
TARGETS = {"first step": "≤ 1.5", "epoch": "-"}


class FirstBatch(keras.callbacks.Callback):
    """Ends a training after its first batch, and knows when that was over."""

    def on_train_batch_end(self, batch, logs=None):
        self.over = time.process_time()
        self.model.stop_training = True


def first_step(job: digits.Run, name: str, stage: str | None) -> dict[str, float]:
    """The time to the first step, and of what comes before it."""
    teacher, model = digits.teacher_network(), digits.student_network()
    optimizer, first = job.optimizer(EPOCHS), FirstBatch()
    gc.collect()
    start = time.process_time()
    if stage:
        model = kf.Distiller(teacher, model, digits.HINTS, stage=stage)
    made = time.process_time()
    model.compile(optimizer, digits.LOSS, metrics=["accuracy"])
    called = time.process_time()
    if name == "fit_stagewise":
        kf.fit_stagewise(model, *job.train, 1, 0, callbacks=[first], **OPTIONS)
    else:
        model.fit(*job.train, callbacks=[first], **OPTIONS)
    before = {"Distiller()": made - start, "compile()": called - made}
    return {f"first step, {name}": first.over - called, **(before if stage else {})}


def epoch_by_keras(job: digits.Run, model: keras.Model, steps: int) -> Callable:
    """An epoch of `fit`, as a function that returns its seconds."""
    model.compile(
        *(job.optimizer(EPOCHS), digits.LOSS, None, ["accuracy"]),
        steps_per_execution=steps,
    )

    def run() -> float:
        epoch = Epoch(time.process_time)
        model.fit(*job.train, callbacks=[epoch], **OPTIONS)
        return epoch.seconds

    return run


def epoch_by_hand(
    job: digits.Run, steps: int, teacher: keras.Model, student: Any = None
) -> Callable:
    """The same of a loop by hand; without a student the teacher alone is run."""
    x, y = map(tf.constant, job.train)
    size, optimizer = OPTIONS["batch_size"], job.optimizer(EPOCHS)
    if student:
        optimizer.build(student.trainable_variables)

    def step(at: tf.Tensor) -> tf.Tensor:
        inputs, labels = tf.gather(x, at), tf.gather(y, at)
        taught = teacher(inputs, training=False)
        if not student:
            return tf.reduce_sum(taught)
        with tf.GradientTape() as tape:
            learned = student(inputs, training=True)
            soft = tf.nn.softmax(taught / TEMPERATURE)
            logs = tf.nn.log_softmax(learned / TEMPERATURE)
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, learned)
            loss = tf.reduce_mean(hard - LAMBDA * tf.reduce_sum(soft * logs, -1))
        variables = student.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function(reduce_retracing=True)
    def several(order: tf.Tensor) -> tf.Tensor:
        loss = 0.0
        for start in tf.range(0, tf.size(order), size):
            loss += step(order[start : start + size])
        return loss

    def run() -> float:
        start = time.process_time()
        order = tf.random.shuffle(tf.range(len(x)))
        for first in range(0, len(x), size * steps):
            several(order[first : first + size * steps])
        return time.process_time() - start

    return run


def epochs(job: digits.Run) -> list[Run]:
    """Runs of an epoch, by Keras, by us and by hand."""
    runs: list[Run] = []
    for name in STEPS_A_CALL:
        steps = job.steps if name == "all" else int(name)
        teacher, student = digits.teacher_network(), digits.student_network
        loops = {
            "kd": epoch_by_keras(
                job, kf.Distiller(teacher, student(), stage="kd"), steps
            ),
            "by hand": epoch_by_hand(job, steps, teacher, student()),
            "student": epoch_by_keras(job, student(), steps),
            "teacher": epoch_by_hand(job, steps, teacher),
        }
        for other, loop in loops.items():
            key = f"epoch, {name} a call, {other}"
            runs.append(lambda key=key, loop=loop: {key: loop()})
    return runs


def import_time() -> dict[str, float]:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"import": float(done.stdout)}


def traces(job: digits.Run) -> dict[str, dict[str, int]]:
    """How often the steps are traced by `fit_stagewise` and by `fit`."""
    options = {"validation_data": job.validation, **OPTIONS}
    fits = {
        "fit_stagewise": lambda d: kf.fit_stagewise(d, *job.train, 2, 2, **options),
        "fit": lambda d: d.fit(*job.train, epochs=2, **options),
    }
    found = {}
    for name, fit in fits.items():
        TRACES.clear()
        networks = digits.teacher_network(), digits.student_network()
        distiller = Watching(*networks, digits.HINTS, stage="kd")
        job.compile(distiller, EPOCHS)
        fit(distiller)
        found[name] = dict(TRACES)
    return found


def main(repeats: int) -> dict[str, Any]:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # Every network is traced anew, which TensorFlow takes for an oversight.
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    job = digits.Run(0, None, SimpleNamespace(**OPTIONS))
    stages = {"plain": None, **{s: s for s in STAGES}, "fit_stagewise": "hint"}
    firsts = [functools.partial(first_step, job, *names) for names in stages.items()]
    seconds = {
        **measure_in_turns(firsts, repeats, warm_up=1),
        **measure_in_turns(epochs(job), repeats, warm_up=1),
    }
    imported = measure_in_turns([import_time], repeats, warm_up=1)["import"]
    ratios = {
        name: {
            "measured": round(seconds[top] / sum(seconds[b] for b in bottom), 3),
            "target": TARGETS[name.split(",")[0]],
        }
        for name, (top, bottom) in RATIOS.items()
    }
    return {
        "steps of an epoch": job.steps,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratios": ratios,
        "seconds of the import": {"measured": round(imported, 3), "target": "≤ 0.2"},
        "traces": traces(job),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    run("overhead", main, parser)
