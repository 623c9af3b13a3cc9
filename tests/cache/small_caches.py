"""Small networks and data, and what a cache of them gives back.

The tests use them, and so do the processes that write a cache at the same time.
"""

import keras
import numpy as np
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf

SAMPLES = 22
BATCH = 8


def network(width, seed=0, end=None, name=None, scale=1.0):
    """Layers "low", "high" and "out", behind a preprocessing."""
    inputs = keras.Input((6,))
    x = layers.Rescaling(scale)(inputs)
    x = layers.Dense(width, "tanh", name="low")(x)
    x = layers.Dense(width, "relu", name="high")(x)
    x = layers.Dense(3, end, name="out")(x)
    return tiny.redrawn(keras.Model(inputs, x, name=name), seed)


def distiller(teacher=None, hints=("high", "low"), end=None, **options):
    keras.utils.set_random_seed(0)  # The regressors start at random.
    teacher = network(5) if teacher is None else teacher
    made = kf.Distiller(teacher, network(4, 1, end), hints=hints, **options)
    loss = keras.losses.CategoricalCrossentropy(from_logits=end is None)
    if end == "sigmoid":
        loss = keras.losses.BinaryCrossentropy()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    made.compile(optimizer, loss, weighted_metrics=["accuracy"])
    return made


def batches(*arrays, size=BATCH):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def data(weights=False):
    x, y = tiny.data(samples=SAMPLES)
    return (x, y, np.arange(SAMPLES, dtype="float32")) if weights else (x, y)


def cached(model, dataset, folder, **options):
    return kf.cache_teacher(model, dataset, folder, verbose=0, **options)


def elements(dataset):
    """Inputs, labels and what was said, of all examples in their order."""
    parts = [(t.inputs, y, t.teacher_outputs) for t, y in dataset.as_numpy_iterator()]
    said = {
        what.split(" (")[0]: np.concatenate(
            [one[what] for p in parts for one in p[2].values()]
        )
        for what in next(iter(parts[0][2].values()))
    }
    return (
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        said,
    )
