"""What does a training step cost, compared with plain Keras and other implementations?

`python -m benchmarks.step` measures steps side by side in one process, and prints the
ratios between them: steps of a Distiller in every stage, of the student alone, of
`keras.distillation`, and of loops written by hand. It is meant for CPUs, on which a
step has finished its work when it returns.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import networks
from benchmarks import publish
from keras_fitnets.report.timing import measure_medians

BATCH, TEMPERATURE, LAMBDA = 64, 3.0, 4.0
STAGES = ("hint", "kd", "joint")
Step = Callable[[], object]


class Pair(NamedTuple):
    """Functions that build two networks with extra layers on top, and the hint.

    The hint and the guided layer have the same shape, because `keras.distillation` has
    no regressor. The Distiller has one; the last function builds the same regressor for
    the loops written by hand.
    """

    teacher: Callable[[int], keras.Model]
    student: Callable[[int], keras.Model]
    hint: tuple[str, str]
    regressor: Callable[[], keras.Model]


PAIRS = {
    "maxout": Pair(
        lambda more: networks.maxout_teacher(32, more),
        lambda more: networks.fitnet1(more),
        ("pool1", "conv6"),
        lambda: keras.Sequential([keras.layers.Conv2D(64, 1), kf.Maxout(2)]),
    ),
    "resnet": Pair(
        lambda more: networks.resnet(more=more),
        lambda more: networks.resnet("conv3_block4_out", more),
        ("conv3_block4_out", "conv3_block1_out"),
        lambda: keras.Sequential([keras.layers.Conv2D(512, 1, activation="relu")]),
    ),
}

# Each ratio is a step divided by the sum of others; the last entry is its target.
RATIOS: dict[str, tuple[str, list[str], str]] = {
    "kd / (student + teacher)": ("kd", ["student", "teacher"], "≤ 1.05"),
    "joint / (student + teacher)": ("joint", ["student", "teacher"], "≤ 1.05"),
    "kd / by hand": ("kd", ["kd by hand"], "≤ 1.03"),
    "joint / by hand": ("joint", ["joint by hand"], "≤ 1.03"),
    "keras.distillation / joint": ("keras.distillation", ["joint"], "≥ 1.3"),
    "hint / by hand, networks cut off": ("hint", ["hint by hand"], "≤ 1.05"),
    "hint with ten more layers above / without": ("hint + 10", ["hint"], "1.00"),
    "noise: student / another like it": ("student", ["another student"], "1.00"),
    **{
        f"{stage}, compiled by XLA / not": (f"{stage}, XLA", [f"{stage}, beside"], "-")
        for stage in STAGES
    },
}


def make_keras_step(
    model: keras.Model, data: tf.data.Dataset, jit_compile: bool = False
) -> Step:
    """Return a function that runs one step as `fit` does."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.RMSprop(), loss, jit_compile=jit_compile)
    # This builds the optimizer and creates the train function.
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    iterator = iter(data)
    return lambda: model.train_function(iterator)


def make_hand_step(
    pair: Pair, stage: str, teacher: keras.Model, x: tf.Tensor, y: tf.Tensor
) -> Step:
    """Return a hand-written step of a stage, on networks cut where the stage ends."""

    def cut(network: keras.Model, layer: str) -> keras.Model:
        logits = {} if stage == "hint" else {"logits": network.output}
        hint = {} if stage == "kd" else {"hint": network.get_layer(layer).output}
        return keras.Model(network.input, {**logits, **hint})

    teacher = cut(teacher, pair.hint[0])
    student = cut(pair.student(0), pair.hint[1])
    regressor = pair.regressor()
    optimizer = keras.optimizers.RMSprop()

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        target = teacher(x, training=False)
        with tf.GradientTape() as tape:
            learned = student(x, training=True)
            variables, loss = student.trainable_variables, 0.0
            if stage != "kd":
                error = tf.square(target["hint"] - regressor(learned["hint"]))
                loss += 0.5 * tf.reduce_mean(tf.reduce_sum(error, [1, 2, 3]))
                variables = variables + regressor.trainable_variables
            if stage != "hint":
                soft = tf.nn.softmax(target["logits"] / TEMPERATURE)
                logs = tf.nn.log_softmax(learned["logits"] / TEMPERATURE)
                loss -= LAMBDA * tf.reduce_mean(tf.reduce_sum(soft * logs, -1))
                loss += tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(y, learned["logits"])
                )
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda: step(x, y)


def measure(pair: Pair, repeats: int) -> dict[str, dict]:
    keras.utils.set_random_seed(0)
    teacher = pair.teacher(0)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, *teacher.input_shape[1:])), "float32")
    y = tf.constant(rng.integers(10, size=BATCH))
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    forward = tf.function(lambda: teacher(x, training=False))

    def ours(stage: str, more: int = 0, jit_compile: bool = False) -> Step:
        distiller = kf.Distiller(
            pair.teacher(more) if more else teacher,
            pair.student(more),
            pair.hint,
            temperature=TEMPERATURE,
            lambda_=LAMBDA,
            stage=stage,
        )
        return make_keras_step(distiller, data, jit_compile)

    soft = keras.distillation.LogitsDistillation(
        TEMPERATURE, keras.losses.KLDivergence()
    )
    feature = keras.distillation.FeatureDistillation("mse", *pair.hint)
    theirs = keras.distillation.Distiller(teacher, pair.student(0), [soft, feature])
    steps = {
        "student": make_keras_step(pair.student(0), data),
        "another student": make_keras_step(pair.student(0), data),
        "teacher": forward,
        **{stage: ours(stage) for stage in STAGES},
        **{f"{s} by hand": make_hand_step(pair, s, teacher, x, y) for s in STAGES},
        "keras.distillation": make_keras_step(theirs, data),
        "hint + 10": ours("hint", more=10),
    }
    seconds = measure_medians(steps, repeats)
    # These are measured apart, because a compiled step may take many times as long.
    compiled = {f"{s}, XLA": ours(s, jit_compile=True) for s in STAGES}
    beside = {f"{stage}, beside": steps[stage] for stage in STAGES}
    seconds |= measure_medians({**compiled, **beside}, -(-repeats // 4))
    ratios = {
        name: {
            "measured": round(seconds[top] / sum(seconds[b] for b in bottom), 3),
            "target": target,
        }
        for name, (top, bottom, target) in RATIOS.items()
    }
    return {
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "ratios": ratios,
    }


def format_table(pairs: dict[str, dict]) -> str:
    lines = [f"| | {' | '.join(pairs)} | target |", "|---" * (len(pairs) + 2) + "|"]
    for name, (*_, target) in RATIOS.items():
        measured = [f"{one['ratios'][name]['measured']:.2f}" for one in pairs.values()]
        lines.append(f"| {name} | {' | '.join(measured)} | {target} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=[*PAIRS, "both"], default="both")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    # Each model traces its own step. TensorFlow would warn that this is slow.
    tf.get_logger().setLevel("ERROR")
    wanted = list(PAIRS) if options.pair == "both" else [options.pair]
    pairs = {name: measure(PAIRS[name], options.repeats) for name in wanted}
    command = (
        f"python -m benchmarks.step --pair {options.pair} --repeats {options.repeats}"
    )
    result = {"cores": os.cpu_count(), "batch": BATCH, "pairs": pairs}
    publish(command, result, options.json)
    print("\n" + format_table(pairs))


if __name__ == "__main__":
    main()
