"""A student that is built on the teacher's own layers never changes the teacher."""

import keras
import numpy as np
import pytest
import tiny
from keras import layers

import keras_fitnets as kf

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = np.arange(12) % 3


@pytest.fixture(autouse=True)
def _eager(eager):
    """Steps run eagerly but for those of tests that are about the trace."""


def block(width=5, name="block"):
    """Dense, BatchNormalization and Dropout, in a network of their own."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, "relu", name="lower"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, name="drop"),
        ],
        name=name,
    )


def on_top(trunk, name, nested=True):
    """A network on the layers of a trunk, "upper" and "out" behind it."""
    inputs = keras.Input((6,))
    x = inputs
    for layer in [trunk] if nested else trunk.layers:
        x = layer(x)
    x = layers.Dense(5, "tanh", name="upper")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name=name)


def pair(trainable, nested=(True, True)):
    """A teacher and a student on one trunk."""
    trunk = block()
    # Statistics that are not those of the batches.
    trunk(X + 1, training=True)
    trunk.trainable = trainable
    teacher = on_top(trunk, "teacher", nested[0])
    return teacher, on_top(trunk, "student", nested[1])


def distiller(teacher, student, stage="joint", **options):
    hints = None if stage == "kd" else ("upper", "upper")
    made = kf.Distiller(teacher, student, hints, stage=stage, **options)
    made.compile(keras.optimizers.SGD(0.5), SPARSE)
    return made


def bits(network):
    return [weight.numpy().tobytes() for weight in network.weights]


@pytest.mark.parametrize(
    "nested", [(True, True), (False, False), (True, False), (False, True)]
)
def test_shared_and_trainable_is_an_error(nested):
    with pytest.raises(ValueError, match="clone_model.*layer.trainable = False") as got:
        distiller(*pair(True, nested))
    assert "['lower', 'norm'] are the teacher's own" in str(got.value)
    assert "'student' would train the teacher" in str(got.value)


@pytest.mark.graph
@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
@pytest.mark.parametrize("nested", [(True, True), (True, False)])
def test_shared_and_frozen_leaves_the_teacher_every_bit(stage, nested):
    teacher, student = pair(False, nested)
    before, head = bits(teacher), bits(student.get_layer("upper"))
    model = distiller(teacher, student, stage)
    flags = [layer.trainable for layer in teacher.layers]
    model.fit(X, Y, epochs=2, batch_size=4, verbose=0)
    assert bits(teacher) == before
    assert [layer.trainable for layer in teacher.layers] == flags
    assert bits(student.get_layer("upper")) != head


def test_a_shared_dropout_draws_other_masks_in_each_step():
    teacher, student = pair(False)
    model = distiller(teacher, student, "kd")
    seed = student.get_layer("block").get_layer("drop").seed_generator.state
    before = seed.numpy().copy()
    model.fit(X, Y, verbose=0)
    assert np.any(seed.numpy() != before)


def test_layers_without_weights_may_be_shared():
    activation, dropout = layers.ReLU(), layers.Dropout(0.5)

    def network(name):
        inputs = keras.Input((6,))
        x = dropout(activation(layers.Dense(5, name="upper")(inputs)))
        return keras.Model(inputs, layers.Dense(3)(x), name=name)

    distiller(network("teacher"), network("student")).fit(X, Y, verbose=0)


def test_statistics_without_weights_to_train_are_seen():
    norm = layers.BatchNormalization(center=False, scale=False, name="norm")

    def network(name):
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.Dense(3, name="out")(norm(inputs)), name=name)

    teacher, student = network("teacher"), network("student")
    with pytest.raises(ValueError, match=r"Layers \['norm'\] are the teacher's own"):
        distiller(teacher, student, "kd")
    norm.trainable = False
    before = bits(teacher)
    distiller(teacher, student, "kd").fit(X, Y, verbose=0)
    assert bits(teacher) == before


def test_a_normalisation_of_the_inputs_may_be_shared():
    scale = layers.Normalization(mean=1.0, variance=2.0)
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(X)

    def network(name):
        inputs = keras.Input((6,))
        x = layers.Dense(5, name="upper")(adapted(scale(inputs)))
        return keras.Model(inputs, layers.Dense(3)(x), name=name)

    teacher, student = network("teacher"), network("student")
    before = bits(adapted)
    distiller(teacher, student).fit(X, Y, verbose=0)
    assert bits(adapted) == before


@pytest.mark.parametrize("graph", [True, False])
def test_what_a_frozen_layer_assigns_all_the_same_is_put_back(graph, request):
    """Spectral normalisation divides its kernel in each training pass."""
    inner = layers.Dense(5, name="inner")
    shared = layers.SpectralNormalization(inner, name="spectral")

    def network(name):
        inputs = keras.Input((6,))
        x = layers.Dense(5, "tanh", name="upper")(shared(inputs))
        return keras.Model(inputs, layers.Dense(3)(x), name=name)

    teacher, student = network("teacher"), network("student")
    shared.trainable = False
    before = bits(teacher)
    student(X, training=True)
    assert bits(teacher) != before
    before = bits(teacher)
    model = distiller(teacher, student)
    model.run_eagerly = not graph
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    assert bits(teacher) == before


def test_variables_may_be_shared_without_layers():
    teacher = on_top(block(), "teacher")

    class Tied(layers.Layer):
        """A layer of the student whose kernel is the teacher's."""

        def build(self, shape):
            self.kernel = teacher.get_layer("upper").kernel

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    inputs = keras.Input((6,))
    hidden = Tied(name="tied")(layers.Dense(5)(inputs))
    student = keras.Model(inputs, layers.Dense(3)(hidden), name="student")
    with pytest.raises(ValueError, match=r"Layers \['tied'\] are the teacher's own"):
        distiller(teacher, student, "kd")
    teacher.get_layer("upper").trainable = False
    before = bits(teacher)
    distiller(teacher, student, "kd").fit(X, Y, verbose=0)
    assert bits(teacher) == before


def test_each_network_of_an_ensemble_is_looked_at():
    teacher, student = pair(True)
    other = on_top(block(name="other"), "other teacher")
    with pytest.raises(ValueError, match="'lower', 'norm'"):
        distiller([other, teacher], student)


def test_a_regressor_may_not_train_the_teacher():
    teacher = on_top(block(), "teacher")
    student = on_top(block(name="b"), "student")
    hint = kf.Hint("upper", "upper", regressor=teacher.get_layer("upper"))
    with pytest.raises(ValueError, match=r"Layers \['upper'\] are the teacher's own"):
        kf.Distiller(teacher, student, hint)


@pytest.mark.parametrize("step", ["fit", "train_on_batch"])
def test_a_layer_that_is_unfrozen_later_is_seen_before_it_is_trained(step):
    teacher, student = pair(False)
    model = distiller(teacher, student, "kd")
    student.get_layer("block").trainable = True
    before = bits(teacher)
    with pytest.raises(ValueError, match="'lower', 'norm'"):
        if step == "fit":
            model.fit(X, Y, verbose=0)
        else:
            model.train_on_batch(X, Y)
    assert bits(teacher) == before


@pytest.mark.slow
def test_on_several_replicas_the_teacher_keeps_every_bit():
    with tiny.two_replicas().scope():
        teacher, student = pair(False)
        model = distiller(teacher, student)
    before = bits(teacher)
    model.run_eagerly = False
    model.fit(tiny.batches(X, Y, batch_size=5), epochs=2, shuffle=False, verbose=0)
    assert bits(teacher) == before


def test_a_saved_distiller_with_shared_layers_is_loaded(tmp_path):
    teacher, student = pair(False)
    model = distiller(teacher, student)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.student(X), student(X))
    np.testing.assert_array_equal(loaded.teacher.models[0](X), teacher(X))
