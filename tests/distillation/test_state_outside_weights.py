"""Vocabularies and other state that no weight holds: saved, loaded, and told apart."""

import importlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fitnets as kf
from keras_fitnets.distillation.fingerprint import fingerprint

WORDS = tf.constant([["a"], ["b"], ["c b"], ["unknown"]])
NUMBERS = tf.constant([[3], [5], [7], [11]], tf.int64)

pytestmark = pytest.mark.usefixtures("eager")


@keras.saving.register_keras_serializable("state_outside_weights")
class Table(keras.layers.Layer):
    """Multiplies by a number that lives in a variable of its own saving."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = np.float32(factor)

    def call(self, x):
        return x * self.factor

    def save_own_variables(self, store):
        store["factor"] = self.factor

    def load_own_variables(self, store):
        self.factor = np.asarray(store["factor"])

    def get_config(self):
        return keras.layers.Layer.get_config(self)


@keras.saving.register_keras_serializable("state_outside_weights")
class Asset(Table):
    """The same, in a file."""

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass

    def save_assets(self, dir_path):
        with open(f"{dir_path}/factor.txt", "w") as file:
            file.write(str(self.factor))

    def load_assets(self, dir_path):
        with open(f"{dir_path}/factor.txt") as file:
            self.factor = np.float32(file.read())


@keras.saving.register_keras_serializable("state_outside_weights")
class Built(Table):
    """The same, in what `build` is given."""

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass

    def get_build_config(self):
        return {**super().get_build_config(), "factor": float(self.factor)}

    def build_from_config(self, config):
        self.factor = np.float32(config["factor"])
        super().build_from_config(config)


def adapted(layer, values):
    layer.adapt(values)
    return layer


def words(first="a"):
    return np.array([first, first, "b", "c"])


LAYERS = {
    "strings": (
        "string",
        lambda i: adapted(keras.layers.StringLookup(), words("az"[i])),
    ),
    "integers": (
        "int64",
        lambda i: adapted(keras.layers.IntegerLookup(), np.array([3, 3, 5 + i])),
    ),
    "text": (
        "string",
        lambda i: adapted(
            keras.layers.TextVectorization(output_sequence_length=2), words("az"[i])
        ),
    ),
    "tf-idf": (
        "string",
        lambda i: adapted(
            keras.layers.TextVectorization(output_mode="tf_idf", max_tokens=5),
            words("ab"[i]),
        ),
    ),
    "hashing": ("string", lambda i: keras.layers.Hashing(5, salt=1 + i)),
    "bins": (
        "float32",
        lambda i: adapted(
            keras.layers.Discretization(num_bins=3), np.arange(9.0) * (1 + i)
        ),
    ),
    "normalisation": (
        "float32",
        lambda i: adapted(keras.layers.Normalization(), np.arange(9.0)[:, None] + i),
    ),
    "own variables": ("float32", lambda i: Table(2.0 + i)),
    "own assets": ("float32", lambda i: Asset(2.0 + i)),
    "own build": ("float32", lambda i: Built(2.0 + i)),
}


def network(kind, width, variant=0):
    """A network of the same weights each time, behind the layer."""
    dtype, make = LAYERS[kind]
    inputs = keras.Input((1,), dtype=dtype)
    x = make(variant)(inputs)
    if kind in ("strings", "integers", "text", "hashing", "bins"):
        x = keras.layers.Flatten()(keras.layers.Embedding(8, width)(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    rng = np.random.default_rng(width)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return model


def inputs_of(kind):
    values = {"string": WORDS, "int64": NUMBERS}
    return values.get(LAYERS[kind][0], tf.constant([[0.5], [2.0], [4.0], [7.0]]))


def can_keras_load(network, path):
    """Whether Keras reads what it wrote: 3.11 does not, of the mode "tf_idf"."""
    network.save(path)
    try:
        keras.saving.load_model(path)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", LAYERS)
def test_the_teacher_of_a_loaded_distiller_answers_as_before(kind, tmp_path):
    model = kf.Distiller([network(kind, 6), network(kind, 5)], network(kind, 3))
    model.compile("adam")
    x = inputs_of(kind)
    model.fit(x, verbose=0)
    before = model.evaluate(x, verbose=0, return_dict=True)
    model.save(tmp_path / "whole.keras")
    if not can_keras_load(model.student, tmp_path / "student.keras"):
        with pytest.raises(ValueError, match="could not be loaded"):
            keras.saving.load_model(tmp_path / "whole.keras")
        return
    loaded = keras.saving.load_model(tmp_path / "whole.keras")
    pairs = zip(model.teacher.models, loaded.teacher.models, strict=True)
    for one, other in [*pairs, (model.student, loaded.student)]:
        np.testing.assert_array_equal(one(x), other(x))
    assert loaded.evaluate(x, verbose=0, return_dict=True) == before
    assert loaded.teacher.fingerprint() == model.teacher.fingerprint()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_fingerprint_sees_the_state(kind):
    first, second = network(kind, 4), network(kind, 4, 1)
    assert fingerprint(first) == fingerprint(network(kind, 4))
    assert fingerprint(first) != fingerprint(second)
    x = inputs_of(kind)
    assert not np.array_equal(first(x), second(x))


def test_fingerprints_of_networks_without_such_state_stay(monkeypatch):
    """Caches of earlier versions, which did not look at it, are still read."""
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Normalization(mean=0.5, variance=2.0)(inputs)
    x = keras.layers.Conv2D(3, 3)(x)
    x = keras.layers.BatchNormalization()(x)
    dense = keras.layers.Dense(2)
    images = keras.Model(inputs, dense(keras.layers.Flatten()(x)))
    words = keras.layers.StringLookup(vocabulary=["a", "b"])
    inputs = keras.Input((1,), dtype="string")
    text = keras.Model(inputs, keras.layers.Embedding(3, 2)(words(inputs)))
    found = [fingerprint(images), fingerprint(text)]
    dense.enable_lora(1)
    found.append(fingerprint(images))
    module = importlib.import_module("keras_fitnets.distillation.fingerprint")
    monkeypatch.setattr(module, "_iterate_other_state", lambda *_: [])
    assert [fingerprint(text), fingerprint(images)] == found[1:]
    assert fingerprint(images) != found[0]


def test_files_of_earlier_versions_are_loaded(tmp_path, monkeypatch):
    """They hold the weights of the teacher in place of its whole state."""

    def save_weights(self, dir_path):
        for i, member in enumerate(self.teacher.models):
            member.save_weights(f"{dir_path}/teacher_{i}.weights.h5")

    model = kf.Distiller(network("own variables", 6), network("own variables", 3))
    with monkeypatch.context() as patch:
        patch.setattr(kf.Distiller, "save_assets", save_weights)
        model.save(tmp_path / "old.keras")
    names = zipfile.ZipFile(tmp_path / "old.keras").namelist()
    assert any(name.endswith("teacher_0.weights.h5") for name in names)
    loaded = keras.saving.load_model(tmp_path / "old.keras")
    x = inputs_of("own variables")
    np.testing.assert_array_equal(
        model.teacher.models[0](x), loaded.teacher.models[0](x)
    )


def test_a_damaged_state_of_the_teacher_is_an_error(tmp_path, monkeypatch):
    model = kf.Distiller(network("strings", 6), network("strings", 3))
    with monkeypatch.context() as patch:
        patch.setattr(kf.Distiller, "save_assets", lambda self, dir_path: None)
        model.save(tmp_path / "without.keras")
    with pytest.raises(Exception, match=r"teacher_0|could not be loaded"):
        keras.saving.load_model(tmp_path / "without.keras")


def test_a_copy_in_float32_keeps_the_vocabulary(tmp_path):
    """Half precision is exported as a copy in float32, of all that the layers hold."""
    lookup = adapted(keras.layers.StringLookup(), words())
    inputs = keras.Input((1,), dtype="string")
    x = keras.layers.Embedding(5, 4, dtype="mixed_float16")(lookup(inputs))
    student = keras.Model(
        inputs, keras.layers.Dense(3, dtype="mixed_float16")(keras.layers.Flatten()(x))
    )
    exported = kf.export.export_student(
        student, tmp_path / "student", data=words()[:, None], tolerance=1e-2
    )
    assert exported.agreement == 1.0
