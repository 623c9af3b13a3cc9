"""NaN and infinity stop training: named, undone, and in no weight or checkpoint."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")

BATCH, SAMPLES = 4, 16
# The sample that is bad is in the third of four batches.
BAD, BAD_STEP = 9, 3


class Failing(keras.layers.Layer):
    """Passes its first input on, but for samples whose second begins with 1000."""

    def __init__(self, value, **options):
        super().__init__(**options)
        self.value = value

    def call(self, inputs):
        x, given = inputs
        return keras.ops.where(given[:, :1] == 1000.0, self.value, x)


def failing_teacher(layer, value):
    """A teacher that gives a bad number after one of its layers."""
    inputs = x = keras.Input((6,))
    for name, units in {"hidden": 5, "out": 3}.items():
        x = keras.layers.Dense(units, name=name)(x)
        if name == layer:
            x = Failing(value, name=f"{name}_failing")([x, inputs])
    return tiny.redrawn(keras.Model(inputs, x, name="teacher"), 1)


def data(value=0.0, of=0):
    """Inputs and labels, with a bad value in one sample of one of them."""
    arrays = tiny.data(samples=SAMPLES)
    arrays[of][BAD, 0] = value
    return arrays


def distiller(stage, teacher=None, hint="hidden", optimizer=None, **options):
    return tiny.make_distiller(
        teacher or tiny.network(seed=1),
        tiny.network(seed=2),
        optimizer or keras.optimizers.Adam(0.01),
        compile_options=options,
        regressor_seed=3,
        hints=(hint, "hidden"),
        stage=stage,
        activation="softmax",
        from_logits=True,
    )


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [(variable.path.split("/")[-1], variable.numpy()) for variable in variables]


def assert_same(one, other):
    for (name, value), (_, expected) in zip(one, other, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)


def fit(model, x, y, *callbacks, **options):
    settings = {"batch_size": BATCH, "shuffle": False, "epochs": 2, "verbose": 0}
    return model.fit(x, y, callbacks=list(callbacks), **{**settings, **options})


def from_teacher(layer, value, stage):
    teacher = kf.Teacher(failing_teacher(layer, value), from_logits=True)
    return distiller(
        stage, teacher, "hidden_failing" if layer == "hidden" else "hidden"
    )


# The Distiller, the data, the first place that is told, and some that follow.
CASES = {
    "data": (
        lambda: distiller("joint"),
        lambda: data(np.nan),
        *("data", ["student's outputs", "kd_loss", "gradients"]),
    ),
    "infinite data in stage hint": (
        lambda: distiller("hint"),
        lambda: data(np.inf),
        *("data", []),
    ),
    "labels": (
        lambda: distiller("kd"),
        lambda: data(np.nan, 1),
        "data",
        ["label_loss"],
    ),
    "teacher's outputs": (
        lambda: from_teacher("out", np.nan, "kd"),
        lambda: data(1000.0),
        *("teacher's outputs", ["kd_loss", "gradients"]),
    ),
    "hints": (
        lambda: from_teacher("hidden", np.inf, "hint"),
        lambda: data(1000.0),
        *("hints", ["hint_loss", "gradients"]),
    ),
    "a hint above which outputs are bad too": (
        lambda: from_teacher("hidden", np.nan, "joint"),
        lambda: data(1000.0),
        *("teacher's outputs", ["hints", "kd_loss", "hint_loss"]),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.graph if case == "data" else ())
        for case in CASES
    ],
)
def test_the_place_and_the_step_are_named_and_the_step_is_undone(case):
    make, bad, first, then = CASES[case]
    x, y = bad()
    model, expected = make(), make()
    fit(expected, x[: BATCH * 2], y[: BATCH * 2], epochs=1)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, x, y, kf.CheckNumerics())
    message = str(caught.value)
    assert f"Step {BAD_STEP} " in message and "epoch 1" in message
    assert f"first in the {first}" in message
    assert all(place in message.split("then in")[1] for place in then)
    assert "no weight and no checkpoint has changed" in message
    assert_same(state(model), state(expected))


@pytest.mark.slow
@pytest.mark.graph
def test_it_changes_no_bit_of_a_run_without_bad_numbers():
    outcomes = []
    for callbacks in ([], [kf.CheckNumerics()]):
        model = distiller("joint")
        history = fit(model, *data(), *callbacks).history
        outcomes.append((state(model), history))
    assert_same(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    assert not model.check_numerics


@pytest.mark.parametrize("of", ["student", "teacher"])
def test_a_weight_that_holds_nan_is_named(of):
    model = distiller("kd")
    network = model.student if of == "student" else model.teacher.models[0]
    kernel = network.get_layer("out").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(FloatingPointError) as caught:
        fit(model, *data(), kf.CheckNumerics())
    assert f"Weights that hold it: {kernel.path}" in str(caught.value)
    assert f"first in the {of}'s outputs" in str(caught.value)


def test_an_update_that_overflows_is_undone():
    """The update by a finite gradient is what overflows first."""
    model = distiller("kd", optimizer=keras.optimizers.SGD(3e38))
    x, y = data()
    with pytest.raises(FloatingPointError, match="first in the weights"):
        fit(
            model,
            10 * x,
            y,
            kf.CheckNumerics(),
            sample_weight=np.full(SAMPLES, 100.0),
        )
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_loss_scaling_may_overflow_while_it_looks_for_its_scale():
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=1e38
    )
    model = distiller("kd", optimizer=scaled)
    x, y = data()
    fit(model, x, 100 * y, kf.CheckNumerics(), epochs=1)
    assert model.optimizer.dynamic_scale.numpy() < 1e38


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 4}])
def test_the_step_is_exact_however_it_is_run(options):
    model, expected = (distiller("joint", **options) for _ in range(2))
    x, y = data(np.nan)
    fit(expected, x[: BATCH * 2], y[: BATCH * 2], epochs=1)
    with pytest.raises(FloatingPointError, match=f"Step {BAD_STEP} .*in the data"):
        fit(model, x, y, kf.CheckNumerics())
    if "jit_compile" in options:
        assert_same(state(model), state(expected))


@pytest.mark.slow
@pytest.mark.graph
def test_replicas_undo_the_step_together():
    devices = [f"CPU:{i}" for i in range(2)]
    strategy = tf.distribute.MirroredStrategy(
        devices, tf.distribute.ReductionToOneDevice()
    )
    x, y = data(np.nan)
    with strategy.scope():
        model, expected = distiller("joint"), distiller("joint")
    options = tf.data.Options()
    # As in test_replicas: short iterators may wait for ever for the tuning thread.
    options.autotune.enabled = False
    whole = tiny.batches(x, y, batch_size=BATCH)
    expected.fit(whole.take(2), shuffle=False, verbose=0)
    with pytest.raises(FloatingPointError, match=f"Step {BAD_STEP} .*in the data"):
        model.fit(
            whole, shuffle=False, callbacks=[kf.CheckNumerics()], epochs=2, verbose=0
        )
    assert_same(state(model), state(expected))


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [[], [kf.CheckNumerics()]], ids=["off", "on"])
def test_the_checkpoint_is_from_before_it(tmp_path, callbacks):
    """λ is annealed to what float32 cannot hold in the third epoch of stage 2."""
    schedule = kf.LambdaAnnealing(lambda epoch: 1.0 if epoch < 2 else 9e29)

    def run(*more):
        model = distiller("joint", optimizer=keras.optimizers.SGD(0.1))
        x, y = data()
        kf.fit_stagewise(
            *(model, x, y, 1, 4),
            callbacks=[schedule, *callbacks, *more],
            checkpoint_dir=tmp_path,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
        )

    with pytest.raises(FloatingPointError):
        run()
    begun = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: begun.append(e)
    )
    with pytest.raises(FloatingPointError) as caught:
        run(note)
    # From the end of the second epoch on; stage 1 is done.
    assert begun == [2]
    if not callbacks:
        assert "that of epoch 2" in str(caught.value)
        assert "CheckNumerics" in str(caught.value)


def test_it_is_for_distillers():
    model = tiny.network()
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"CheckNumerics watches.*TerminateOnNaN"):
        model.fit(*data(), callbacks=[kf.CheckNumerics()], verbose=0)
