"""One of several processes that train together: `python worker.py CONFIG`.

CONFIG is JSON: the addresses, this worker's index, a folder, and what to train. With
one address there is no strategy: the same training in one process.
"""

# ruff: noqa: E402, TF_CONFIG must be there before TensorFlow is.

import json
import os
import sys
from pathlib import Path

CONFIG = json.loads(sys.argv[1])
if len(CONFIG["workers"]) > 1:
    task = {"type": "worker", "index": CONFIG["index"]}
    cluster = {"worker": CONFIG["workers"]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})

import keras
import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)

import tiny

import keras_fitnets as kf

EPOCHS = 3
FOLDER = Path(CONFIG["folder"])


class Marks(keras.callbacks.Callback):
    """Tells in a file how far this worker is, and waits to be killed there."""

    def on_epoch_begin(self, epoch, logs=None):
        with open(FOLDER / f"marks{CONFIG['index']}", "a") as file:
            file.write(f"{self.model.stage} {epoch}\n")
        if [self.model.stage, epoch] == CONFIG.get("stop_at"):
            os.kill(os.getpid(), 9)


def network(width, seed):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(width, "tanh", name="hidden")(inputs)
    return tiny.redrawn(keras.Model(inputs, keras.layers.Dense(3, name="out")(x)), seed)


def made(strategy):
    with strategy.scope():
        model = kf.Distiller(network(5, 1), network(4, 2), ("hidden", "hidden"))
        for regressor in model.regressors:
            tiny.redrawn(regressor, seed=3)
        model.compile(
            keras.optimizers.Adam(0.05),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def joint_stage(strategy, **options):
    model = made(strategy)
    yield "joint", model, model.fit(epochs=2, **options).history


def both_stages(strategy, x, callbacks, **options):
    model = made(strategy)
    history = kf.fit_stagewise(
        *(model, x, None, EPOCHS, EPOCHS),
        callbacks=[*callbacks, Marks()],
        checkpoint_dir=FOLDER / "run",
        **options,
    )
    hint = {f"hint/{name}": values for name, values in history.hint.history.items()}
    yield "both", model, {**hint, **history.kd.history}


if __name__ == "__main__":
    strategy = kf.strategy("auto")
    x, y = tiny.data(samples=17)
    dataset = tiny.batches(x, y, np.linspace(0, 3, len(x)), 8)
    train = {"joint": joint_stage, "both": both_stages}[CONFIG["train"]]
    runs = train(
        strategy,
        x=dataset,
        validation_data=dataset,
        callbacks=[kf.LambdaAnnealing(4.0, 1.0, EPOCHS)],
        shuffle=False,
        verbose=0,
    )
    outcome = {}
    for name, model, history in runs:
        for i, weight in enumerate(model.weights):
            outcome[f"{name} weight {i}"] = weight.numpy()
        for log, values in history.items():
            outcome[f"{name} {log}"] = values
        outcome[f"{name} prediction"] = model.predict(x[:7], verbose=0)
    np.savez(FOLDER / f"outcome{CONFIG['index']}.npz", **outcome)
