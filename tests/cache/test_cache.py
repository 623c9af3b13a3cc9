"""What is trained on a cache is what is trained without; nothing else is let in."""

import gc
import os
import re
import shutil
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers
from keras import ops
from processes import Program
from small_caches import BATCH
from small_caches import SAMPLES
from small_caches import batches
from small_caches import cached
from small_caches import data
from small_caches import distiller
from small_caches import elements
from small_caches import network

import keras_fitnets as kf
from keras_fitnets.cache import storage
from keras_fitnets.cache import writer as cache_writing
from keras_fitnets.distillation.teacher_outputs import CachedInputs

pytestmark = pytest.mark.usefixtures("eager")

STAGES = ("hint", "kd", "joint")
WRITER = Path(__file__).with_name("cache_writer.py")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """So that there are several, and that batches do not end where shards do."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 600)


def fit(model, dataset, epochs=2):
    return model.fit(dataset, epochs=epochs, shuffle=False, verbose=0).history


def same(one, other):
    return all(
        a.tobytes() == b.tobytes()
        for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    )


class Runs:
    """Counts the samples that a network is run on."""

    def __init__(self, monkeypatch, model):
        self.samples = 0
        layer = model.get_layer("low")
        call = layer.call

        def counted(x, training=None):
            tf.numpy_function(self._count, [tf.shape(x)[0]], [])
            return call(x)

        monkeypatch.setattr(layer, "call", counted)

    def _count(self, samples):
        self.samples += int(samples)


# The same training, without the teacher.


def ensemble(average):
    return lambda: kf.Teacher([network(5), network(6, 2)], average, [2, 1])


MEMBERS = [kf.Hint("high", "low"), kf.Hint("low", "high", weight=0.5, member=1)]
DISTILLERS = {
    "logits": lambda: distiller(),
    "softmax": lambda: distiller(network(5, end="softmax"), end="softmax"),
    "sigmoid": lambda: distiller(network(5, end="sigmoid"), end="sigmoid"),
    "two pairs": lambda: distiller(hints=[("high", "low"), ("low", "high")]),
    "one hint twice": lambda: distiller(hints=[("high", "low"), ("high", "high")]),
    "arithmetic": lambda: distiller(ensemble("arithmetic")(), hints=MEMBERS),
    "geometric": lambda: distiller(ensemble("geometric")(), hints=MEMBERS),
    "one teacher twice": lambda: distiller([network(5), network(5)]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        *(pytest.param("logits", stage, marks=pytest.mark.graph) for stage in STAGES),
        *((k, "joint") for k in DISTILLERS if k != "logits"),
    ],
)
def test_a_training_on_the_cache_is_that_without_it_to_rounding(kind, stage, tmp_path):
    outcomes = []
    for remembered in (True, False):
        model = DISTILLERS[kind]()
        model.stage = stage
        dataset = batches(*data(weights=True))
        if remembered:
            dataset = cached(model, dataset, tmp_path, hint_dtype="float32")
        history = fit(model, dataset)
        outcomes.append((history, tiny.weights(model)))
    (logs, weights), (expected_logs, expected_weights) = outcomes
    # Not always to the bit: how TensorFlow orders sums depends on the rest of a graph.
    tiny.assert_logs(logs, expected_logs)
    for actual, expected in zip(weights, expected_weights, strict=True):
        tiny.assert_close(actual, expected)


def test_a_stage_reads_no_more_than_it_asks_for(tmp_path, monkeypatch):
    read = set()
    read_rows = storage.ColumnStore.read_rows

    def noted(self, name, rows):
        read.add(name.split(" (")[0].removeprefix(f"{member} "))
        return read_rows(self, name, rows)

    monkeypatch.setattr(storage.ColumnStore, "read_rows", noted)
    model = distiller(hints=[("high", "low"), ("low", "high")])
    [member] = model.teacher.fingerprints()
    dataset = cached(model, batches(*data()), tmp_path)
    found = {}
    for stage, pairs in {"kd": [0, 1], "hint": [1], "joint": [0, 1]}.items():
        for run in (model.fit, model.evaluate):
            model.stage, model.active_hints = stage, pairs
            read.clear()
            run(dataset, verbose=0, **({"shuffle": False} if run == model.fit else {}))
            found[stage, run.__name__] = set(read)
    # Validation within a training too.
    model.stage = "kd"
    read.clear()
    model.fit(*data(), validation_data=dataset, verbose=0)
    labels, logits = {"inputs 0", "labels 0"}, {"output 0"}
    for run in ("fit", "evaluate"):
        assert found["kd", run] == labels | logits
        assert found["hint", run] == labels | {"hint low"}
        assert found["joint", run] == labels | logits | {"hint low", "hint high"}
    assert read == labels | logits
    # The student predicts from the inputs alone.
    read.clear()
    model.predict(dataset, verbose=0)
    assert read == labels


@pytest.mark.slow
@pytest.mark.graph
def test_the_teacher_is_run_once_for_each_example_and_never_again(
    tmp_path, monkeypatch
):
    model = distiller()
    runs = Runs(monkeypatch, model.teacher.models[0])
    model = distiller(model.teacher)
    dataset = cached(model, batches(*data()), tmp_path / "cache")
    assert runs.samples == SAMPLES
    for stage in STAGES:
        model.stage = stage
        fit(model, dataset)
        model.evaluate(dataset, verbose=0)
    model.predict(dataset, verbose=0)
    kf.fit_stagewise(
        model, dataset, None, 1, 1, validation_data=dataset, shuffle=False, verbose=0
    )
    # Opened again, the cache is compared with what the teacher says of one batch.
    cached(model, batches(*data()), tmp_path / "cache")
    assert runs.samples == SAMPLES + BATCH


def test_further_layers_are_cached_for_other_pairs(tmp_path, monkeypatch):
    model = distiller(hints=("high", "low"))
    cached(model, batches(*data()), tmp_path, hint_layers=["low", ("high", 0)])
    other = distiller(model.teacher, hints=("low", "high"))
    monkeypatch.setattr(storage.ColumnStore, "write_shard", None)
    fit(other, cached(other, batches(*data()), tmp_path))
    assert len(elements(cached(other, batches(*data()), tmp_path))[2]) == 2


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("low", TypeError, "must be a list of paths"),
        ([3], TypeError, "must be a list of paths"),
        ([("low", "high")], TypeError, "must be a list of paths"),
        (["nowhere"], ValueError, "no layer 'nowhere'"),
        ([("low", 1)], ValueError, "has 1"),
    ],
)
def test_a_further_layer_that_is_not_there_is_refused(layers, error, message, tmp_path):
    with pytest.raises(error) as caught:
        cached(distiller(), batches(*data()), tmp_path, hint_layers=layers)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def masked_network(width, seed):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    x = layers.LSTM(width, return_sequences=True, name="hidden")(x)
    outputs = layers.Dense(3)(layers.LSTM(width)(x))
    return tiny.redrawn(keras.Model(inputs, outputs), seed)


@pytest.mark.slow
@pytest.mark.graph
def test_the_mask_of_a_hint_is_cached(tmp_path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, size=(SAMPLES, 1))
    x = rng.integers(1, 7, size=(SAMPLES, 5)) * (np.arange(5) < lengths)
    losses = []
    for remembered in (True, False):
        keras.utils.set_random_seed(0)
        model = kf.Distiller(
            masked_network(5, 0),
            masked_network(3, 1),
            ("hidden", "hidden"),
            stage="hint",
        )
        model.compile("sgd")
        dataset = tf.data.Dataset.from_tensor_slices((x.astype("int32"),)).batch(BATCH)
        if remembered:
            dataset = cached(model, dataset, tmp_path, hint_dtype="float32")
        losses.append(fit(model, dataset)["hint_loss"])
    assert losses[0] == losses[1]


# To the bit: the writer's teacher is traced, and so it is beside the student here.
@pytest.mark.slow
@pytest.mark.graph
def test_inputs_and_outputs_may_be_structures(tmp_path):
    def two(seed):
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
        x = layers.Dense(4, "relu", name="hidden")(
            layers.Concatenate()([*inputs.values()])
        )
        outputs = {"c": layers.Dense(3)(x), "d": layers.Dense(1)(x)}
        return tiny.redrawn(keras.Model(inputs, outputs), seed)

    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(SAMPLES, 2)), "b": rng.normal(size=(SAMPLES, 3))}
    y = {"c": rng.integers(3, size=SAMPLES), "d": rng.integers(2, size=(SAMPLES, 1))}
    histories = []
    for remembered in (True, False):
        keras.utils.set_random_seed(0)
        model = kf.Distiller(two(0), two(1), ("hidden", "hidden"))
        categories = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        yes_or_no = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile("sgd", {"c": categories, "d": yes_or_no})
        dataset = batches(x, y)
        if remembered:
            dataset = cached(model, dataset, tmp_path, hint_dtype="float32")
        histories.append(fit(model, dataset))
    assert histories[0] == histories[1]


@pytest.mark.slow
@pytest.mark.graph
def test_replicas_share_a_cache_as_they_share_data(tmp_path):
    one_device = tf.distribute.ReductionToOneDevice()
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], one_device)
    outcomes = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            model = distiller()
        dataset = cached(model, batches(*data()), tmp_path, hint_dtype="float32")
        history = fit(model, dataset)
        outcomes.append((history, tiny.weights(model)))
    (expected, expected_weights), (history, weights) = outcomes
    for name, log in expected.items():
        np.testing.assert_allclose(history[name], log, rtol=1e-5)
    for new, old in zip(weights, expected_weights, strict=True):
        tiny.assert_close(new, old)


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_on_the_cache_compiles(stage, tmp_path):
    histories = []
    for jit_compile in (False, True):
        model = distiller(stage=stage)
        model.compile("sgd", model.loss, jit_compile=jit_compile)
        dataset = cached(model, batches(*data()), tmp_path)
        histories.append(fit(model, dataset))
    for name, log in histories[0].items():
        np.testing.assert_allclose(histories[1][name], log, rtol=1e-4)


# What changes without a new cache.


# To the bit: the writer's teacher is traced, and so it is beside the student here.
@pytest.mark.slow
@pytest.mark.graph
def test_lambda_temperature_student_and_pair_change_on_one_cache(tmp_path):
    pairs = [("high", "low"), ("low", "high")]
    model = distiller(hints=pairs)
    whole = cached(model, batches(*data()), tmp_path, hint_dtype="float32")
    for hints in pairs:
        options = {"hints": hints, "lambda_": 1.0, "temperature": 7.0}
        other = distiller(model.teacher, **options)
        part = cached(other, batches(*data()), tmp_path, hint_dtype="float32")
        asked = {"output 0", f"hint {hints[0]}"}
        assert set(elements(part)[2]) == asked < set(elements(whole)[2])
    expected = fit(distiller(model.teacher, **options), batches(*data()), epochs=1)
    assert fit(other, whole, epochs=1) == expected


def test_a_member_of_an_ensemble_shares_its_cache(tmp_path):
    both = distiller([network(5), network(6, 2)])
    cached(both, batches(*data()), tmp_path)
    alone = distiller(network(6, 2), hints=None)
    fit(alone, cached(alone, batches(*data()), tmp_path))


def test_names_of_the_teacher_and_its_layers_do_not_count(tmp_path):
    first = cached(distiller(), batches(*data()), tmp_path)
    network(5)  # Keras counts its unnamed layers up.
    again = cached(distiller(network(5, name="other")), batches(*data()), tmp_path)
    assert same(elements(first), elements(again))


def unnamed(before=0):
    """Layers whose names Keras makes up, after others were made before them."""
    for _ in range(before):
        layers.Dense(1)
    hidden = [layers.Dense(5, "tanh") for _ in range(3)]
    return tiny.redrawn(keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)]))


@pytest.mark.slow
def test_a_name_that_keras_gave_to_another_layer_is_not_believed(tmp_path):
    keras.backend.clear_session()
    teacher = unnamed()
    second = teacher.layers[1].name
    cached(distiller(teacher, (second, "low")), batches(*data()), tmp_path)
    keras.backend.clear_session()
    shifted = unnamed(before=1)
    assert shifted.layers[0].name == second
    assert kf.Teacher(shifted).fingerprints() == kf.Teacher(teacher).fingerprints()
    with pytest.raises(ValueError, match="It has no 'hint"):
        cached(distiller(shifted, (second, "low")), batches(*data()), tmp_path)


@keras.saving.register_keras_serializable("test_cache")
class Times(layers.Layer):
    """A layer that does not tell its factor."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        raise NotImplementedError


def ending(*end, dtype=None):
    first = [keras.Input((6,)), layers.Dense(3, dtype=dtype)]
    return tiny.redrawn(keras.Sequential([*first, *end]))


def added(plus=ops.add):
    inputs = keras.Input((6,))
    return tiny.redrawn(keras.Model(inputs, plus(layers.Dense(3)(inputs), 1.0)))


def not_trainable():
    model = ending()
    model.trainable = False
    return model


def compiled():
    model = ending()
    model.compile("sgd", "mse")
    return model


SAME = {
    "built again": (ending, ending),
    "not trainable": (ending, not_trainable),
    "compiled": (ending, compiled),
    "operations": (added, added),
}
OTHER = {
    "half precision": (ending, lambda: ending(dtype="mixed_float16")),
    "activation": [
        lambda a=a: ending(layers.Activation(a, name=a)) for a in ("relu", "tanh")
    ],
    "operation": (added, lambda: added(ops.subtract)),
    "number": [lambda a=a: ending(layers.Rescaling(a)) for a in (1.0, 2.0)],
}


@pytest.mark.parametrize("kind", [*SAME, *OTHER])
def test_a_fingerprint_is_of_what_a_network_does(kind):
    one, other = (SAME | OTHER)[kind]
    prints = [kf.Teacher(make()).fingerprints() for make in (one, other)]
    assert (prints[0] == prints[1]) == (kind in SAME)


def test_what_no_fingerprint_tells_is_seen_by_asking(tmp_path):
    first, again, other = [
        distiller(kf.Teacher(ending(Times(factor)), from_logits=True), hints=None)
        for factor in (1.0, 1.0, 2.0)
    ]
    for model in (first, again):
        cached(model, batches(*data()), tmp_path)
    with pytest.raises(ValueError, match="'output 0' is now another"):
        cached(other, batches(*data()), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"shuffle": True}, {"augment": 1, "views": 2}])
def test_a_run_that_goes_on_sees_what_it_would_have_seen(options, tmp_path):
    if "augment" in options:
        options = {
            **options,
            "augment": lambda x, s: tf.random.stateless_normal([6], s),
        }
    histories = []
    for parts in ([(0, 3)], [(0, 1), (1, 3)]):
        model = distiller(stage="kd")
        history = {}
        for begin, end in parts:
            # As another process would.
            dataset = cached(model, batches(*data()), tmp_path, **options)
            next(iter(dataset))
            logs = model.fit(
                dataset, initial_epoch=begin, epochs=end, shuffle=False, verbose=0
            )
            for name, log in logs.history.items():
                history.setdefault(name, []).extend(log)
        histories.append(history)
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_caches_opened_often_keep_no_files_open(tmp_path):
    def files():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for _ in range(4):
        elements(cached(distiller(), batches(*data()), tmp_path))
        counts.append(files())
    assert counts[1] == counts[-1]


def test_the_size_of_the_batches_does_not_count(tmp_path):
    first = cached(distiller(), batches(*data()), tmp_path)
    again = cached(distiller(), batches(*data(), size=5), tmp_path)
    other = cached(distiller(), batches(*data()), tmp_path, batch_size=11)
    assert [len(y) for _, y in again] == [5, 5, 5, 5, 2]
    assert other.element_spec[1].shape == (11, 3)
    assert same(elements(first), elements(again))
    assert same(elements(first), elements(other))


def test_shuffled_examples_come_each_once_in_an_order_of_the_seed(tmp_path):
    def order(dataset):
        x, y, said = elements(dataset)
        where = [int(np.flatnonzero((plain[0] == row).all(1))[0]) for row in x]
        assert sorted(where) == list(range(SAMPLES))
        # Labels, logits and hints went with their inputs.
        assert same((y, said), tf.nest.map_structure(lambda a: a[where], plain[1:]))
        return where

    plain = elements(cached(distiller(), batches(*data()), tmp_path))
    shuffled = cached(distiller(), batches(*data()), tmp_path, shuffle=True, seed=3)
    again = cached(distiller(), batches(*data()), tmp_path, shuffle=True, seed=3)
    other = cached(distiller(), batches(*data()), tmp_path, shuffle=True, seed=4)
    orders = [order(shuffled), order(shuffled)]
    assert orders == [order(again), order(again)]
    assert len({tuple(one) for one in [*orders, order(other), range(SAMPLES)]}) == 4


# Hints belong to the very pixels.


def flip(image, seed):
    return tf.image.stateless_random_flip_left_right(image, seed)


def convolutional(width, seed=0):
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(width, 2, activation="tanh", name="hidden")(inputs)
    x = layers.Dense(3)(layers.Flatten()(x))
    return tiny.redrawn(keras.Model(inputs, x), seed)


def test_each_epoch_shows_another_view_with_its_own_hints(tmp_path):
    model = kf.Distiller(convolutional(4), convolutional(3, 1), ("hidden", "hidden"))
    x, y = tiny.data("conv", samples=SAMPLES)
    options = {"augment": flip, "views": 3, "hint_dtype": "float32"}
    dataset = cached(model, batches(x, y), tmp_path, **options)
    passes = [elements(dataset) for _ in range(4)]
    for view, (inputs, labels, said) in enumerate(passes):
        augmented = np.stack([flip(x[i], [view % 3, i]) for i in range(SAMPLES)])
        assert same((inputs, labels), (augmented, y))
        [hidden, out] = [
            keras.Model(model.teacher.models[0].input, layer.output)(augmented)
            for layer in (
                model.teacher.models[0].get_layer("hidden"),
                model.teacher.models[0],
            )
        ]
        np.testing.assert_allclose(said["hint hidden"], hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(said["output 0"], out, rtol=1e-5, atol=1e-5)
    flipped = [(one[0] != x).any((1, 2, 3)) for one in passes]
    assert all(0 < one.sum() < SAMPLES for one in flipped)
    assert (flipped[0] != flipped[1]).any() and (flipped[0] == flipped[3]).all()
    with pytest.raises(ValueError, match="Its inputs 0 from example 0 on"):
        options["augment"] = lambda image, seed: flip(image, seed + 1)
        cached(model, batches(x, y), tmp_path, **options)


def unseeded(x):
    return x + tf.numpy_function(lambda: np.float32(np.random.normal()), [], "float32")


RESTLESS = {
    "shuffled": (lambda d: d.unbatch().shuffle(99).batch(BATCH), "pass `shuffle=True`"),
    "augmented": (lambda d: d.map(lambda x, y: (unseeded(x), y)), "`augment`, and the"),
    "other length": (lambda d: d.filter(lambda x, y: np.True_), None),
}


@pytest.mark.parametrize("kind", RESTLESS)
def test_a_dataset_that_differs_between_passes_is_refused(kind, tmp_path):
    change, cause = RESTLESS[kind]
    dataset = change(batches(*data()))
    if kind == "other length":
        # Each pass is one batch shorter than the one before it.
        lengths = iter(range(9, 0, -1))
        arrays = data()

        def generator():
            for _ in range(next(lengths)):
                yield arrays

        signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays)
        dataset = tf.data.Dataset.from_generator(generator, output_signature=signature)
        cause = "drawn at random"
    with pytest.raises(ValueError, match="differ between two passes") as error:
        cached(distiller(), dataset, tmp_path)
    assert cause in str(error.value)


def test_an_augmentation_that_does_not_use_its_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not depend on the seed"):
        cached(
            *(distiller(), batches(*data()), tmp_path),
            augment=lambda x, seed: unseeded(x),
        )


# The rounding of hints.


def test_hints_are_rounded_once_and_the_effect_is_printed(tmp_path, capsys):
    model = distiller()
    exact = elements(
        cached(model, batches(*data()), tmp_path / "a", hint_dtype="float32")
    )
    said = elements(kf.cache_teacher(model, batches(*data()), tmp_path / "b"))[2]
    hints = exact[2]["hint high"]
    assert same(said["hint high"], hints.astype("float16"))
    assert same(said["output 0"], exact[2]["output 0"])
    rounding = hints.astype("float64") - said["hint high"]
    told = capsys.readouterr().out
    found = re.search(
        r"'hint high .*' in float16: rounding adds (\S+) to .* (\S+) for", told
    )
    halves = [
        0.5 * np.mean(np.sum(a**2, -1)) for a in (rounding, hints.astype("float64"))
    ]
    np.testing.assert_allclose([float(g) for g in found.groups()], halves, rtol=0.05)


def test_a_hint_beyond_float16_is_refused_and_float32_holds_it(tmp_path):
    teacher = network(5)
    teacher.get_layer("high").bias.assign(np.full(5, 1e5))
    with pytest.raises(
        ValueError, match='exceeds 65504.* in float16.* hint_dtype="float32"'
    ):
        cached(distiller(teacher), batches(*data()), tmp_path)
    dataset = cached(
        distiller(teacher), batches(*data()), tmp_path, hint_dtype="float32"
    )
    assert elements(dataset)[2]["hint high"].max() > 65504


@pytest.mark.parametrize("layer", ["low", "out"])
def test_a_teacher_that_says_nan_is_refused(layer, tmp_path):
    teacher = network(5)
    weight = teacher.get_layer(layer).bias
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(ValueError, match="NaN or infinity"):
        cached(distiller(teacher, ("low", "low")), batches(*data()), tmp_path)


# What belongs to something else.


def retrained():
    teacher = network(5)
    teacher.get_layer("low").bias.assign_add(np.full(5, 1e-6))
    return distiller(teacher)


def rewired():
    """The same layers and weights in another order."""
    inputs = keras.Input((6,))
    x = layers.Dense(5, "tanh", name="low")(inputs)
    x = layers.Rescaling(1.0)(x)
    x = layers.Dense(5, "relu", name="high")(x)
    teacher = keras.Model(inputs, layers.Dense(3, name="out")(x))
    return distiller(tiny.redrawn(teacher))


def changed(at, by):
    arrays = data()
    arrays[at].reshape(-1)[-1] += by
    return batches(*arrays)


x0, y0 = data()
FOREIGN = {
    "trained on": (retrained, None, {}, "another teacher"),
    "rewired": (rewired, None, {}, "another teacher"),
    "preprocessing": (
        lambda: distiller(network(5, scale=0.5)),
        None,
        {},
        "another teach",
    ),
    "other layer": (lambda: distiller(hints=("low", "low")), None, {}, "no 'hint low"),
    "a pixel": (distiller, changed(0, 1e-6), {}, "inputs 0 from example 16 on"),
    "a label": (distiller, changed(1, 1), {}, "labels 0 from example 16 on"),
    "fewer": (
        distiller,
        batches(*data()).take(2),
        {},
        "and `dataset` has 16",
    ),
    "more": (
        distiller,
        batches(*data()).repeat(2),
        {},
        "and `dataset` has more",
    ),
    "no labels": (distiller, batches(x0).map(lambda x: (x,)), {}, "Its examples are"),
    "dtype": (distiller, batches(x0.astype("float64"), y0), {}, "Its examples are"),
    "precision": (distiller, None, {"hint_dtype": "float64"}, "hints in float16"),
    "views": (distiller, None, {"augment": flip, "views": 2}, "1 view"),
    "order": (
        distiller,
        batches(x0[::-1], y0[::-1]),
        {},
        "labels 0 from example 0 on",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache that must not change."""
    folder = tmp_path_factory.mktemp("made")
    kept, storage.SHARD_BYTES = storage.SHARD_BYTES, 600
    cached(distiller(), batches(*data()), folder)
    storage.SHARD_BYTES = kept
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder):
    paths = [path for path in folder.iterdir() if path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_cache_of_something_else_is_refused(kind, made):
    make, dataset, options, words = FOREIGN[kind]
    dataset = batches(*data()) if dataset is None else dataset
    if "augment" in options:
        options = {**options, "augment": lambda x, seed: x}
    with pytest.raises(ValueError, match="does not belong to this call") as error:
        cached(make(), dataset, made, **options)
    assert words in str(error.value)
    assert "Pass another directory, or delete this one" in str(error.value)


def test_a_dataset_of_another_teacher_or_layer_is_refused_by_fit(made):
    dataset = cached(distiller(), batches(*data()), made)
    for call in (fit, lambda model, d: model.evaluate(d, verbose=0)):
        with pytest.raises(ValueError, match="made with a different teacher"):
            call(retrained(), dataset)
        with pytest.raises(ValueError, match="no 'hint low .* of the teacher"):
            call(distiller(hints=("low", "low")), dataset)
    with pytest.raises(ValueError, match="takes .*6"):
        x, y = np.ones((4, 7), "float32"), np.ones((4, 3))
        outputs = distiller().with_teacher_outputs(x0[:4]).teacher_outputs
        fit(
            distiller(),
            batches(CachedInputs(x, outputs), y),
        )


# Damage.


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damage_to_any_file_is_found_and_the_remedy_works(damage, made, tmp_path):
    whole = contents(made)
    expected = elements(cached(distiller(), batches(*data()), made))
    assert len(whole) > 3
    rng = np.random.default_rng(0)
    for name in whole:
        folder = tmp_path / name
        shutil.copytree(made, folder)
        path, at = folder / name, int(rng.integers(len(whole[name])))
        if damage == "flip":
            byte = whole[name][at] ^ (1 << int(rng.integers(8)))
            path.write_bytes(whole[name][:at] + bytes([byte]) + whole[name][at + 1 :])
        elif damage == "remove":
            path.unlink()
        else:
            path.write_bytes(whole[name][: at if damage == "truncate" else 0])
        if damage != "remove" or name == "manifest.json":
            with pytest.raises(ValueError, match="damaged|is no cache") as error:
                cached(distiller(), batches(*data()), folder)
            assert "elete" in str(error.value)
            if "Delete this file" in str(error.value):
                path.unlink()
            else:
                shutil.rmtree(folder)
        again = cached(distiller(), batches(*data()), folder)
        assert same(elements(again), expected)
        assert contents(folder) == whole


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="is no cache, and not empty.*thesis.tex"):
        cached(distiller(), batches(*data()), tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / "movie.partial")
    with pytest.raises(ValueError, match="is no cache, and not empty.*movie.partial"):
        cached(distiller(), batches(*data()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["movie.partial"]


# Interrupted, and several at once.


def test_an_interrupted_writer_goes_on_with_what_is_missing(
    tmp_path, monkeypatch, made
):
    model = distiller()
    runs = Runs(monkeypatch, model.teacher.models[0])
    model = distiller(model.teacher)
    write, written = storage.ColumnStore.write_shard, []

    def interrupted(self, number, arrays):
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, number, arrays)
        written.append(self.shard_rows(number))

    monkeypatch.setattr(storage.ColumnStore, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(model, batches(*data()), tmp_path)
    monkeypatch.setattr(storage.ColumnStore, "write_shard", write)
    with pytest.raises(ValueError, match="unfinished, and was begun with"):
        cached(distiller(model.teacher, hints=None), batches(*data()), tmp_path)
    (tmp_path / f"{'0123456789abcdef' * 2}.partial").touch()
    before = runs.samples
    cached(model, batches(*data()), tmp_path)
    # The first batch, to compare, and that in which the last whole shard ended.
    assert runs.samples - before <= SAMPLES - sum(written) + 2 * BATCH
    assert contents(tmp_path) == contents(made)


def writer(folder, *words):
    threads = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1"}
    return Program([WRITER, folder, *words], environment=threads)


@pytest.mark.slow
def test_writers_that_are_killed_or_many_leave_one_cache(tmp_path):
    folder = tmp_path / "cache"
    killed = writer(folder, "slowly")
    while len(list(folder.glob("*-00-*.npy"))) < 2:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(list(folder.glob("*-00-*.npy"))) < 3
    both = [writer(folder, "slowly"), writer(folder, "slowly")]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    digests = {text.split()[-1] for text in told}
    alone = writer(tmp_path / "alone")
    assert digests == {alone.communicate(timeout=300)[0].split()[-1]}
    assert not list(folder.glob("*.partial"))


# Said before anything is written.


def test_the_size_is_printed_and_a_full_disk_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(cache_writing.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match="needs .* kB, and there are 100 bytes free"):
        kf.cache_teacher(distiller(), batches(*data()), tmp_path)
    assert "on 22 examples: " in capsys.readouterr().out
    assert not list(tmp_path.glob("*.npy"))


def test_the_size_printed_is_the_size_on_disk(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_BYTES", 10**6)
    kf.cache_teacher(distiller(), batches(*data(), size=SAMPLES), tmp_path)
    # Inputs, labels, logits and a hint, each with a header.
    sizes = [path.stat().st_size for path in tmp_path.glob("*.npy")]
    assert len(sizes) == 4
    said = float(re.search(r"examples: (\S+) kB", capsys.readouterr().out)[1])
    assert 0 <= sum(sizes) - 1000 * said <= 4 * 128 + 5


def once():
    """A dataset that can be read only once."""
    left = iter([data()])
    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in data())
    return tf.data.Dataset.from_generator(lambda: left, output_signature=signature)


WRONG = {
    "distiller": ({"distiller": "student"}, TypeError, "keras_fitnets.Distiller"),
    "arrays": ({"dataset": data()}, TypeError, "from_tensor_slices"),
    "endless": ({"dataset": batches(*data()).repeat()}, ValueError, "no end"),
    "file": ({"directory": __file__}, ValueError, "is a file"),
    "empty": ({"dataset": batches(*data()).take(0)}, ValueError, "is empty"),
    "width": ({"dataset": batches(np.ones((4, 7)), np.ones((4, 3)))}, ValueError, "7"),
    "unbatched": (
        {"dataset": batches(*data()).unbatch()},
        ValueError,
        "without a batch",
    ),
    "hint_dtype": ({"hint_dtype": "int8"}, ValueError, "hint_dtype"),
    "views 0": ({"views": 0}, ValueError, "`views` must be"),
    "views alone": ({"views": 2}, ValueError, "`augment`"),
    "augment": ({"augment": "flip"}, TypeError, "function"),
    "batch_size": ({"batch_size": 2.5}, ValueError, "`batch_size` must be"),
    "seed": ({"seed": "three"}, ValueError, "`seed` must be"),
    "bucket": ({"directory": "gs://bucket/cache"}, ValueError, "local or mounted"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_passed_wrong_is_reported(kind, tmp_path):
    wrong, error, words = WRONG[kind]
    given = {"dataset": batches(*data()), "directory": tmp_path, **wrong}
    with pytest.raises(error, match=re.escape(words)):
        kf.cache_teacher(**{"distiller": distiller(), "verbose": 0, **given})
    assert not list(tmp_path.iterdir())


def test_a_dataset_that_can_be_read_only_once_is_refused(tmp_path):
    with pytest.raises(ValueError, match="read only once"):
        cached(distiller(), once(), tmp_path)


UNEVEN = {
    "one label for all": tf.data.Dataset.from_tensors((x0, y0[:1])),
    "half the labels": tf.data.Dataset.from_tensors((x0, y0[:11])),
    "one weight": tf.data.Dataset.from_tensors((x0, y0, 2.0)),
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_labels_and_weights_are_not_spread(kind, tmp_path):
    with pytest.raises(ValueError, match="as many labels and weights as inputs"):
        cached(distiller(), UNEVEN[kind], tmp_path)


# To the bit: the writer's teacher is traced, and so it is beside the student here.
@pytest.mark.graph
def test_inputs_and_weights_need_no_labels(tmp_path):
    weights = np.arange(SAMPLES, dtype="float32")
    dataset = batches(x0, weights).map(lambda x, w: (x, None, w))
    losses = []
    for remembered in (False, True):
        model = distiller(stage="hint")
        if remembered:
            dataset = cached(model, dataset, tmp_path, hint_dtype="float32")
        losses.append(fit(model, dataset))
    assert losses[0] == losses[1]


def test_cached_inputs_may_stand_alone(tmp_path):
    losses = []
    dataset = cached(distiller(), batches(*data()), tmp_path)
    for change in (lambda x, y: (x, y), lambda x, y: x):
        model = distiller(network(5), stage="hint")
        losses.append(fit(model, dataset.map(change)))
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="comes out of a cache already"):
        cached(distiller(), dataset, tmp_path / "again")


RAGGED = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1.0], [2.0, 3.0]]))
UNKEPT = {
    "ragged": RAGGED.batch(2),
    "text": tf.data.Dataset.from_tensor_slices((x0, ["a"] * SAMPLES)).batch(2),
    "bfloat16": batches(tf.cast(x0, "bfloat16"), y0),
}


@pytest.mark.parametrize("kind", UNKEPT)
def test_what_numpy_cannot_keep_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match="must be dense tensors of numbers"):
        cached(distiller(), UNKEPT[kind], tmp_path)


def test_examples_of_different_shapes_are_refused(tmp_path):
    def generator():
        yield np.ones((2, 5), "int32")
        yield np.ones((2, 4), "int32")

    spec = tf.TensorSpec((None, None), "int32")
    dataset = tf.data.Dataset.from_generator(generator, output_signature=spec)
    inputs = keras.Input((None,), dtype="int32")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(3, 2)(inputs))
    teacher = keras.Model(inputs, layers.Dense(3)(pooled))
    model = kf.Distiller(teacher, keras.models.clone_model(teacher))
    with pytest.raises(ValueError, match="one shape"):
        cached(model, dataset, tmp_path)


class Counting(layers.Layer):
    """Counts the passes, in inference too."""

    def build(self, shape):
        self.passes = self.add_weight(
            name="passes", initializer="zeros", trainable=False
        )

    def call(self, x):
        self.passes.assign(self.passes + 1)
        return x


def test_what_a_layer_assigns_meanwhile_is_dropped(tmp_path):
    inputs = keras.Input((6,))
    x = layers.Dense(5, "relu", name="high")(Counting()(inputs))
    teacher = keras.Model(inputs, layers.Dense(3)(x))
    cached(distiller(teacher), batches(*data()), tmp_path)
    assert [float(v) for v in teacher.variables if "passes" in v.path] == [0.0]
