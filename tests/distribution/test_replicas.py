"""One, two and four replicas train the same weights on the same global batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf

# A step of several replicas takes seconds to trace.
pytestmark = pytest.mark.slow

BATCH = 8
# The first batch is shared out evenly; of 3 two replicas get 2 and 1, of 1 all but one
# get nothing.
SAMPLES = {"uneven": 11, "one left": 17}
# What the order of a sum can change after some steps, relative to the largest weight.
TOLERANCE = 1e-5


STRATEGIES = {1: tf.distribute.get_strategy()}


@pytest.fixture(scope="module", autouse=True)
def strategies():
    """Without collectives, which of two strategies in one process take each other's;
    those are tested in processes of their own, by test_multi_worker."""
    for replicas in (2, 4):
        devices = [f"CPU:{i}" for i in range(replicas)]
        one_device = tf.distribute.ReductionToOneDevice()
        STRATEGIES[replicas] = tf.distribute.MirroredStrategy(devices, one_device)


def network(width, norm=False, seed=0, name="student", **options):
    """Layers "hidden", perhaps "norm", and "out"."""
    inputs = keras.Input((6,))
    x = layers.Dense(width, "tanh", name="hidden", **options)(inputs)
    if norm:
        synchronized = norm == "synchronized"
        x = layers.BatchNormalization(name="norm", synchronized=synchronized)(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x), name=name)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.7, size=weight.shape))
    return model


def data(samples, dtype="float32"):
    x, y = tiny.data(samples=samples)
    return x.astype(dtype), y.astype(dtype)


def label_loss(**options):
    return keras.losses.CategoricalCrossentropy(from_logits=True, **options)


LABEL_LOSSES = {
    "instance": keras.losses.MeanSquaredError(),
    "function": keras.losses.mean_squared_error,
    "name": "mse",
}


def distiller(stage, loss=None, optimizer=None, student=None, **options):
    teachers = [network(5, seed=seed, name=f"teacher{seed}") for seed in (1, 2)]
    return tiny.make_distiller(
        kf.Teacher(teachers),
        student or network(4, seed=3),
        optimizer or keras.optimizers.Adam(0.05),
        label_loss() if loss is None else loss,
        {"metrics": ["accuracy"], "weighted_metrics": ["mse"]},
        regressor_seed=4,
        hints=kf.Hint("hidden", "hidden", 0.5, member=1),
        stage=stage,
        **options,
    )


def batches(samples, dtype, weighted):
    weight = np.linspace(0, 3, samples) if weighted else None
    return tiny.batches(*data(samples, dtype), weight, BATCH)


def train(replicas, samples, stage, epochs=3, weighted=True, dtype="float32", **made):
    """The logs of each epoch, λ among them, and the weights after the last."""
    dataset = batches(samples, dtype, weighted)
    with STRATEGIES[replicas].scope():
        model = distiller(stage, **{name: make() for name, make in made.items()})
    # One replica is what the others are compared with: its steps need no trace.
    model.run_eagerly = replicas == 1
    history = model.fit(
        dataset,
        epochs=epochs,
        validation_data=None if made else dataset,
        callbacks=[
            kf.LambdaAnnealing(4.0, 1.0, epochs),
            kf.TemperatureAnnealing(5, 2, epochs),
        ],
        shuffle=False,
        verbose=0,
    )
    return history.history, model


def assert_same(one, other, tolerance=TOLERANCE):
    (logs, model), (other_logs, other_model) = one, other
    assert logs.keys() == other_logs.keys()
    for name, values in logs.items():
        np.testing.assert_allclose(other_logs[name], values, tolerance, err_msg=name)
    for a, b in zip(model.weights, other_model.weights, strict=True):
        a, b = a.numpy(), b.numpy()
        scale = max(np.max(np.abs(a)), 1e-3)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("replicas", "case", "stage"), [(2, "uneven", "kd"), (4, "one left", "joint")]
)
def test_replicas_train_the_same_weights(replicas, case, stage):
    whole = train(1, SAMPLES[case], stage)
    assert_same(whole, train(replicas, SAMPLES[case], stage))


@pytest.fixture
def float64():
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


@pytest.mark.parametrize(("case", "stage"), [("uneven", "hint"), ("one left", "joint")])
def test_in_float64_the_same_to_its_precision(case, stage, float64):
    whole = train(1, SAMPLES[case], stage, dtype="float64")
    assert_same(whole, train(2, SAMPLES[case], stage, dtype="float64"), 1e-9)


@pytest.mark.parametrize("loss", LABEL_LOSSES)
def test_a_label_loss_scales_alike_however_it_is_given(loss):
    """Of categories it is an instance in the tests above."""

    def given(name):
        return {"epochs": 1, "loss": lambda: LABEL_LOSSES[name]}

    expected = train(1, 11, "kd", **given("instance"))
    assert_same(expected, train(2, 11, "kd", **given(loss)))


def sgd(**options):
    return lambda: keras.optimizers.SGD(0.3, momentum=0.5, **options)


OPTIMIZERS = {
    "clipnorm": sgd(clipnorm=0.1),
    "global_clipnorm": sgd(global_clipnorm=0.1),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.05), initial_scale=1024
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_an_optimizer_does_to_gradients_it_does_to_those_of_all(optimizer):
    made = {"optimizer": OPTIMIZERS[optimizer], "epochs": 2}
    assert_same(train(1, 17, "kd", **made), train(2, 17, "kd", **made))


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    """The gradient of replica 0 is finite: Keras would look at that one alone."""
    weight = np.full(BATCH, 1.0, "float32")
    weight[-1] = 1e38
    dataset = tf.data.Dataset.from_tensors((*data(BATCH), weight))
    with STRATEGIES[2].scope():
        model = distiller("kd", optimizer=OPTIMIZERS["loss scaling"]())
    before = model.student.get_weights()
    model.fit(dataset, shuffle=False, verbose=0)
    for old, new in zip(before, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert model.optimizer.dynamic_scale.numpy() == 512.0


def test_a_slower_learning_rate_below_the_hint_is_the_same():
    made = {"learning_rate_factor": lambda: 0.25, "epochs": 1}
    assert_same(train(1, 17, "joint", **made), train(2, 17, "joint", **made))


# Batch statistics


def normed(kind):
    return lambda: network(4, norm=kind, seed=3)


def test_synchronized_normalisation_is_the_same_on_any_number_of_replicas():
    made = {"student": normed("synchronized"), "epochs": 1}
    # Of three samples two replicas get two and one; of one sample, one gets nothing.
    for samples in SAMPLES.values():
        whole = train(1, samples, "joint", **made)
        # The variance is a difference of sums, which costs it digits.
        assert_same(whole, train(2, samples, "joint", **made), 1e-4)


def test_moving_statistics_weigh_replicas_by_their_samples():
    """The moving mean of all is that of one device; an empty replica says nothing."""
    samples = SAMPLES["one left"]
    momentum, steps = 0.99, -(-samples // BATCH)
    with STRATEGIES[2].scope():
        model = distiller(
            "joint", optimizer=keras.optimizers.SGD(0.0), student=normed("local")()
        )
    model.fit(batches(samples, "float32", True), shuffle=False, verbose=0)
    norm, hidden = model.student.get_layer("norm"), model.student.get_layer("hidden")
    kernel, bias = hidden.get_weights()
    features = np.tanh(data(samples)[0].astype("float64") @ kernel + bias)
    mean = np.zeros(4)
    for i in range(steps):
        batch = features[i * BATCH : (i + 1) * BATCH]
        mean = momentum * mean + (1 - momentum) * batch.mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, rtol=1e-5, atol=1e-7)
    assert np.isfinite(norm.moving_variance.numpy()).all()


def test_dropout_and_penalties_meet_an_empty_replica():
    def student():
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, "tanh", activity_regularizer="l2", name="hidden"),
                layers.Dropout(0.5),
                layers.Dense(3, kernel_regularizer="l2", name="out"),
            ]
        )

    history, model = train(2, 17, "joint", epochs=1, student=student)
    assert np.isfinite([history[name] for name in history]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


class Costly(layers.Layer):
    """Adds a loss of its own, a mean over the samples."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(x**2))
        return x


def costly_student():
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer="l2", name="hidden")
    x = Costly()(hidden(inputs))
    x = layers.Dense(3, kernel_regularizer="l2", name="out")(x)
    return tiny.redrawn(keras.Model(inputs, x), 3)


def test_penalties_are_the_same():
    made = {"student": costly_student, "epochs": 2}
    assert_same(train(1, 17, "joint", **made), train(2, 17, "joint", **made))


# Time steps that a mask leaves out


def sequence_network(width, seed):
    inputs = keras.Input((5, 3))
    x = layers.Masking(name="masking")(inputs)
    x = layers.Dense(width, "tanh", name="hidden")(x)
    return tiny.redrawn(keras.Model(inputs, layers.Dense(3, name="out")(x)), seed)


def test_masked_steps_are_shared_out_unevenly_and_count_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, 5, 3)).astype("float32")
    for i in range(BATCH):
        x[i, 1 + i // 2 :] = 0.0
    y = np.eye(3, dtype="float32")[rng.integers(3, size=(BATCH, 5))]
    results = []
    for replicas in (1, 2):
        with STRATEGIES[replicas].scope():
            model = kf.Distiller(
                *(sequence_network(5, 1), sequence_network(4, 2)),
                **{"hints": ("hidden", "hidden"), "stage": "joint"},
            )
            for regressor in model.regressors:
                tiny.redrawn(regressor, seed=4)
            model.compile(keras.optimizers.SGD(0.1), label_loss())
        dataset = tf.data.Dataset.from_tensors((x, y)).repeat(3)
        results.append((model.fit(dataset, shuffle=False, verbose=0).history, model))
    assert_same(*results)


def test_a_label_loss_that_is_no_mean_is_refused():
    with STRATEGIES[2].scope():
        model = distiller("kd", loss=label_loss(reduction="sum"))
    before = model.get_weights()
    with pytest.raises(ValueError, match="reduction='sum'.*Leave `reduction`"):
        model.fit(batches(16, "float32", False), shuffle=False, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


# Both stages


def test_two_stages_are_the_same_and_end_on_the_same_best_weights():
    results = []
    for replicas in (1, 2):
        dataset = batches(17, "float32", True)
        with STRATEGIES[replicas].scope():
            model = distiller("joint")
        history = kf.fit_stagewise(
            *(model, dataset, None, 1, 2),
            validation_data=dataset,
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, 2)],
            shuffle=False,
            verbose=0,
        )
        logs = {f"hint/{name}": v for name, v in history.hint.history.items()}
        results.append(({**logs, **history.kd.history}, model))
    assert_same(*results)
