"""What a cache of the teacher's outputs costs, and what it saves.

`python -m benchmarks.cache` makes a cache for the paper's CIFAR-10 pair (or a ResNet
pair) on random images, and compares, each in turns with the other:

- writing it with the teacher's forward passes over the same images;
- a pass of the teacher as the writer runs it, with its weights as constants, into which
  TensorFlow folds BatchNormalization, with an ordinary one;
- an epoch of each stage on it with an epoch of the student alone in Keras' `fit`, and
  with the same epoch without the cache;
- the losses of a training on hints in float16 with those on hints in float32.
"""

import argparse
import functools
import itertools
import shutil
import tempfile
import time
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf
from benchmarks import networks
from benchmarks import run
from keras_fitnets.cache.teacher_pass import TeacherPass
from keras_fitnets.report.timing import measure_in_turns
from keras_fitnets.report.timing import measure_medians

BATCH = 64
STAGES = ("hint", "kd", "joint")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def maxout_pair():
    return networks.maxout_teacher(), networks.fitnet1(), ("conv2", "conv6")


def resnet_pair():
    student = networks.resnet("conv3_block4_out")
    return networks.resnet(), student, ("conv4_block6_out", "conv3_block2_out")


PAIRS = {"maxout": maxout_pair, "resnet": resnet_pair}


def images(shape: tuple[int, ...], count: int) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, *shape)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=count)))
    # Nothing to tune, and TensorFlow 2.21 may wait for it at the end of a pass.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def distiller_of(teacher, student, hints, stage: str) -> kf.Distiller:
    distiller = kf.Distiller(teacher, student, hints=hints, stage=stage)
    distiller.compile(keras.optimizers.SGD(1e-4), LOSS)
    return distiller


class Epoch(keras.callbacks.Callback):
    """How long the last epoch took, by some clock."""

    def __init__(self, clock=time.perf_counter):
        super().__init__()
        self.clock = clock

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.clock()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = self.clock() - self.start


def epoch_of(name: str, model: keras.Model, dataset: tf.data.Dataset):
    """A run of one epoch, without what `fit` does before the first."""

    def run():
        epoch = Epoch()
        model.fit(dataset, shuffle=False, verbose=0, callbacks=[epoch])
        return {name: epoch.seconds}

    return run


def writing(
    distiller, dataset: tf.data.Dataset, batches: int, repeats: int
) -> dict[str, float]:
    """Of a cache, and the teacher's forward passes; of all batches, and of a third."""
    [teacher] = distiller.teacher.models
    forward = tf.function(lambda x: teacher(x, training=False), reduce_retracing=True)
    folders = (Path(tempfile.mkdtemp()) for _ in itertools.count())

    def write(some):
        folder = next(folders)
        kf.cache_teacher(distiller, some, folder / "cache", verbose=0)
        shutil.rmtree(folder)

    def passes(some):
        for x, _ in some:
            forward(x)

    parts = {"": dataset, ", a third": dataset.take(batches // 3)}
    steps = {}
    for name, part in parts.items():
        steps[f"forward{name}"] = functools.partial(passes, part)
        steps[f"write{name}"] = functools.partial(write, part)
    return measure_medians(steps, repeats, warm_up=1)


def folding(distiller, dataset: tf.data.Dataset, repeats: int) -> dict[str, float]:
    """What constants save, and how far they move the teacher's logits."""
    images, _ = next(iter(dataset))
    answers = TeacherPass(distiller.teacher, distiller.teacher_outputs, "float32")
    [member], provider = answers.fingerprints, distiller.teacher_outputs
    said = tf.function(lambda x: provider.said(x, [member])[member])
    passes = {"ordinary": lambda: said(images), "folded": lambda: answers(images)}
    seconds = measure_medians(passes, 5 * repeats)
    logits = said(images)["output 0"].numpy()
    moved = np.abs(answers(images)[f"{member} output 0"] - logits)
    return {
        "ordinary pass / with constants": seconds["ordinary"] / seconds["folded"],
        "largest difference of a logit": float(np.max(moved)),
        "largest logit": float(np.max(np.abs(logits))),
    }


def epochs(pair, dataset: tf.data.Dataset, folder: Path, repeats: int) -> dict:
    """Of the student alone and of each stage, with and without the cache."""
    teacher, student, hints = PAIRS[pair]()
    student.compile(keras.optimizers.SGD(1e-4), LOSS)
    runs = [epoch_of("student", student, dataset)]
    for stage in STAGES:
        distiller = distiller_of(teacher, PAIRS[pair]()[1], hints, stage)
        kinds = {"cached": False, "cached and shuffled": True}
        for kind, shuffle in kinds.items():
            cached = kf.cache_teacher(
                distiller, dataset, folder, shuffle=shuffle, verbose=0
            )
            runs.append(epoch_of(f"{stage}, {kind}", distiller, cached))
        runs.append(epoch_of(stage, distiller, dataset))
    return measure_in_turns(runs, repeats, warm_up=1)


def rounding(pair, dataset: tf.data.Dataset, folder: Path) -> dict[str, float]:
    """How far the losses of ten epochs move when the hints are in float16."""
    losses = {}
    for dtype in ("float32", "float16"):
        keras.utils.set_random_seed(0)
        distiller = distiller_of(*PAIRS[pair](), "joint")
        cached = kf.cache_teacher(
            distiller, dataset, folder / dtype, hint_dtype=dtype, verbose=0
        )
        history = distiller.fit(cached, epochs=10, shuffle=False, verbose=0).history
        losses[dtype] = {name: np.array(log) for name, log in history.items()}
    return {
        name: float(np.max(np.abs(losses["float16"][name] / exact - 1)))
        for name, exact in losses["float32"].items()
    }


def main(pair: str, batches: int, repeats: int) -> dict:
    keras.utils.set_random_seed(0)
    distiller = distiller_of(*PAIRS[pair](), "joint")
    dataset = images(distiller.student.input_shape[1:], batches * BATCH).batch(BATCH)
    with tempfile.TemporaryDirectory() as folder:
        moved = rounding(pair, dataset.take(2), Path(folder))
        written = writing(distiller, dataset, batches, repeats)
        folded = folding(distiller, dataset, repeats)
        # What is written once has fixed costs that want more batches than an epoch.
        third = dataset.take(batches // 3)
        seconds = epochs(pair, third, Path(folder) / "kept", repeats)
    # Writing begins with a trace, which does not grow with the data.
    further = {n: written[n] - written[f"{n}, a third"] for n in ("write", "forward")}
    over = {
        f"{stage}, {kind} / student": seconds[f"{stage}, {kind}"] / seconds["student"]
        for stage in STAGES
        for kind in ("cached", "cached and shuffled")
    }
    faster = {
        f"{stage} / {stage}, cached": seconds[stage] / seconds[f"{stage}, cached"]
        for stage in STAGES
    }
    return {
        "pair": pair,
        "batches of 64": batches,
        "repeats": repeats,
        "ratios": {
            "writing / teacher's forward passes": written["write"] / written["forward"],
            "the same, of each further batch": further["write"] / further["forward"],
            **over,
            **faster,
        },
        "teacher's pass": folded,
        "largest relative change of a loss by hints in float16": moved,
        "seconds": {**written, **seconds},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=PAIRS, default="maxout")
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    run("cache", main, parser)
