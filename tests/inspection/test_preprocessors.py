"""A preprocessor that a network applies outside of its graph is not bypassed."""

import keras
import numpy as np
import pytest

import keras_fitnets as kf

SHAPE = (4,)


class Scaler(keras.layers.Layer):
    def call(self, x):
        return x / 255


class Task(keras.Model):
    """As a task of KerasHub: its preprocessor is for `fit` and `predict` alone."""

    def __init__(self, width, preprocessor=None):
        inputs = keras.Input(SHAPE)
        hidden = keras.layers.Dense(width, name="hidden")(inputs)
        super().__init__(inputs, keras.layers.Dense(3)(hidden))
        self.preprocessor = preprocessor

    def preprocess_samples(self, x, y=None, sample_weight=None):
        x = x if self.preprocessor is None else self.preprocessor(x)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


class Plain(Task):
    """One that shows in no other way than by the attribute."""

    preprocess_samples = property()


class Within(keras.Model):
    """A network that runs its preprocessor itself."""

    def __init__(self):
        super().__init__()
        self.preprocessor, self.out = Scaler(), keras.layers.Dense(3)
        self(np.zeros((1, *SHAPE)))

    def call(self, x):
        return self.out(self.preprocessor(x))


def graph_with_preprocessor():
    inputs, layer = keras.Input(SHAPE), Scaler()
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    model.preprocessor = layer
    return model


@pytest.mark.parametrize("kind", [Task, Plain])
def test_a_bypassed_preprocessor_is_an_error(kind, tmp_path):
    x = np.ones((8, *SHAPE), "float32")
    with_one, without = kind(4, Scaler()), kind(3)
    for call in (
        lambda: kf.Distiller(with_one, without),
        lambda: kf.Distiller([without, with_one], kind(2)),
        lambda: kf.Distiller(without, with_one),
        lambda: kf.report.compare({"a": with_one}, x, repeats=0, verbose=0),
        lambda: kf.export.export_student(with_one, tmp_path / "a.tflite", data=x),
    ):
        with pytest.raises(ValueError, match=r"a preprocessor, a Scaler.*= None"):
            call()


def test_networks_go_on_without_their_preprocessor():
    x, y = np.ones((8, *SHAPE), "float32"), np.zeros(8)
    teacher, student = Task(4, Scaler()), Task(3, Scaler())
    teacher.preprocessor = student.preprocessor = None
    model = kf.Distiller(teacher, student, ("hidden", "hidden"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(x, y, verbose=0)
    kf.report.compare({"student": model}, x, repeats=0, verbose=0)


@pytest.mark.parametrize("make", [Within, graph_with_preprocessor])
def test_a_preprocessor_that_the_network_runs_itself_is_none_of_ours(make):
    x = np.ones((8, *SHAPE), "float32")
    model = kf.Distiller(make(), make(), activation="softmax", from_logits=True)
    model.compile("sgd", run_eagerly=True)
    model.fit(x, verbose=0)
