"""Optimizers, schedules, losses and layers train as in `fit`, registered or not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_fitnets as kf
from keras_fitnets import backend
from keras_fitnets.training.optimizers import copy_optimizer

pytestmark = pytest.mark.usefixtures("eager")


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """Neither registered nor able to tell its arguments."""

    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start / (1 + keras.ops.cast(step, "float32"))


class Own(keras.optimizers.SGD):
    """Not registered; tells its arguments."""

    def __init__(self, learning_rate=0.1, scale=1.0, **options):
        super().__init__(learning_rate, **options)
        self.scale = scale

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class Silent(keras.optimizers.SGD):
    """Does not tell its arguments."""

    def __init__(self, learning_rate, scale):
        super().__init__(learning_rate)
        self.scale = scale


class Doubled(keras.layers.Dense):
    """A layer that is not registered, and has an argument that it does not tell."""

    def __init__(self, factor, units, **options):
        super().__init__(units, **options)
        self.factor = factor

    def call(self, x):
        return self.factor * super().call(x)


def own_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), -1)


class OwnLoss(keras.losses.Loss):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * own_loss(y_true, y_pred)

    def get_config(self):
        raise NotImplementedError


OPTIMIZERS = {
    "name": lambda: "adam",
    "schedule": lambda: keras.optimizers.SGD(Falling(0.1)),
    "function": lambda: keras.optimizers.SGD(lambda: 0.1),
    "class": lambda: Own(0.1, scale=3.0),
    "both": lambda: Own(Falling(0.1), scale=3.0),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(Own(Falling(0.1), 3.0)),
    "schedule of Keras": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.1, 10)
    ),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_both_stages_take_what_fit_takes(kind):
    x, y = tiny.data()
    model = tiny.make_distiller(optimizer=OPTIMIZERS[kind]())
    tiny.fit(model, x, y)
    kf.fit_stagewise(model, x, y, 1, 1, verbose=0)
    stages = [
        kf.Stage("hint", 1, optimizer=OPTIMIZERS[kind]()),
        kf.Stage("kd", 1, optimizer=OPTIMIZERS[kind]()),
    ]
    kf.fit_stagewise(model, x, y, stages=stages, verbose=0)


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if kind != "name"])
def test_a_copy_has_the_arguments_and_no_state(kind):
    optimizer = OPTIMIZERS[kind]()
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer.build([variable])
    # On JAX a scaled loss needs a step of its own; see `backend/jax.py`.
    backend.apply_gradients(
        optimizer, [keras.ops.ones(2)], [variable], optimizer._trainable_variables
    )
    copy = copy_optimizer(optimizer)
    assert type(copy) is type(optimizer)
    assert int(copy.iterations) == 0
    inner, inner_copy = (getattr(o, "inner_optimizer", o) for o in (optimizer, copy))
    assert getattr(inner_copy, "scale", None) == getattr(inner, "scale", None)
    fresh = OPTIMIZERS[kind]()
    assert float(copy.learning_rate) == float(fresh.learning_rate)
    # The original goes on with its schedule, a step further.
    if "schedule" in kind or kind == "both":
        assert float(optimizer.learning_rate) < float(copy.learning_rate)


def test_an_optimizer_that_cannot_be_copied_is_an_error_before_training():
    x, y = tiny.data()
    model = tiny.make_distiller(optimizer=Silent(0.1, 2.0))
    before = tiny.weights(model)
    with pytest.raises(ValueError, match=r"Silent cannot be copied.*get_config"):
        kf.fit_stagewise(model, x, y, 1, 1, verbose=0)
    for one, other in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_needs_a_schedule_that_tells_its_arguments(tmp_path):
    x, y = tiny.data()
    model = tiny.make_distiller()
    stages = [
        kf.Stage("hint", 1),
        kf.Stage("kd", 1, optimizer=keras.optimizers.SGD(Falling(0.1))),
    ]
    options = {"stages": stages, "checkpoint_dir": tmp_path / "run", "verbose": 0}
    with pytest.raises(ValueError, match=r"get_config.*checkpoint_dir"):
        kf.fit_stagewise(model, x, y, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", [own_loss, OwnLoss(2.0), lambda y, p: own_loss(y, p)])
def test_losses_and_layers_need_no_registration(loss, tmp_path):
    def network(width):
        inputs = keras.Input((6,))
        hidden = Doubled(2.0, width, name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    x, y = tiny.data()
    model = tiny.make_distiller(
        network(5), network(4), label_loss=loss, activation="linear"
    )
    tiny.fit(model, x, y)
    kf.fit_stagewise(model, x, y, 1, 1, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    cached = kf.cache_teacher(model, dataset, tmp_path / "cache", verbose=0)
    kf.fit_stagewise(model, cached, None, 1, 1, shuffle=False, verbose=0)
