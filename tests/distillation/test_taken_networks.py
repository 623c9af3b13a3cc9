"""Networks that Keras takes are taken: fixed batches, optional inputs, quantization."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf

pytestmark = [
    pytest.mark.usefixtures("eager"),
    # What Keras says of each layer without a kernel when it quantizes a network.
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]

SIZE = 4


def fixed(width, size=SIZE, batch_bound=False):
    inputs = keras.Input((6,), batch_size=size)
    x = layers.Dense(width, "tanh", name="hidden")(inputs)
    if batch_bound:
        # Takes batches of this size alone, as a stateful recurrent layer does.
        x = keras.ops.reshape(keras.ops.reshape(x, (size * width,)), (size, width))
    return tiny.redrawn(keras.Model(inputs, layers.Dense(3, name="out")(x)))


def labels(samples):
    return np.arange(samples) % 3


def make(teacher, student, **options):
    model = kf.Distiller(teacher, student, ("hidden", "hidden"), **options)
    model.compile("sgd", networks.LABEL_LOSS, metrics=["accuracy"])
    return model


# Inputs of a fixed batch size


@pytest.mark.parametrize("samples", [20, 18], ids=["whole batches", "and a rest"])
def test_a_fixed_batch_size_gives_what_an_open_one_does(samples):
    x, logs = tiny.data(samples=samples)[0], []
    for size in (SIZE, None):
        keras.utils.set_random_seed(0)
        model = make(fixed(8, size), fixed(4, size))
        options = {"batch_size": SIZE, "verbose": 0, "shuffle": False}
        history = model.fit(x, labels(samples), **options).history
        logs.append(history)
        assert len(model.predict(x, SIZE, verbose=0)) == samples
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], 1e-6)


def test_networks_bound_to_their_batch_go_through_everything(tmp_path):
    x, y = tiny.data(samples=20)[0], labels(20)
    model = make(fixed(8, batch_bound=True), fixed(4, batch_bound=True))
    kf.fit_stagewise(
        *(model, x, y, 1, 1),
        batch_size=SIZE,
        validation_data=(x[:8], y[:8]),
        validation_batch_size=SIZE,
        callbacks=[kf.StudentMonitor(x)],
        verbose=0,
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(SIZE, drop_remainder=True)
    cached = kf.cache_teacher(model, data, tmp_path / "cache", verbose=0)
    model.fit(cached, shuffle=False, verbose=0)
    model.save(tmp_path / "fixed.keras")
    loaded = keras.saving.load_model(tmp_path / "fixed.keras")
    expected = model.predict(x, batch_size=SIZE, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, batch_size=SIZE, verbose=0), expected)


def test_one_network_may_have_a_fixed_batch_size():
    x = tiny.data()[0]
    model = make(fixed(8), fixed(4, None))
    assert np.isfinite(tiny.fit(model, x, labels(len(x)), batch_size=SIZE)["loss"])


def test_two_fixed_batch_sizes_are_told():
    with pytest.raises(ValueError, match=r"same size.*8.*Leave out `batch_size`"):
        make(fixed(8, 8), fixed(4, 4))


# Optional inputs


def optional(width):
    x = keras.Input((6,), name="x")
    more = keras.Input((6,), name="more", optional=True)
    both = OptionalSum()([x, more])
    hidden = layers.Dense(width, "tanh", name="hidden")(both)
    return tiny.redrawn(keras.Model({"x": x, "more": more}, layers.Dense(3)(hidden)))


class OptionalSum(layers.Layer):
    def call(self, inputs):
        x, more = inputs
        return x if more is None else x + more

    def compute_output_shape(self, shapes):
        return shapes[0]


@pytest.mark.parametrize("more", [None, 1.0], ids=["missing", "given"])
def test_an_optional_input_may_be_missing(more):
    x = tiny.data()[0]
    inputs = {"x": x, "more": None if more is None else np.full_like(x, more)}
    model = make(optional(8), optional(4))
    seen = tiny.data()[0] + (more or 0.0)
    # `fit` of older versions of Keras takes no None among its arrays.
    assert np.isfinite(model.train_on_batch(inputs, labels(len(x)))).all()
    hidden = model.student.get_layer("hidden")
    expected = np.tanh(seen @ hidden.kernel.numpy() + hidden.bias.numpy())
    out = model.student.layers[-1]
    expected = expected @ out.kernel.numpy() + out.bias.numpy()
    np.testing.assert_allclose(model.predict_on_batch(inputs), expected, atol=1e-5)


# Quantized networks


def quantized(mode, seed=2):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "tanh", name="hidden"),
            layers.Dense(3, name="out"),
        ]
    )
    tiny.redrawn(model, seed).quantize(mode)
    return model


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
def test_low_rank_weights_of_a_quantized_student_are_trained(mode, stage):
    student = quantized(mode)
    student.get_layer("hidden").enable_lora(2)
    model = make(tiny.network(hidden=5, seed=1), student, stage=stage)
    assert model.regressors[0].dtype_policy.quantization_mode is None
    before = {v.path: v.numpy() for v in student.variables}
    x = tiny.data()[0]
    assert np.isfinite(
        model.fit(x, labels(len(x)), epochs=2, verbose=0).history["loss"]
    ).all()
    after = {v.path: v.numpy() for v in student.variables}
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert any("lora_kernel_b" in path for path in changed)
    kernel = student.get_layer("hidden").variables[0]
    frozen = [p for p in changed if p.endswith(("/kernel", "kernel_scale"))]
    assert not frozen, kernel


@pytest.mark.graph
@pytest.mark.slow
def test_a_float8_student_is_trained():
    """In a trace: Keras alone fails on it eagerly."""
    model = make(tiny.network(hidden=5, seed=1), quantized("float8"))
    x = tiny.data()[0]
    assert np.isfinite(
        model.fit(x, labels(len(x)), epochs=2, verbose=0).history["loss"]
    ).all()


def test_a_quantized_teacher_teaches():
    model = make(quantized("int8"), tiny.network(hidden=4, seed=2))
    x = tiny.data()[0]
    assert np.isfinite(model.fit(x, labels(len(x)), verbose=0).history["loss"]).all()


# Sparse and ragged inputs


def test_sparse_inputs_are_taken_as_by_keras():
    def sparse(width):
        inputs = keras.Input((6,), sparse=True)
        x = layers.Dense(width, "tanh", name="hidden")(inputs)
        return tiny.redrawn(keras.Model(inputs, layers.Dense(3)(x)))

    x = tiny.data()[0]
    model = make(sparse(8), sparse(4))
    data = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(x), labels(len(x))))
    assert np.isfinite(
        model.fit(data.batch(SIZE), shuffle=False, verbose=0).history["loss"]
    ).all()


def test_ragged_inputs_are_refused():
    model = make(fixed(8, None), fixed(4, None))
    with pytest.raises((TypeError, ValueError), match="[Rr]agged"):
        model.fit(tf.ragged.constant([[1.0, 2.0], [3.0]]), np.arange(2), verbose=0)
