"""Networks that `reference.hidden_and_logits` computes too, and one step of them."""

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf

SHAPES = {"dense": (6,), "conv": (5, 5, 2)}
LABEL_LOSSES = {
    "softmax": keras.losses.CategoricalCrossentropy,
    "sigmoid": keras.losses.BinaryCrossentropy,
}
FROM_LOGITS = keras.losses.CategoricalCrossentropy(from_logits=True)
CLASSES = 3
SAMPLES = 8


def network(
    kind="dense",
    hidden=5,
    kernel=2,
    activation="tanh",
    end=None,
    seed=0,
    classes=CLASSES,
    **options,
):
    """Layers "hidden" and "out"; `options` are those of the hidden layer."""
    inputs = keras.Input(SHAPES[kind])
    options |= {"activation": activation, "name": "hidden"}
    if kind == "dense":
        pooled = keras.layers.Dense(hidden, **options)(inputs)
    else:
        features = keras.layers.Conv2D(hidden, kernel, **options)(inputs)
        pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(
        inputs, keras.layers.Dense(classes, activation=end, name="out")(pooled)
    )
    return redrawn(model, seed)


def redrawn(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights(
        [rng.normal(scale=0.7, size=weight.shape) for weight in model.get_weights()]
    )
    return model


def make_distiller(
    teacher=None,
    student=None,
    optimizer="sgd",
    label_loss=FROM_LOGITS,
    compile_options=None,
    regressor_seed=None,
    **options,
):
    """A compiled Distiller, of two networks of this module unless others are given.

    With a `regressor_seed` the regressors start at weights of that seed, as networks
    do. `options` are those of the Distiller.
    """
    options = {"hints": ("hidden", "hidden"), **options}
    made = kf.Distiller(
        network(hidden=6, seed=1) if teacher is None else teacher,
        network(hidden=4, seed=2) if student is None else student,
        **options,
    )
    if regressor_seed is not None:
        for regressor in made.regressors:
            redrawn(regressor, regressor_seed)
    made.compile(optimizer, label_loss, **compile_options or {})
    return made


def data(kind="dense", activation="softmax", samples=SAMPLES, classes=CLASSES):
    rng = np.random.default_rng(99)
    x = rng.normal(size=(samples, *SHAPES[kind])).astype("float32")
    if activation == "softmax":
        return x, np.eye(classes, dtype="float32")[rng.integers(classes, size=samples)]
    return x, rng.integers(2, size=(samples, classes)).astype("float32")


def weights(distiller):
    return [
        w
        for layer in (distiller.student, *distiller.regressors)
        for w in layer.get_weights()
    ]


def set_weights(distiller, values):
    values = list(values)
    for layer in (distiller.student, *distiller.regressors):
        layer.set_weights([values.pop(0) for _ in layer.weights])


def batches(x, y=None, sample_weight=None, batch_size=None):
    """A dataset that tf.data does not tune: in TensorFlow 2.21 an iterator that lived
    for a few elements may wait long for the thread that does, on several replicas
    more often than not."""
    parts = tuple(part for part in (x, y, sample_weight) if part is not None)
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(batch_size or len(x))
    options = tf.data.Options()
    options.autotune.enabled = False
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.with_options(options)


def two_replicas():
    """A strategy without collectives, which another in one process would take."""
    one_device = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], one_device)


def given(model, x, y, options):
    """The data and the other options of `fit` or `evaluate`."""
    options = {"batch_size": len(x), "verbose": 0, **options}
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return {"x": x, "y": y, **options}
    weight, size = options.pop("sample_weight", None), options.pop("batch_size")
    return {"x": batches(x, y, weight, size), **options}


def evaluate(model, x, y=None, **options):
    return model.evaluate(**given(model, x, y, options), return_dict=True)


def fit(model, x, y=None, **options):
    """One step on all samples unless told otherwise; the history of each log."""
    return model.fit(**given(model, x, y, {"shuffle": False, **options})).history


def gradients(distiller, x, y=None, **options):
    """Of one step of SGD with a learning rate of 1."""
    before = weights(distiller)
    fit(distiller, x, y, **options)
    return [old - new for old, new in zip(before, weights(distiller), strict=True)]


def assert_close(actual, expected, tolerance=1e-5):
    """Within `tolerance` of the largest value expected; what should be zero is zero."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.max(np.abs(expected))
    )


def assert_step(distiller, start, gradients, tolerance=1e-5):
    """That SGD with a learning rate of 1 stepped once, where there are gradients."""
    scale = max(np.max(np.abs(gradient)) for gradient in gradients)
    for old, new, gradient in zip(start, weights(distiller), gradients, strict=True):
        margin = tolerance * scale if np.any(gradient) else 0.0
        np.testing.assert_allclose(old - new, gradient, rtol=0, atol=margin)


def assert_logs(actual, expected, tolerance=1e-5):
    assert set(expected) <= set(actual), (expected, actual)
    np.testing.assert_allclose(
        [actual[name] for name in expected],
        list(expected.values()),
        rtol=tolerance,
        err_msg=str(list(expected)),
    )
