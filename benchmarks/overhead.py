"""What does training cost besides arithmetic, on the digits of `examples/digits.py`?

`python -m benchmarks.overhead` uses the teacher, the student, the data, the optimizer
and the single thread of that example. It measures

- the time to the first step: from the call of `fit` on newly compiled networks to the
  end of the first batch. It is compared with the student alone in plain Keras, which
  has no teacher to trace and run;
- an epoch of `fit` in stage "kd", with one, eight or all steps in one call. It is
  compared with a loop written by hand, with the same loss and optimizer but without
  logs; and with a plain `fit` of the student plus the teacher's forward passes;
- the time that `import keras_fitnets` adds to `import keras`;
- how often each step is traced.

All times but that of the import are processor time of this process: on one thread, this
is what the work would take on an idle machine.
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
from benchmarks.long_run import TraceCounter
from keras_fitnets.report.timing import measure_in_turns

EPOCHS = 26  # for the learning rate's schedule, as in the example
TEMPERATURE, LAMBDA = 3.0, 4.0
OPTIONS: dict[str, Any] = {"batch_size": 32, "verbose": 0}
STAGES = ("hint", "kd", "joint")
STEPS_A_CALL = ("1", "8", "all")
IMPORT = """
import time, keras
start = time.perf_counter()
import keras_fitnets
from keras_fitnets.report.timing import measure_medians
print(time.perf_counter() - start)
"""
Run = Callable[[], dict[str, float]]

# Each ratio is a time divided by the sum of others.
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
    """Ends a training after its first batch, and records when that batch ended."""

    def on_train_batch_end(self, batch, logs=None):
        self.over = time.process_time()
        self.model.stop_training = True


def measure_first_step(
    job: digits.Run, name: str, stage: str | None
) -> dict[str, float]:
    """Measure the time to the first step, and the times of the calls before it."""
    teacher, model = digits.build_teacher_network(), digits.build_student_network()
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


def make_keras_epoch(job: digits.Run, model: keras.Model, steps: int) -> Callable:
    """Return a function that runs an epoch of `fit` and returns its seconds."""
    model.compile(
        *(job.optimizer(EPOCHS), digits.LOSS, None, ["accuracy"]),
        steps_per_execution=steps,
    )

    def run() -> float:
        epoch = Epoch(time.process_time)
        model.fit(*job.train, callbacks=[epoch], **OPTIONS)
        return epoch.seconds

    return run


def make_hand_epoch(
    job: digits.Run, steps: int, teacher: keras.Model, student: Any = None
) -> Callable:
    """Return the same for a loop by hand; without a student it runs the teacher."""
    x, y = map(tf.constant, job.train)
    size, optimizer = OPTIONS["batch_size"], job.optimizer(EPOCHS)
    if student:
        optimizer.build(student.trainable_variables)

    def step(at: tf.Tensor) -> tf.Tensor:
        inputs, labels = tf.gather(x, at), tf.gather(y, at)
        target = teacher(inputs, training=False)
        if not student:
            return tf.reduce_sum(target)
        with tf.GradientTape() as tape:
            learned = student(inputs, training=True)
            soft = tf.nn.softmax(target / TEMPERATURE)
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
    """Return functions that time an epoch: by Keras, by a Distiller and by hand."""
    runs: list[Run] = []
    for name in STEPS_A_CALL:
        steps = job.steps if name == "all" else int(name)
        teacher, student = digits.build_teacher_network(), digits.build_student_network
        loops = {
            "kd": make_keras_epoch(
                job, kf.Distiller(teacher, student(), stage="kd"), steps
            ),
            "by hand": make_hand_epoch(job, steps, teacher, student()),
            "student": make_keras_epoch(job, student(), steps),
            "teacher": make_hand_epoch(job, steps, teacher),
        }
        for other, loop in loops.items():
            key = f"epoch, {name} a call, {other}"
            runs.append(lambda key=key, loop=loop: {key: loop()})
    return runs


def measure_import() -> dict[str, float]:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"import": float(done.stdout)}


def count_traces(job: digits.Run) -> dict[str, dict[str, int]]:
    """Count how often `fit_stagewise` and `fit` trace the steps."""
    options = {"validation_data": job.validation, **OPTIONS}
    fits = {
        "fit_stagewise": lambda d: kf.fit_stagewise(d, *job.train, 2, 2, **options),
        "fit": lambda d: d.fit(*job.train, epochs=2, **options),
    }
    found = {}
    for name, fit in fits.items():
        TRACES.clear()
        networks = digits.build_teacher_network(), digits.build_student_network()
        distiller = TraceCounter(*networks, digits.HINTS, stage="kd")
        job.compile(distiller, EPOCHS)
        fit(distiller)
        found[name] = dict(TRACES)
    return found


def main(repeats: int) -> dict[str, Any]:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # Each network traces its own step. TensorFlow would warn that this is slow.
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    job = digits.Run(0, None, SimpleNamespace(**OPTIONS))
    stages = {"plain": None, **{s: s for s in STAGES}, "fit_stagewise": "hint"}
    firsts = [
        functools.partial(measure_first_step, job, *names) for names in stages.items()
    ]
    seconds = {
        **measure_in_turns(firsts, repeats, warm_up=1),
        **measure_in_turns(epochs(job), repeats, warm_up=1),
    }
    imported = measure_in_turns([measure_import], repeats, warm_up=1)["import"]
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
        "traces": count_traces(job),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    run("overhead", main, parser)
