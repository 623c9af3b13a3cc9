"""Label losses that count, or weigh, in their own way: the same on any replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers
from keras import ops

import keras_fitnets as kf
from keras_fitnets.distribution import label_loss

# A step of several replicas takes seconds to trace.
pytestmark = pytest.mark.slow

SAMPLES, STEPS, CLASSES = 11, 5, 3


@pytest.fixture(scope="module")
def two_replicas():
    one_device = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], one_device)


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def dense(width, seed, heads=1):
    inputs = keras.Input((6,))
    x = layers.Dense(width, "tanh", name="hidden")(inputs)
    return with_heads(inputs, x, heads, seed)


def sequence(width, seed, heads=1, mask=False):
    inputs = keras.Input((STEPS, 6))
    x = layers.Masking()(inputs) if mask else inputs
    x = layers.Dense(width, "tanh", name="hidden")(x)
    return with_heads(inputs, x, heads, seed)


def with_heads(inputs, x, heads, seed):
    outputs = [layers.Dense(CLASSES, name=f"head{i}")(x) for i in range(heads)]
    model = keras.Model(inputs, outputs[0] if heads == 1 else outputs)
    return tiny.redrawn(model, seed)


def draw(steps=None, ignored=False, padded=False):
    """Inputs and labels; the first samples are padded, or ignored, the most."""
    rng = np.random.default_rng(5)
    shape = (SAMPLES,) if steps is None else (SAMPLES, steps)
    x = rng.normal(size=(*shape, 6)).astype("float32")
    y = rng.integers(CLASSES, size=shape)
    if ignored:
        y[:3] = -1
    if padded:
        for i in range(SAMPLES):
            x[i, 1 + i % STEPS :] = 0.0
    return x, y


def train(strategy, make, loss, data, weight=None, evaluate=False, **compiled):
    """Logs of two passes over batches of 4, the last one of 3, and the weights."""
    with strategy.scope():
        # A loss of one's own does not tell what the outputs mean.
        model = kf.Distiller(make(5, 1), make(4, 2), activation="softmax")
        model.compile(keras.optimizers.SGD(0.3), loss, **compiled)
    # One replica is what the others are compared with: its steps need no trace.
    model.run_eagerly = strategy.num_replicas_in_sync == 1
    parts = data if weight is None else (*data, weight)
    batches = tf.data.Dataset.from_tensor_slices(parts).batch(4)
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = batches.with_options(options)
    logs = model.fit(batches, epochs=2, shuffle=False, verbose=0).history
    evaluated = model.evaluate(batches, verbose=0, return_dict=True)
    return {**logs, **{f"val_{k}": v for k, v in evaluated.items()}}, model


def assert_same_on(strategy, *args, **options):
    logs, model = train(tf.distribute.get_strategy(), *args, **options)
    shared_logs, shared = train(strategy, *args, **options)
    assert logs.keys() == shared_logs.keys()
    for name in logs:
        np.testing.assert_allclose(shared_logs[name], logs[name], 1e-5, err_msg=name)
    for one, other in zip(model.get_weights(), shared.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


WEIGHT = np.linspace(0.2, 2, SAMPLES).astype("float32")
IGNORING = {
    "samples": (dense, {"ignored": True}, None),
    "weighted samples": (dense, {"ignored": True}, WEIGHT),
    "steps": (sequence, {"steps": STEPS, "ignored": True}, None),
    "steps of a mask": (
        lambda width, seed: sequence(width, seed, mask=True),
        {"steps": STEPS, "ignored": True, "padded": True},
        # Keras takes no weight for each sample beside a mask of steps.
        WEIGHT[:, None],
    ),
}


@pytest.mark.parametrize("case", IGNORING)
def test_an_ignored_class_counts_nowhere(case, two_replicas):
    make, drawn, weight = IGNORING[case]
    loss = crossentropy(ignore_class=-1)
    assert_same_on(two_replicas, make, loss, draw(**drawn), weight)


def test_each_of_several_outputs_counts_its_own_items(two_replicas):
    x, y = draw(STEPS, padded=True)
    ignoring = np.where(np.arange(SAMPLES)[:, None] < 5, -1, y)
    assert_same_on(
        two_replicas,
        lambda width, seed: sequence(width, seed, heads=2, mask=True),
        [crossentropy(), crossentropy(ignore_class=-1)],
        (x, (y, ignoring)),
        loss_weights=[0.5, 2.0],
    )


def root_mean_square(y, y_pred):
    return ops.sqrt(ops.mean(ops.square(ops.one_hot(ops.cast(y, int), 3) - y_pred)))


def balanced(y, y_pred):
    """Crossentropies, each divided by how often its class is in the batch."""
    one_hot = ops.one_hot(ops.cast(y, "int32"), CLASSES)
    frequency = ops.sum(one_hot, axis=0)
    values = keras.losses.categorical_crossentropy(one_hot, y_pred, from_logits=True)
    return values / ops.sum(one_hot * frequency, axis=-1)


class OwnMean(keras.losses.Loss):
    def call(self, y, y_pred):
        return ops.log1p(ops.mean(ops.square(y_pred - y[:, None])))


OF_BATCHES = {
    "a root": lambda: root_mean_square,
    "balanced classes": lambda: balanced,
    "a mean in call": OwnMean,
}


@pytest.mark.parametrize("loss", OF_BATCHES)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_a_loss_of_the_whole_batch_is_given_it(loss, weight, two_replicas):
    data = draw()
    assert_same_on(two_replicas, dense, OF_BATCHES[loss](), data, weight)


def test_dice_is_given_the_whole_batch(two_replicas):
    x, y = draw()
    data = x, np.eye(CLASSES, dtype="float32")[y]
    assert_same_on(two_replicas, dense, keras.losses.Dice(), data)


def test_a_softmax_that_is_gathered_keeps_its_logits(two_replicas):
    """The logarithm of a probability that was rounded to 0 has lost them."""

    def make(width, seed):
        model = dense(width, seed)
        model.get_layer("head0").activation = keras.activations.softmax
        model.get_layer("head0").kernel.assign_add(
            60.0 * np.random.default_rng(seed).normal(size=(width, CLASSES))
        )
        return model

    def loss(y, y_pred):
        values = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        return values / (1 + ops.mean(y))

    assert_same_on(two_replicas, make, loss, draw())


def similarity(one, other):
    """How the samples of a batch resemble each other, as Tung and Mori compare it."""
    one, other = [ops.reshape(t, (-1, t.shape[-1])) for t in (one, other)]
    gap = ops.matmul(one, ops.transpose(one)) - ops.matmul(other, ops.transpose(other))
    return ops.mean(ops.square(gap), axis=-1)


def test_own_soft_and_hint_losses_of_the_whole_batch_are_given_it(two_replicas):
    logs, weights = [], []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = kf.Distiller(
                *(dense(5, 1), dense(4, 2)),
                hints=kf.Hint("hidden", "hidden", loss=similarity),
                soft_loss=lambda teacher, student, _: similarity(teacher, student),
            )
            for regressor in model.regressors:
                tiny.redrawn(regressor, seed=4)
            model.compile(keras.optimizers.SGD(1e-3), crossentropy())
        data = tiny.batches(*draw(), WEIGHT, batch_size=4)
        logs.append(model.fit(data, shuffle=False, verbose=0).history)
        weights.append(model.get_weights())
    for name in logs[0]:
        np.testing.assert_allclose(logs[1][name], logs[0][name], 1e-5, err_msg=name)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


class OwnCall(keras.losses.Loss):
    def __call__(self, y, y_pred, sample_weight=None):
        return ops.mean(ops.square(y_pred - ops.cast(y[:, None], "float32")))


REFUSED = {
    "sum": (
        lambda: crossentropy(reduction="sum"),
        "reduction='sum'.*Leave `reduction`",
    ),
    "call": (OwnCall, "OwnCall defines `__call__`. Rename it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shared_is_refused_before_training(case, two_replicas):
    make, message = REFUSED[case]
    with two_replicas.scope():
        model = kf.Distiller(dense(5, 1), dense(4, 2), activation="softmax")
        model.compile("sgd", make())
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(tiny.batches(*draw(), batch_size=4), shuffle=False, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_an_overridden_compute_loss_adds_to_the_mean(two_replicas):
    class Mine(kf.Distiller):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            own = ops.mean(ops.square(y_pred))
            return own + super().compute_loss(x, y, y_pred, sample_weight, training)

    logs = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = Mine(dense(5, 1), dense(4, 2))
            model.compile("sgd", crossentropy(ignore_class=-1))
        data = tiny.batches(*draw(ignored=True), batch_size=4)
        logs.append(model.fit(data, shuffle=False, verbose=0).history)
    for name in logs[0]:
        np.testing.assert_allclose(logs[1][name], logs[0][name], 1e-5, err_msg=name)


def test_keras_own_losses_are_known_by_their_samples():
    known = [crossentropy(), keras.losses.MeanSquaredError(), keras.losses.CTC()]
    for loss in [*known, kf.SoftTargetCrossentropy()]:
        assert label_loss._is_by_sample(loss), loss
    for loss in [OwnMean(), keras.losses.Tversky(), keras.losses.Circle()]:
        assert not label_loss._is_by_sample(loss), loss
