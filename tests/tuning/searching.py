"""A small search, for tests in this process and for others:

`python searching.py FOLDER TRIALS`, in which each trial takes some time.
"""

import sys
import time

import keras
import keras_tuner
import tiny
from keras import layers

import keras_fitnets as kf

SAMPLES = 24
LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)
HINTS = [("low", "low"), ("high", "low")]


def network(width, seed):
    """Layers "low", "high" and "out"; without a seed Keras draws the weights."""
    inputs = keras.Input((6,))
    x = layers.Dense(width, "tanh", name="low")(inputs)
    x = layers.Dense(width, "relu", name="high")(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    return model if seed is None else tiny.redrawn(model, seed)


def hypermodel(**options):
    options = {"hints": HINTS, "loss": LOSS, "metrics": ["accuracy"], **options}
    build = options.pop("build_student", lambda hp: network(4, None))
    return kf.tuning.FitNetHyperModel(
        options.pop("teacher", None) or network(5, 0), build, **options
    )


def tuner(model, folder, kind=keras_tuner.RandomSearch, **options):
    limit = {} if kind is keras_tuner.Hyperband else {"max_trials": 2}
    options = {"objective": "val_accuracy", "seed": 1, **limit, **options}
    return kind(model, directory=folder, project_name="search", **options)


def search(found, **options):
    x, y = tiny.data(samples=SAMPLES)
    options = {
        "validation_data": tiny.data(samples=10),
        **{"hint_epochs": 2, "epochs": 2, "verbose": 0},
        **options,
    }
    found.search(options.pop("x", x), options.pop("y", y), **options)
    return found


class Slowly(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(0.3)


if __name__ == "__main__":
    folder, trials = sys.argv[1:]
    # A chief runs no trial, and so its files are only replaced whole on request.
    found = kf.tuning.save_atomically(
        tuner(hypermodel(), folder, max_trials=int(trials))
    )
    search(found, callbacks=[Slowly()])
