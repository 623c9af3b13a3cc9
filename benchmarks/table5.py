"""The paper's CIFAR-10 networks at full size: how large and how fast are they?

`python -m benchmarks.table5` counts the layers, weights and multiplications of the
teacher and of FitNet 1 to 4, times their forward passes at batch 1 and 128, and
compares them with Table 5 of Romero et al., "FitNets" (arXiv 1412.6550). Convolutions,
the maxout layer and the softmax count as layers. Weights do not include biases. A
speed-up is the teacher's time divided by the network's.
"""

import argparse
import functools
from collections.abc import Callable

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import keras
import tensorflow as tf

from benchmarks import run
from keras_fitnets import models
from keras_fitnets.report import multiplications
from keras_fitnets.report.timing import measure_medians

# The paper's layers, weights, multiplications and speed-ups.
PAPER = {
    "cifar_teacher": (5, 9e6, 725e6, 1.0),
    "fitnet1": (11, 250e3, 30e6, 13.36),
    "fitnet2": (11, 862e3, 108e6, 4.64),
    "fitnet3": (13, 1.6e6, 392e6, 1.37),
    "fitnet4": (19, 2.5e6, 382e6, 1.52),
}
BATCHES = (1, 128)


def make_forward(network: keras.Model, batch: int) -> Callable[[], object]:
    images = tf.random.stateless_normal((batch, *network.input_shape[1:]), (0, 0))
    step = tf.function(functools.partial(network, training=False))
    return lambda: step(images).numpy()


def main(repeats: int) -> dict:
    """Return the counts of the networks, and their speed-ups."""
    networks = {name: models.build(name) for name in PAPER}
    rows: dict[str, dict] = {}
    for name, network in networks.items():
        kernels = [layer.kernel for layer in network.layers if hasattr(layer, "kernel")]
        rows[name] = {
            "layers": len(kernels),
            "weights": sum(kernel.shape.num_elements() for kernel in kernels),
            "multiplications": multiplications(network),
            "the paper's": dict(
                zip(
                    ("layers", "weights", "multiplications", "speed-up"),
                    PAPER[name],
                    strict=True,
                )
            ),
        }
    for batch in BATCHES:
        steps = {
            name: make_forward(network, batch) for name, network in networks.items()
        }
        times = measure_medians(steps, repeats)
        for name, seconds in times.items():
            rows[name][f"speed-up, batch {batch}"] = times["cifar_teacher"] / seconds
    return {"networks": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    run("table5", main, parser)
