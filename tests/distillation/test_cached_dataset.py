"""Batches out of a table, and the plain datasets that are derived from them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_fitnets as kf
from keras_fitnets.distillation.cached_dataset import CachedDataset

EXAMPLES = 10
VIEWS = 2
KEYS = [("net", "output 0"), ("net", "hint a")]
X, Y = np.arange(20.0).reshape(20, 1), np.arange(20)


class Arrays:
    """A table in memory: of each example two views."""

    def __init__(self):
        mask = np.arange(20) % 3 == 0
        self.arrays = {"inputs 0": X, "labels 0": Y, "net output 0": X + 100}
        self.arrays |= {"net hint a": X + 200, "net mask a": mask}
        self.columns = {
            name: tf.TensorSpec(array.shape[1:], array.dtype)
            for name, array in self.arrays.items()
        }
        self.num_rows = EXAMPLES * VIEWS
        self.read = set()

    def read_rows(self, column, rows):
        self.read.add(column)
        return self.arrays[column][rows]

    def fingerprint(self):
        return "arrays"


def make(table=None, views=VIEWS, shuffle=False, seed=0, batch_size=4):
    table = table or Arrays()
    return CachedDataset(
        table,
        lambda columns: (columns["inputs 0"], columns["labels 0"], None),
        ["inputs 0", "labels 0"],
        KEYS,
        views,
        shuffle,
        seed,
        batch_size,
    )


def labels(dataset):
    return [int(one) for *_, y in dataset for one in y]


FIRST, SECOND = [*range(10)], [*range(10, 20)]


def test_a_pass_shows_a_view_in_batches():
    dataset = make()
    assert labels(dataset) == FIRST and labels(dataset) == SECOND
    assert labels(dataset) == FIRST
    assert len(dataset) == 3 == int(dataset.cardinality())
    x, y = next(iter(dataset))
    assert x.inputs.shape == (4, 1) and y.shape == (4,)
    outputs = x.teacher_outputs["net"]
    np.testing.assert_array_equal(outputs["output 0"], x.inputs + 100)
    np.testing.assert_array_equal(outputs["hint a"], x.inputs + 200)
    np.testing.assert_array_equal(outputs["mask a"], y % 3 == 0)
    assert dataset.element_spec[1] == tf.TensorSpec((None,), "int64")
    assert make(batch_size=5).element_spec[1] == tf.TensorSpec((5,), "int64")


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        ([], set()),
        ([("net", "output 0")], {"net output 0"}),
        ([("net", "hint a")], {"net hint a", "net mask a"}),
        (None, {"net output 0", "net hint a", "net mask a"}),
        ([("other", "hint a")], set()),
    ],
)
def test_only_the_selected_columns_are_read(keys, columns):
    table = Arrays()
    plain = make(table).as_tf_dataset(keys)
    assert isinstance(plain, tf.data.Dataset)
    assert labels(plain) == FIRST
    assert table.read == {"inputs 0", "labels 0"} | columns


DERIVED = {
    "map": (lambda d: d.map(lambda x, y: (x.inputs, y)), FIRST),
    "take": (lambda d: d.take(1), FIRST[:4]),
    "skip": (lambda d: d.skip(1), FIRST[4:]),
    "prefetch": (lambda d: d.prefetch(1), FIRST),
    "unbatch": (lambda d: d.unbatch().batch(7), FIRST),
    "filter": (lambda d: d.filter(lambda x, y: y[0] > 0), FIRST[4:]),
    "repeat": (lambda d: d.repeat(2), FIRST + SECOND),
}


@pytest.mark.parametrize("kind", DERIVED)
def test_a_method_of_tf_data_returns_a_plain_dataset(kind):
    derive, expected = DERIVED[kind]
    derived = derive(make())
    assert isinstance(derived, tf.data.Dataset)
    assert labels(derived) == expected
    if kind != "map":
        # All teacher outputs are still there.
        [outputs] = next(iter(derived))[0].teacher_outputs.values()
        assert set(outputs) == {"output 0", "hint a", "mask a"}


def test_what_tf_data_has_not_raises_an_attribute_error():
    for name in ("replay", "_variant_tensor", "shape"):
        with pytest.raises(AttributeError, match=name):
            getattr(make(), name)


class Labels(keras.layers.Layer):
    """Notes the labels, which are the inputs here, that a network is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x, training=None):
        if training:
            tf.numpy_function(lambda x: self.seen.extend(x[:, 0]), [x], [])
        return x


@pytest.mark.parametrize("counted", [True, False])
def test_a_derived_dataset_follows_the_epochs_with_the_counter_alone(counted):
    dataset = make()
    plain = dataset.map(lambda x, y: (x.inputs, x.inputs)).take(3)
    layer = Labels()
    model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    callbacks = [dataset.epoch_counter] if counted else []
    # A run that goes on with its second epoch, in a process that has read nothing yet.
    model.fit(
        plain,
        initial_epoch=1,
        epochs=3,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    expected = SECOND + FIRST if counted else FIRST + SECOND
    assert [int(one) for one in layer.seen] == expected


@pytest.mark.slow
def test_an_order_depends_on_seed_and_epoch_alone():
    def orders(seed):
        dataset = make(views=1, shuffle=True, seed=seed)
        found = [labels(dataset) for _ in range(3)]
        dataset.epoch_counter.on_epoch_begin(1)
        assert labels(dataset) == found[1]
        return found

    first = orders(0)
    assert first == orders(0) != orders(1)
    assert len({tuple(one) for one in first}) == 3
    assert all(sorted(one) == FIRST + SECOND for one in first)


def test_its_fingerprint_changes_with_what_it_gives():
    options = [{}, {"views": 1}, {"shuffle": True}, {"seed": 1}, {"batch_size": 5}]
    prints = [make(**one).fingerprint for one in options]
    assert len(set(prints)) == len(options)
    assert make().fingerprint == prints[0]


@pytest.mark.slow
def test_the_weights_of_a_teacher_are_hashed_once_a_call(tmp_path, monkeypatch):
    calls = []
    hash_weights = kf.Teacher.fingerprints

    def counted(self):
        calls.append(self)
        return hash_weights(self)

    teacher = tiny.network()
    model = kf.Distiller(teacher, tiny.network(hidden=4), ("hidden", "hidden"))
    model.compile("sgd", "mse")
    x, y = tiny.data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    cached = kf.cache_teacher(model, dataset, tmp_path, verbose=0)
    monkeypatch.setattr(kf.Teacher, "fingerprints", counted)
    options = {"shuffle": False, "verbose": 0}
    for call, expected in {
        lambda: model.fit(cached, validation_data=cached, epochs=2, **options): 1,
        lambda: model.fit(cached, **options): 1,
        lambda: model.evaluate(cached, verbose=0): 1,
        lambda: model.fit(cached.take(1), **options): 1,
        lambda: model.fit(dataset, **options): 0,
        lambda: model.predict(cached, verbose=0): 0,
    }.items():
        calls.clear()
        call()
        assert len(calls) == expected
    # Weights that changed between two calls are seen all the same.
    teacher.weights[0].assign_add(np.ones(teacher.weights[0].shape))
    with pytest.raises(ValueError, match="made with a different teacher"):
        model.fit(cached, **options)
