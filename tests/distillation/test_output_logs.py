"""The loss of each of several outputs, as it is logged: a mean over all samples."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny

import keras_fitnets as kf

SAMPLES, BATCH = 11, 4
WEIGHTS = [0.5, 2.0]


def network(width, seed):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(width, "tanh")(inputs)
    outputs = {name: keras.layers.Dense(3, name=name)(x) for name in ("ant", "bee")}
    return tiny.redrawn(keras.Model(inputs, outputs), seed)


def distiller(strategy=None):
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = kf.Distiller(network(5, 1), network(4, 2))
        # The weights stay as they are, so that every batch is evaluated by the same.
        model.compile(
            keras.optimizers.SGD(0.0),
            {"ant": tiny.FROM_LOGITS, "bee": "mse"},
            loss_weights={"ant": WEIGHTS[0], "bee": WEIGHTS[1]},
            metrics={"ant": ["accuracy"], "bee": ["mae"]},
        )
    return model


def data():
    x, y = tiny.data(samples=SAMPLES)
    return x, {"ant": y, "bee": y[::-1].copy()}


def expected(model):
    x, y = data()
    outputs = {
        name: np.asarray(value, "float64")
        for name, value in model.student.predict(x, verbose=0).items()
    }
    ant = reference.crossentropy(y["ant"], outputs["ant"]).mean()
    bee = ((y["bee"] - outputs["bee"]) ** 2).mean()
    hit = outputs["ant"].argmax(-1) == y["ant"].argmax(-1)
    return {
        "ant_loss": ant,
        "bee_loss": bee,
        "label_loss": WEIGHTS[0] * ant + WEIGHTS[1] * bee,
        "ant_accuracy": hit.mean(),
        "bee_mae": np.abs(y["bee"] - outputs["bee"]).mean(),
    }


def assert_logs(model, source):
    logs = model.fit(source, shuffle=False, verbose=0).history
    evaluated = model.evaluate(source, verbose=0, return_dict=True)
    for name, value in expected(model).items():
        np.testing.assert_allclose(logs[name], [value], 1e-5, err_msg=name)
        np.testing.assert_allclose(evaluated[name], value, 1e-5, err_msg=name)


@pytest.mark.parametrize("eagerly", [True, False])
def test_on_one_device_with_an_uneven_last_batch(eagerly):
    model = distiller()
    model.run_eagerly = eagerly
    x, y = data()
    assert_logs(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH))


@pytest.mark.slow
def test_on_two_replicas():
    one_device = tf.distribute.ReductionToOneDevice()
    model = distiller(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], one_device))
    x, y = data()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    options = tf.data.Options()
    options.autotune.enabled = False
    assert_logs(model, batches.with_options(options))


def test_several_losses_for_one_output_are_refused():
    model = tiny.make_distiller(label_loss=["mse", "mae"], hints=None)
    with pytest.raises(ValueError, match="2 label losses were given"):
        tiny.fit(model, *tiny.data())
