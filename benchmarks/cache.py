"""What does a cache of the teacher's outputs cost, and what does it save?

`python -m benchmarks.cache` makes a cache for the paper's CIFAR-10 pair, or for a
ResNet pair, on random images. It compares the following, measuring them in turns:

- writing the cache, with the teacher's forward passes over the same images;
- a forward pass of the teacher as the writer runs it, with an ordinary one. The writer
  turns the weights into constants, and TensorFlow folds BatchNormalization into them;
- an epoch of each stage on the cache, with an epoch of the student alone in `fit`, and
  with the same epoch without the cache;
- the losses of a training on hints in float16, with those on hints in float32.
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


def create_dataset(shape: tuple[int, ...], count: int) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, *shape)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=count)))
    # There is nothing to tune, but TensorFlow 2.21 may wait for its tuning at the end
    # of a pass.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def create_distiller(teacher, student, hints, stage: str) -> kf.Distiller:
    distiller = kf.Distiller(teacher, student, hints=hints, stage=stage)
    distiller.compile(keras.optimizers.SGD(1e-4), LOSS)
    return distiller


class Epoch(keras.callbacks.Callback):
    """Measures how long the last epoch took, by a given clock."""

    def __init__(self, clock=time.perf_counter):
        super().__init__()
        self.clock = clock

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.clock()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = self.clock() - self.start


def time_epoch(name: str, model: keras.Model, *data, **options):
    """Return a function that times one epoch, without the start of `fit`."""

    def run():
        epoch = Epoch()
        model.fit(*data, shuffle=False, verbose=0, callbacks=[epoch], **options)
        return {name: epoch.seconds}

    return run


def measure_writing(
    distiller, dataset: tf.data.Dataset, batches: int, repeats: int
) -> dict[str, float]:
    """Time writing a cache and the teacher's passes, for all batches and a third."""
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


def measure_folding(
    distiller, dataset: tf.data.Dataset, repeats: int
) -> dict[str, float]:
    """Measure what constant weights save, and how far they change the logits."""
    images, _ = next(iter(dataset))
    teacher_pass = TeacherPass(distiller.teacher, distiller.teacher_outputs, "float32")
    [member], provider = teacher_pass.fingerprints, distiller.teacher_outputs
    compute = tf.function(lambda x: provider.compute_all(x, [member])[member])
    passes = {
        "ordinary": lambda: compute(images),
        "folded": lambda: teacher_pass(images),
    }
    seconds = measure_medians(passes, 5 * repeats)
    logits = compute(images)["output 0"].numpy()
    moved = np.abs(teacher_pass(images)[f"{member} output 0"] - logits)
    return {
        "ordinary pass / with constants": seconds["ordinary"] / seconds["folded"],
        "largest difference of a logit": float(np.max(moved)),
        "largest logit": float(np.max(np.abs(logits))),
    }


def measure_epochs(pair, dataset: tf.data.Dataset, folder: Path, repeats: int) -> dict:
    """Time epochs of the student alone and of each stage, with and without a cache."""
    teacher, student, hints = PAIRS[pair]()
    student.compile(keras.optimizers.SGD(1e-4), LOSS)
    runs = [time_epoch("student", student, dataset)]
    for stage in STAGES:
        distiller = create_distiller(teacher, PAIRS[pair]()[1], hints, stage)
        kinds = {"cached": False, "cached and shuffled": True}
        for kind, shuffle in kinds.items():
            cached = kf.cache_teacher(
                distiller, dataset, folder, shuffle=shuffle, verbose=0
            )
            runs.append(time_epoch(f"{stage}, {kind}", distiller, cached))
        runs.append(time_epoch(stage, distiller, dataset))
    return measure_in_turns(runs, repeats, warm_up=1)


def measure_rounding(pair, dataset: tf.data.Dataset, folder: Path) -> dict[str, float]:
    """Measure how far float16 hints change the losses of ten epochs."""
    losses = {}
    for dtype in ("float32", "float16"):
        keras.utils.set_random_seed(0)
        distiller = create_distiller(*PAIRS[pair](), "joint")
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
    distiller = create_distiller(*PAIRS[pair](), "joint")
    dataset = create_dataset(distiller.student.input_shape[1:], batches * BATCH).batch(
        BATCH
    )
    with tempfile.TemporaryDirectory() as folder:
        moved = measure_rounding(pair, dataset.take(2), Path(folder))
        written = measure_writing(distiller, dataset, batches, repeats)
        folded = measure_folding(distiller, dataset, repeats)
        # Writing has fixed costs, so it needs more batches than an epoch does.
        third = dataset.take(batches // 3)
        seconds = measure_epochs(pair, third, Path(folder) / "kept", repeats)
    # Writing begins with tracing, a cost that does not grow with the data.
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
