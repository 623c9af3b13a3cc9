"""What a step must do on every backend, where one of them makes it easy to be wrong.

These tests run on the backend that is set; `make test-jax` sets JAX.
"""

import keras
import numpy as np
import pytest
import reference
import scenarios
import tiny

import keras_fitnets as kf

X, Y = scenarios.data()
X = X.astype("float32")


def made(**options):
    return scenarios.distil(kf, scenarios.network, **options)


def fit(distiller, *callbacks, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return distiller.fit(X, Y, callbacks=list(callbacks), **options).history


def test_a_teacher_that_changes_between_calls_is_seen():
    """A program of JAX keeps what it was not given, as a constant, for good."""
    distiller = made(stage="kd")
    first = tiny.evaluate(distiller, X, Y)["kd_loss"]
    fit(distiller)
    scenarios.fill(distiller.teacher.models[0], 7)
    logits = [
        reference.f64(one(X, training=False))
        for one in (distiller.teacher.models[0], distiller.student)
    ]
    expected = reference.soft_target_crossentropy(*logits, 3.0).mean()
    found = tiny.evaluate(distiller, X, Y)["kd_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found - first) > 0.001


@pytest.mark.parametrize("name", ["lambda_", "temperature", "hint_weight"])
def test_a_number_that_is_assigned_within_an_epoch_holds_from_the_next_step(name):
    """On JAX Keras keeps the state apart from the variables until an epoch ends."""

    class Assign(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                setattr(self.model, name, 0.5)
            assert getattr(self.model, name) == 0.5

    changed, one_by_one = made(), made()
    fit(changed, Assign())
    for half in (slice(8), slice(8, 16)):
        one_by_one.train_on_batch(X[half], Y[half])
        setattr(one_by_one, name, 0.5)
    for found, expected in zip(
        changed.get_weights(), one_by_one.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("when", ["train_step", "test_step"])
def test_an_error_in_a_step_loses_no_weights(when, monkeypatch):
    """On JAX Keras takes the values out of the variables before the first step."""
    distiller = made()
    fit(distiller)
    networks = [distiller, *distiller.teacher.models]
    before = [[w.copy() for w in network.get_weights()] for network in networks]

    def fail(*args):
        raise RuntimeError("in the step")

    monkeypatch.setattr(distiller, when, fail)
    distiller.compile("sgd", scenarios.sparse())
    with pytest.raises(RuntimeError, match="in the step"):
        fit(distiller) if when == "train_step" else tiny.evaluate(distiller, X, Y)
    after = [network.get_weights() for network in networks]
    for one, other in zip(before, after, strict=True):
        for old, new in zip(one, other, strict=True):
            np.testing.assert_array_equal(new, old)


def test_a_stage_leaves_what_it_does_not_reach_to_itself():
    """Gradients of zero in place of none would decay and move these weights."""
    distiller = scenarios.distil(
        *(kf, scenarios.subclassed, ("high", "low")),
        optimizer=scenarios.adamw,
        stage="hint",
        teacher=scenarios.network(8, 1),
        from_logits=True,
    )
    student = distiller.student
    before = {v.path: v.numpy().copy() for v in student.variables}
    fit(distiller, epochs=3)
    changed = {
        v.path.split("/")[-2]
        for v in student.variables
        if np.any(v.numpy() != before[v.path])
    }
    assert changed == {"low"}


@pytest.mark.parametrize("end", ["softmax", "layer", "sigmoid"])
def test_the_logits_behind_confident_probabilities_are_exact(end):
    """A probability that was rounded to 0 or 1 has lost them."""
    layers = keras.layers
    activation = None if end == "layer" else end

    def network(scale, seed):
        inputs = keras.Input((6,))
        outputs = layers.Dense(3, activation, name="out")(inputs)
        if end == "layer":
            outputs = layers.Softmax()(outputs)
        made = scenarios.fill(keras.Model(inputs, outputs), seed)
        made.set_weights([scale * w for w in made.get_weights()])
        return made

    teacher, student = network(1.0, 1), network(200.0, 2)
    distiller = kf.Distiller(teacher, student, stage="kd")
    distiller.compile("sgd")
    logits = []
    for one in (teacher, student):
        kernel, bias = (w.astype("float64") for w in one.get_weights())
        logits.append(X @ kernel + bias)
    kind = "sigmoid" if end == "sigmoid" else "softmax"
    expected = reference.soft_target_crossentropy(*logits, 3.0, kind).mean()
    found = tiny.evaluate(distiller, X)["kd_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # The layers are left as they were.
    assert keras.saving.serialize_keras_object(student)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kf.report.compare({"student": scenarios.network(4, 1)}),
        lambda: kf.report.multiplications(scenarios.network(4, 1)),
        lambda: kf.export.export_student(scenarios.network(4, 1), "student.tflite"),
        lambda: kf.strategy("auto"),
    ],
)
def test_what_needs_tensorflow_says_so_and_how_to_go_on(call):
    with pytest.raises(ValueError, match="needs the backend TensorFlow.*\\. .*keras"):
        call()
