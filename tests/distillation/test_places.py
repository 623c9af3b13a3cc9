"""Layers are found again where Keras has given them other names."""

from pathlib import Path

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from keras import layers

import keras_fitnets as kf
from keras_fitnets.inspection import graph

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


@pytest.fixture(autouse=True)
def _eager(eager):
    """Steps run eagerly: these tests are about names, not about the trace."""


@keras.saving.register_keras_serializable("places")
class Net(keras.Model):
    """A graph that is made in the constructor, as in KerasHub: names count up."""

    def __init__(self, width, depth=3, first=False, given=None, **options):
        inputs = x = keras.Input((4,))
        if first:
            x = layers.LayerNormalization()(x)
        for i in range(depth):
            name = given if i == 1 else None
            x = layers.Dense(width, "relu", name=name)(x)
        super().__init__(inputs, layers.Dense(3)(x), **options)
        self.options = {"width": width, "depth": depth, "first": first, "given": given}

    def get_config(self):
        return {**self.options, "name": self.name}


def restart(made_before=0):
    """Let Keras count names as in a fresh process that has made some layers."""
    keras.utils.clear_session()
    for _ in range(made_before):
        layers.Dense(1)


def distiller(hints="middle", **options):
    model = kf.Distiller(Net(8, **options), Net(4, **options), hints)
    model.compile("sgd")
    return model


def position(network, path):
    return network.layers.index(graph.find_layer(network, path))


@pytest.mark.slow
@pytest.mark.parametrize("made_before", [0, 1, 2, 50])
def test_a_saved_hint_stays_where_it_was(made_before, tmp_path):
    restart()
    model = distiller()
    wanted = model.evaluate(X, verbose=0, return_dict=True)
    [hint] = model.hints
    places = [
        position(model.teacher.models[0], hint.hint_layer),
        position(model.student, hint.guided_layer),
    ]
    model.save(tmp_path / "distiller.keras")
    restart(made_before)
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    [hint] = loaded.hints
    assert position(loaded.teacher.models[0], hint.hint_layer) == places[0]
    assert position(loaded.student, hint.guided_layer) == places[1]
    found = loaded.evaluate(X, verbose=0, return_dict=True)
    assert found == pytest.approx(wanted, rel=1e-5)
    # Saved once more, it is found once more.
    loaded.save(tmp_path / "again.keras")
    restart(7)
    again = keras.saving.load_model(tmp_path / "again.keras")
    assert again.evaluate(X, verbose=0, return_dict=True) == pytest.approx(wanted)


def config_of(model):
    config = model.hints and model.get_config()
    return config["hints"][0]["config"]


def moved(config, teacher, student):
    """A Distiller of other networks with the hints of a file."""
    return kf.Distiller(teacher, student, kf.Hint.from_config(dict(config)))


def test_a_name_that_the_user_gave_is_right_wherever_it_is():
    restart()
    config = config_of(distiller([("mine", "mine")], given="mine"))
    nets = [Net(width, first=True, given="mine") for width in (8, 4)]
    model = moved(config, *nets)
    assert model.hints[0].hint_layer == "mine"


def test_an_error_where_neither_name_nor_place_fits():
    restart()
    config = config_of(distiller())
    assert config["places"][0] == [2, "Dense"]
    nets = [Net(width, depth=1, first=True) for width in (8, 4)]
    pattern = r"was a Dense at position 2 among its layers.*there is '.*', a LayerNorm"
    config["places"] = [[1, "Dense"], [1, "Dense"]]
    with pytest.raises(ValueError, match=pattern.replace("2", "1")):
        moved(config, *nets)
    config["places"] = [[9, "Dense"], [9, "Dense"]]
    with pytest.raises(ValueError, match="at position 9 .*there is nothing now"):
        moved(config, *nets)


def test_a_file_without_places_is_read_by_name():
    restart()
    config = config_of(distiller([("mine", "mine")], given="mine"))
    del config["places"]
    nets = [Net(width, given="mine") for width in (8, 4)]
    assert moved(config, *nets).hints[0].guided_layer == "mine"


def test_nested_and_listed_layers_are_found_too(tmp_path):
    def nested(width):
        inner = Net(width)
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(3)(inner(inputs)))

    restart()
    teacher, student = nested(8), nested(4)
    paths = [
        f"{n.layers[1].name}/{n.layers[1].layers[2].name}" for n in (teacher, student)
    ]
    model = kf.Distiller(teacher, student, tuple(paths))
    model.compile("sgd")
    wanted = model.evaluate(X, verbose=0, return_dict=True)
    model.save(tmp_path / "distiller.keras")
    restart(5)
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert loaded.evaluate(X, verbose=0, return_dict=True) == pytest.approx(wanted)


# Runs that go on


def train(directory, hints="middle", epochs=2):
    model = distiller(hints)
    for network, seed in ((model.teacher.models[0], 1), (model.student, 2)):
        rng = np.random.default_rng(seed)
        network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    options = {"hint_epochs": epochs, "kd_epochs": 0, "batch_size": 4, "verbose": 0}
    return kf.fit_stagewise(model, X, **options, checkpoint_dir=directory).hint.history


def test_a_run_goes_on_where_the_names_are_other_ones(tmp_path):
    restart()
    history = train(tmp_path)
    restart(3)
    assert train(tmp_path) == history


def test_a_run_of_other_layers_of_the_same_names_is_another_run(tmp_path):
    restart()
    # Teacher dense to dense_3, student dense_4 to dense_7.
    train(tmp_path, ("dense_2", "dense_6"))
    restart(1)
    with pytest.raises(ValueError, match="another run: its hints at position 0"):
        train(tmp_path, ("dense_2", "dense_6"))


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_compared_by_names(tmp_path, monkeypatch):
    from keras_fitnets.training import stagewise

    describe = stagewise._describe_run

    def describe_as_before(*args):
        found = describe(*args)
        del found["layers of the hints"]
        return found

    restart()
    monkeypatch.setattr(stagewise, "_describe_run", describe_as_before)
    history = train(tmp_path)
    monkeypatch.undo()
    restart()
    assert train(tmp_path) == history
    restart()
    with pytest.raises(ValueError, match="another run: its hints at position 0"):
        train(tmp_path, ("dense", "dense_5"))


# Caches


def cached(model, directory, **options):
    data = tf.data.Dataset.from_tensor_slices((X,)).batch(4)
    return kf.cache_teacher(model, data, directory, verbose=0, **options)


def with_weights(model):
    for network, seed in ((model.teacher.models[0], 1), (model.student, 2)):
        rng = np.random.default_rng(seed)
        network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    return model


def test_a_cache_is_read_where_the_names_are_other_ones(tmp_path):
    restart()
    first = with_weights(distiller())
    dataset = cached(first, tmp_path, hint_dtype="float32")
    restart(3)
    second = with_weights(distiller())
    assert second.hints != first.hints
    fresh = second.evaluate(X, verbose=0, return_dict=True)
    again = cached(second, tmp_path, hint_dtype="float32")
    for one in (dataset, again):
        logs = second.evaluate(one, verbose=0, return_dict=True)
        assert logs == pytest.approx(fresh, rel=1e-5)


def test_another_layer_of_the_same_name_is_not_read(tmp_path):
    restart()
    cached(with_weights(distiller(("dense_1", "dense_5"))), tmp_path)
    restart(1)
    other = with_weights(distiller(("dense_1", "dense_5")))
    with pytest.raises(ValueError, match=r"It has no 'hint dense_1 \(layer 1\)'"):
        cached(other, tmp_path)


PROGRAM = """
import sys
import keras
import keras_fitnets as kf
path, what, folder = sys.argv[1:]
sys.path.insert(0, folder)
from test_places import Net, X
if what == "save":
    model = kf.Distiller(Net(8), Net(4), hints="middle")
    model.compile("sgd")
    model.save(path)
else:
    keras.layers.Dense(1)
    model = keras.saving.load_model(path)
print(model.evaluate(X, verbose=0, return_dict=True)["hint_loss"])
"""


@pytest.mark.slow
def test_two_processes_find_the_same_layers(tmp_path):
    path, folder = tmp_path / "distiller.keras", Path(__file__).parent
    printed = []
    for what in ("save", "load"):
        ended = processes.run(["-c", PROGRAM, path, what, folder])
        assert ended.returncode == 0, ended.stderr
        printed.append(float(ended.stdout.splitlines()[-1]))
    assert printed[0] == pytest.approx(printed[1], rel=1e-5)
