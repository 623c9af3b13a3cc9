"""A search takes its data in every form that `fit_stagewise` takes them in."""

import gc

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_fitnets as kf
from keras_fitnets.tuning.search_data import digest_data
from keras_fitnets.tuning.search_data import to_tf_dataset

pytestmark = pytest.mark.usefixtures("eager")

SAMPLES = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, 4)).astype("float32")
Y = np.arange(SAMPLES) % 3
WEIGHTS = np.linspace(0, 1, SAMPLES).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """KerasTuner clears up before each trial, which takes longer than these trials."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    monkeypatch.setattr(keras.backend, "clear_session", lambda *_, **__: None)


class Batches(keras.utils.PyDataset):
    """Batches that end at the given rows, of what a function gives for these rows."""

    def __init__(self, read, ends=(8, 16, SAMPLES)):
        super().__init__()
        self._read = read
        self._ends = (0, *ends)

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        return self._read(slice(self._ends[index], self._ends[index + 1]))


def one(width):
    inputs = keras.Input((4,))
    hidden = layers.Dense(width, "relu", name="h")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="out")(hidden))


def two_inputs(width):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    hidden = layers.Dense(width, "relu", name="h")(layers.Concatenate()(inputs))
    return keras.Model(inputs, layers.Dense(3)(hidden))


def two_named_inputs(width):
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    hidden = layers.Concatenate()([inputs["a"], inputs["b"]])
    hidden = layers.Dense(width, "relu", name="h")(hidden)
    return keras.Model(inputs, layers.Dense(3)(hidden))


def two_outputs(width):
    inputs = keras.Input((4,))
    hidden = layers.Dense(width, "relu", name="h")(inputs)
    return keras.Model(
        inputs, [layers.Dense(3, name="a")(hidden), layers.Dense(3, name="b")(hidden)]
    )


def words(width):
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"])
    inputs = keras.Input((2,), dtype="string")
    x = layers.Flatten()(layers.Embedding(4, 3)(lookup(inputs)))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(width, name="h")(x)))


def steps(width):
    inputs = keras.Input((None, 2))
    x = layers.GlobalAveragePooling1D()(layers.Dense(width, name="h")(inputs))
    return keras.Model(inputs, layers.Dense(3)(x))


TEXT = np.array([["a", "b"], ["b", "c"]] * (SAMPLES // 2))


def read_steps(rows):
    """Batches of 4 to 8 steps: each batch has a length of its own."""
    length = 4 + rows.start % 5
    return np.ones((rows.stop - rows.start, length, 2), "float32"), Y[rows]


CACHED = {
    "list": (two_inputs, ([X, X], Y)),
    "tuple": (two_inputs, ((X, X), Y)),
    "dictionary": (two_named_inputs, ({"b": X, "a": X + 1}, Y)),
    "list of numbers": (one, (X, Y.tolist())),
    "list of labels": (two_outputs, (X, [Y, Y])),
    "PyDataset": (one, (Batches(lambda rows: (X[rows], Y[rows])),)),
    "PyDataset of lists": (
        two_inputs,
        (Batches(lambda rows: ([X[rows], X[rows]], Y[rows], WEIGHTS[rows])),),
    ),
    "uneven PyDataset": (
        one,
        (Batches(lambda rows: (X[rows], Y[rows]), (3, 11, SAMPLES)),),
    ),
}
UNCACHED = {
    "text": (words, (TEXT, Y)),
    "dataset of text": (
        words,
        (tf.data.Dataset.from_tensor_slices((TEXT, Y)).batch(8),),
    ),
    "PyDataset of text": (
        words,
        (Batches(lambda rows: (tf.constant(TEXT[rows]), Y[rows])),),
    ),
    "batches of a length of their own": (steps, (Batches(read_steps),)),
    "ragged text": (
        words,
        (tf.data.Dataset.from_tensor_slices((TEXT, Y)).shuffle(9).batch(8),),
    ),
}


@pytest.fixture
def stages(monkeypatch):
    """The stages that were trained, one after the other."""
    seen = []
    fit = kf.Distiller.fit

    def note(self, *args, **kwargs):
        seen.append(self.stage)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(kf.Distiller, "fit", note)
    return seen


def search(folder, network, data, trials=2, **options):
    """Trials that differ in λ alone, so that one stage 1 serves all."""
    loss = LOSS
    metrics, objective = ["accuracy"], "val_accuracy"
    if network is two_outputs:
        loss, metrics = [LOSS, LOSS], None
        objective = keras_tuner.Objective("val_label_loss", "min")
    hypermodel = kf.tuning.FitNetHyperModel(
        network(6),
        lambda hp: network(4),
        hints=("h", "h"),
        lambda_=[1.0, 2.0],
        temperature=2.0,
        learning_rate=0.01,
        loss=loss,
        metrics=metrics,
        **options,
    )
    tuner = keras_tuner.GridSearch(
        hypermodel, objective, max_trials=trials, directory=folder, project_name="p"
    )
    is_source = len(data) == 1
    tuner.search(
        *data,
        validation_data=data[0] if is_source else data,
        **{"hint_epochs": 1, "epochs": 1, "verbose": 0},
    )
    return tuner


@pytest.mark.slow
@pytest.mark.parametrize("kind", CACHED)
def test_data_are_cached_in_every_form(tmp_path, kind, stages):
    network, data = CACHED[kind]
    tuner = search(tmp_path, network, data)
    assert stages == ["hint", "kd", "kd"]
    assert len(tuner.get_best_models(2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNCACHED)
def test_data_that_cannot_be_cached_are_searched_without(tmp_path, kind, stages):
    network, data = UNCACHED[kind]
    search(tmp_path, network, data, cache=False)
    assert stages == ["hint", "kd", "kd"]


@pytest.mark.parametrize("kind", ["list", "list of labels", "PyDataset"])
def test_a_search_without_a_cache_trains_the_same_forms(tmp_path, kind, stages):
    network, data = CACHED[kind]
    search(tmp_path, network, data, cache=False)
    assert stages == ["hint", "kd", "kd"]
    assert not list(tmp_path.rglob("*teacher's outputs*"))


@pytest.mark.parametrize("kind", ["text", "batches of a length of their own"])
def test_the_error_for_such_data_says_how_to_go_on(tmp_path, kind):
    network, data = UNCACHED[kind]
    with pytest.raises(keras_tuner.errors.FatalValueError, match="cache=False"):
        search(tmp_path, network, data)


def test_weights_without_labels_are_no_labels():
    dataset = to_tf_dataset((X, None, WEIGHTS), 8)
    x, y, weights = next(iter(dataset))
    np.testing.assert_array_equal(x, X[:8])
    np.testing.assert_array_equal(weights, WEIGHTS[:8])
    assert y is None


def test_a_pydataset_without_end_is_refused():
    class Endless(Batches):
        @property
        def num_batches(self):
            return None

    with pytest.raises(ValueError, match="without end"):
        to_tf_dataset((Endless(lambda rows: X[rows]), None, None), 8)


def test_a_digest_is_of_the_examples():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    others = [
        (X, Y, None),
        (X + 1, Y, None),
        ([X, X], Y, None),
        (TEXT, Y, None),
        (TEXT[::-1], Y, None),
        (dataset, None, None),
        (dataset.map(lambda x, y: (x, y + 1)), None, None),
        (Batches(lambda rows: (X[rows], Y[rows], WEIGHTS[rows])), None, None),
    ]
    digests = [digest_data(data) for data in others]
    assert len(set(digests)) == len(digests)
    assert digests == [digest_data(data) for data in others]
    assert digest_data((dataset.repeat(), None, None)) != digest_data(
        (dataset.repeat(), None, None)
    )


def test_cache_is_a_truth_value():
    with pytest.raises(TypeError, match="`cache` must be"):
        kf.tuning.FitNetHyperModel(one(4), lambda hp: one(3), loss=LOSS, cache="no")


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that is not registered, and does not tell its arguments."""

    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5 ** keras.ops.cast(step, "float32")


class Doubled(layers.Dense):
    """A layer that is not registered."""

    def call(self, x):
        return 2 * super().call(x)


def test_schedules_and_layers_need_no_registration(tmp_path, stages):
    def network(width):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(3)(Doubled(width, name="h")(inputs)))

    hypermodel = kf.tuning.FitNetHyperModel(
        network(6),
        lambda hp: network(4),
        hints=kf.Hint("h", "h", regressor=Doubled(6)),
        lambda_=[1.0, 2.0],
        temperature=2.0,
        learning_rate=0.01,
        loss=LOSS,
        metrics=["accuracy"],
        optimizer=lambda rate: keras.optimizers.SGD(Halving(rate)),
    )
    tuner = keras_tuner.GridSearch(
        hypermodel, "val_accuracy", max_trials=2, directory=tmp_path, project_name="p"
    )
    options = {"hint_epochs": 1, "epochs": 1, "verbose": 0}
    tuner.search(X, Y, validation_data=(X, Y), **options)
    # Whether two such schedules are equal cannot be known, so nothing is shared.
    assert stages == ["hint", "kd", "hint", "kd"]
