"""Keras' callbacks know which of our logs are better when they are smaller."""

import keras
import numpy as np
import pytest
import tiny

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")

CALLBACKS = [
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    lambda monitor: keras.callbacks.ModelCheckpoint(
        "unused.weights.h5", monitor, save_best_only=True, save_weights_only=True
    ),
]
LOGS = {
    "val_label_loss": "min",
    "kd_loss": "min",
    "val_kd_loss": "min",
    "hint_loss": "min",
    "val_hint_loss": "min",
    "val_loss": "min",
    "agreement": "max",
    "hint_r2": "max",
    "val_accuracy": "max",
}


@pytest.mark.parametrize("monitor", LOGS)
@pytest.mark.parametrize("make", CALLBACKS, ids=["stop", "reduce", "save"])
def test_the_direction_of_a_log_is_known(make, monitor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = tiny.data()
    model = tiny.make_distiller(compile_options={"metrics": ["accuracy"]})
    callback = make(monitor)
    callbacks = [kf.StudentMonitor(x), callback]
    model.fit(x, y, validation_data=(x, y), callbacks=callbacks, verbose=0)
    wanted = keras.ops.less if LOGS[monitor] == "min" else keras.ops.greater
    assert callback.monitor_op is wanted


def test_the_direction_of_the_outputs_of_a_regression_is_known():
    def network(width):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(width), keras.layers.Dense(1)]
        )

    x, y = np.ones((8, 4)), np.ones((8, 1))
    model = kf.Distiller(network(3), network(2))
    model.compile("sgd", "mse")
    stop = keras.callbacks.EarlyStopping("output_r2")
    model.fit(x, y, callbacks=[kf.StudentMonitor(x), stop], verbose=0)
    assert stop.monitor_op is keras.ops.greater


def test_both_stages_of_a_training_have_the_callback():
    x, y = tiny.data()
    model = tiny.make_distiller()
    callback = keras.callbacks.ReduceLROnPlateau("hint_loss", factor=0.5, patience=1)
    kf.fit_stagewise(
        *(model, x, y, 2, 1),
        stage="joint",
        callbacks=[callback],
        validation_data=(x, y),
        verbose=0,
    )
    assert callback.monitor_op is keras.ops.less


def test_training_stops_when_the_label_loss_no_longer_falls():
    """With a step of zero no epoch is better than the first."""
    x, y = tiny.data()
    model = tiny.make_distiller(optimizer=keras.optimizers.SGD(0.0), stage="kd")
    stop = keras.callbacks.EarlyStopping("val_label_loss", patience=2)
    history = model.fit(
        x, y, epochs=9, validation_data=(x, y), callbacks=stop, verbose=0
    )
    assert len(history.epoch) == 3


@pytest.mark.parametrize("name", ["a_loss", "val_b_loss"])
def test_the_loss_of_an_output_falls(name):
    def network(width):
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(width)(inputs)
        outputs = [keras.layers.Dense(3, name=one)(hidden) for one in "ab"]
        return keras.Model(inputs, outputs)

    x, y = tiny.data()
    model = kf.Distiller(network(4), network(3))
    model.compile("sgd", [tiny.FROM_LOGITS, tiny.FROM_LOGITS])
    stop = keras.callbacks.EarlyStopping(name)
    data = {"x": x, "y": [y, y], "validation_data": (x, [y, y])}
    model.fit(**data, callbacks=[stop], verbose=0)
    assert stop.monitor_op is keras.ops.less


def test_a_mode_of_the_users_own_stays():
    x, y = tiny.data()
    stop = keras.callbacks.EarlyStopping("val_label_loss", mode="max")
    model = tiny.make_distiller()
    model.fit(x, y, validation_data=(x, y), callbacks=[stop], verbose=0)
    assert stop.monitor_op is keras.ops.greater


def test_keras_alone_still_knows_neither():
    """When this fails, `monitors.py` may have become unnecessary."""
    model = tiny.network()
    model.compile("sgd", tiny.FROM_LOGITS)
    stop = keras.callbacks.EarlyStopping("val_label_loss")
    with pytest.raises(ValueError, match="automatically determine"):
        model.fit(np.ones((2, 6)), np.ones((2, 3)), callbacks=[stop], verbose=0)
