"""Replicas without samples, in networks whose kernels refuse an empty batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf

# A step of several replicas takes seconds to trace.
pytestmark = pytest.mark.slow

# Of the last batch three of four replicas get nothing.
SAMPLES, BATCH = 9, 8
SIZE = (6, 6, 2)


@pytest.fixture(scope="module")
def four_replicas():
    devices = [f"CPU:{i}" for i in range(4)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def network(width, seed, norm=None, shape=SIZE):
    """Convolutions, a pooling, and a normalization if asked for."""
    inputs = keras.Input(shape)
    options = {"activation": "tanh", "padding": "same", "name": "hidden"}
    x = layers.Conv2D(width, 3, **options)(inputs)
    if norm is not None:
        synchronized = norm == "synchronized"
        x = layers.BatchNormalization(name="norm", synchronized=synchronized)(x)
    x = layers.MaxPooling2D()(x)
    x = layers.DepthwiseConv2D(2, padding="same", depthwise_regularizer="l2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, kernel_regularizer="l2")(x))
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.7, size=weight.shape))
    return model


def draw():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SAMPLES, *SIZE)).astype("float32")
    return x, rng.integers(3, size=SAMPLES), np.linspace(0.5, 2, SAMPLES)


def make(strategy, teacher=network, student=network):
    with strategy.scope():
        model = kf.Distiller(teacher(4, 1), student(3, 2), ("hidden", "hidden"))
        for regressor in model.regressors:
            tiny.redrawn(regressor, seed=4)
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            weighted_metrics=["sparse_categorical_crossentropy"],
        )
    # One replica is what the others are compared with: its steps need no trace.
    model.run_eagerly = strategy.num_replicas_in_sync == 1
    return model


def run(model, data):
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
    return {**history, **model.evaluate(data, verbose=0, return_dict=True)}


def assert_same(strategy, data=None, tolerance=1e-5, **networks):
    data = tiny.batches(*draw(), BATCH) if data is None else data
    models = [make(one, **networks) for one in (tf.distribute.get_strategy(), strategy)]
    logs, shared = [run(model, data) for model in models]
    assert logs.keys() == shared.keys()
    for name in logs:
        np.testing.assert_allclose(shared[name], logs[name], tolerance, err_msg=name)
    for one, other in zip(*[model.get_weights() for model in models], strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)
    return models


def test_convolutions_train_and_evaluate_as_on_one_device(four_replicas):
    assert_same(four_replicas)


def test_predictions_are_those_of_one_device(four_replicas):
    x = draw()[0]
    one, other = make(tf.distribute.get_strategy()), make(four_replicas)
    expected = one.predict(x, verbose=0)
    actual = other.predict(tiny.batches(x, batch_size=BATCH), verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_synchronized_normalization_sees_no_sample_that_stands_in(four_replicas):
    def student(width, seed):
        return network(width, seed, norm="synchronized")

    # The variance is a difference of sums, which costs it digits.
    assert_same(four_replicas, student=student, tolerance=1e-4)


def test_moving_statistics_do_not_see_it_either(four_replicas):
    def student(width, seed):
        return network(width, seed, norm="local")

    model = make(four_replicas, student=student)
    model.optimizer.learning_rate = 0.0
    model.fit(tiny.batches(*draw(), BATCH), shuffle=False, verbose=0)
    hidden = keras.Model(model.student.inputs, model.student.get_layer("hidden").output)
    features = hidden.predict(draw()[0], verbose=0).astype("float64")
    mean = 0.99 * 0.01 * features[:BATCH].mean((0, 1, 2))
    mean += 0.01 * features[BATCH:].mean((0, 1, 2))
    moving_mean = model.student.get_layer("norm").moving_mean.numpy()
    np.testing.assert_allclose(moving_mean, mean, rtol=1e-4)


class Counter(layers.Layer):
    """Counts the samples of a batch, over all replicas."""

    def build(self, shape):
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False, aggregation="sum"
        )

    def call(self, x, training=False):
        if training:
            self.count.assign(keras.ops.cast(keras.ops.shape(x)[0], "float32"))
        return x


def test_a_layer_that_counts_samples_does_not_count_it(four_replicas):
    def student(width, seed):
        inputs = keras.Input(SIZE)
        inner = network(width, seed)
        hidden = keras.Model(inner.inputs, inner.get_layer("hidden").output)
        x = layers.Identity(name="hidden")(hidden(Counter(name="counter")(inputs)))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3)(x))

    model = make(four_replicas, student=student)
    model.fit(tiny.batches(*draw(), BATCH), shuffle=False, verbose=0)
    assert model.student.get_layer("counter").count.numpy() == SAMPLES % BATCH


def test_sizes_unknown_until_a_batch_comes_are_those_of_the_others(four_replicas):
    def unsized(width, seed):
        return network(width, seed, shape=(None, None, 2))

    x, y, weight = draw()
    data = tf.data.Dataset.from_generator(
        lambda: zip(x, y, weight, strict=True),
        output_signature=(
            tf.TensorSpec((None, None, 2)),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.float64),
        ),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    data = data.batch(BATCH).with_options(options)
    data = data.apply(tf.data.experimental.assert_cardinality(2))
    assert_same(four_replicas, data, teacher=unsized, student=unsized)


def test_a_cache_is_read_by_a_replica_without_samples(four_replicas, tmp_path):
    x, y, weight = draw()
    logs = []
    for strategy in (tf.distribute.get_strategy(), four_replicas):
        model = make(strategy)
        data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(BATCH)
        cached = kf.cache_teacher(model, data, tmp_path / "cache", verbose=0)
        logs.append(run(model, cached))
    for name in logs[0]:
        np.testing.assert_allclose(logs[1][name], logs[0][name], 1e-5, err_msg=name)


def test_plain_keras_still_ends_on_an_empty_replica(four_replicas):
    """Once it does not, `replicas.run_on_samples` may go."""
    with four_replicas.scope():
        model = network(3, 2)
        model.compile("sgd", "mse")
    x, _, _ = draw()
    data = tiny.batches(x, np.zeros((SAMPLES, 3), "float32"), batch_size=BATCH)
    with pytest.raises(tf.errors.InvalidArgumentError, match="depth"):
        model.fit(data, shuffle=False, verbose=0)
