"""What the tables of mistakes share: small networks, their data, and the checks."""

import re

import keras
import networks
import numpy as np
import pytest
from keras import layers

import keras_fitnets as kf

PAIR = ("hidden", "hidden")
LOGITS_LOSS = networks.LABEL_LOSS
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.arange(8) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]
DATA = (X, Y)
ONE = {"batch_size": 4, "verbose": 0}


def net(name="student", width=2, units=3, end=None, shape=(4,), between=()):
    """Layers "features", "hidden", those `between`, and "out"."""
    inputs = x = keras.Input(shape, name="features")
    out = layers.Dense(units, end, name="out")
    for layer in [layers.Dense(width, "relu", name="hidden"), *between, out]:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def forked(name="student", **units):
    """A network with a dictionary of outputs."""
    inputs = keras.Input((4,))
    x = layers.Dense(2, name="hidden")(inputs)
    outputs = {key: layers.Dense(n, name=key)(x) for key, n in units.items()}
    return keras.Model(inputs, outputs, name=name)


def conv_net(name="student", width=2, size=8):
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(width, 3, name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="out"),
        ],
        name=name,
    )


def distiller(teacher=None, student=None, hints=PAIR, **options):
    teacher = net("teacher", 8) if teacher is None else teacher
    return kf.Distiller(
        teacher, net() if student is None else student, hints, **options
    )


def compiled(loss=LOGITS_LOSS, metrics=("accuracy",), made=None, **options):
    made = made or distiller(**options)
    metrics = metrics if metrics is None else list(metrics)
    made.compile("sgd", loss, metrics=metrics, run_eagerly=True)
    return made


def forked_distiller(loss, **options):
    model = distiller(forked("teacher", a=3, b=3), forked(a=3, b=3), **options)
    # An empty list has too few entries for older Kerases.
    return compiled(loss, None, made=model)


def two_stages(x=X, y=Y, **options):
    options = {"hint_epochs": 1, "kd_epochs": 1, **ONE, **options}
    return lambda model: kf.fit_stagewise(model, x, y, **options)


def raised(act):
    """The message of the error that `act` raises; all its lines as one."""
    with pytest.raises((ValueError, TypeError)) as caught:
        act()
    return " ".join(str(caught.value).split())


def check(message, named, remedy):
    assert re.search(named, message), f"{named!r} is not named: {message}"
    assert re.search(remedy, message), f"No {remedy!r} in: {message}"
