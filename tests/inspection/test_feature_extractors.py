"""Features are those of the network itself, and cost no more than they must."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

from keras_fitnets.inspection import graph
from keras_fitnets.inspection.feature_extractors import create_feature_extractor

BUILDS = {
    "sequential": (networks.sequential, "conv1", "norm2"),
    "functional": (networks.functional, "conv1", "norm2"),
    "nested": (networks.nested, "backbone/conv1", "backbone/norm2"),
    "nested layer": (
        lambda: networks.nested(backbone=None),
        "backbone/stem",
        "backbone/norm2",
    ),
    "subclassed": (networks.Subclassed, "backbone/stem", "backbone/norm2"),
}


def reach(network, *paths, shape=networks.SHAPE):
    inputs = keras.KerasTensor((None, *shape))
    return create_feature_extractor(network, paths, inputs)


@pytest.mark.parametrize("build", BUILDS)
def test_features_and_outputs_are_the_networks_own(build):
    make, first, last = BUILDS[build]
    network, (x, _) = make(), networks.batch()
    found = reach(network, last, first, last)
    assert found.shapes == [(4, 4, 4), (6, 6, 4), (4, 4, 4)]
    outputs, (late, early, again) = found.outputs_and_features(x, False)
    conv = graph.find_layer(network, first)
    expected = keras.ops.relu(keras.ops.conv(x, conv.kernel) + conv.bias)
    np.testing.assert_array_equal(late, again)
    np.testing.assert_array_equal(outputs, network(x, training=False))
    np.testing.assert_allclose(early, expected, rtol=1e-5, atol=1e-6)
    for wanted, tensors in {(1,): [early], (1, 0): [early, late]}.items():
        for one, other in zip(found.extract(x, False, wanted), tensors, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("build", BUILDS)
def test_upto_runs_and_trains_nothing_above(build):
    make, first, last = BUILDS[build]
    network, (x, _) = make(), networks.batch()
    found = reach(network, first, last)
    for wanted, layers in {
        (0,): {"conv1"},
        (1,): {"conv1", "norm1", "conv2", "norm2"},
    }.items():
        trained = {v.path.split("/")[-2] for v in found.trainable_variables(wanted)}
        assert trained == layers
        before = networks.numpy_variables(network)
        tf.function(lambda x, wanted=wanted: found.extract(x, True, wanted))(x)
        moved = networks.changed(before, networks.numpy_variables(network))
        assert moved == {layer for layer in layers if "norm" in layer}


@pytest.mark.parametrize("build", BUILDS)
def test_penalties_upto_a_layer_are_those_below_it(build):
    make, first, last = BUILDS[build]
    network, (x, _) = make(), networks.batch()
    lowest = graph.find_layer(network, first)
    penalties = {first: 0.5, last.replace("norm2", "conv2"): 0.25}
    for path, factor in penalties.items():
        layer = graph.find_layer(network, path)
        layer.kernel.regularizer = keras.regularizers.L2(factor)
    found = reach(network, first, last)
    found.extract(x, True, [0])
    expected = 0.5 * np.sum(lowest.kernel.numpy() ** 2)
    np.testing.assert_allclose(sum(found.losses([0])), expected, rtol=1e-5)
    found.extract(x, True, [1])
    assert len(found.losses([1])) == 2


def test_two_networks_in_a_row_are_each_run_once():
    inputs = keras.Input(networks.SHAPE)
    first = keras.Sequential(
        [keras.Input(networks.SHAPE), *networks.block(2)], name="one"
    )
    second = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(2, 1, name="c"), *networks.head()],
        name="two",
    )
    network = keras.Model(inputs, second(first(inputs)))
    x, _ = networks.batch()
    found = reach(network, "one/norm1", "two/c")
    before = networks.numpy_variables(network)
    found.extract(x, True, [0, 1])
    momentum = first.get_layer("norm1").momentum
    mean = first.get_layer("norm1").moving_mean.numpy()
    conv = keras.ops.convert_to_numpy(first.get_layer("conv1")(x))
    np.testing.assert_allclose(
        mean, (1 - momentum) * conv.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    after = networks.numpy_variables(network)
    assert networks.changed(before, after) == {"norm1", "norm2"}


def test_layers_inside_and_outside_may_have_one_name():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="same")], name="inner"
    )
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(2, name="same")(inner(inputs)))
    found = reach(network, "inner/same", shape=(4,))
    x = np.ones((2, 4), "float32")
    outputs, (features,) = found.outputs_and_features(x, False)
    np.testing.assert_array_equal(features, inner(x))
    np.testing.assert_array_equal(outputs, network(x))
    assert [v.path for v in found.trainable_variables([0])] == [
        v.path for v in inner.trainable_variables
    ]


def test_several_inputs_and_outputs_keep_their_structure():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    hidden = keras.layers.Dense(5, name="hidden")(left)
    both = keras.layers.Concatenate()([hidden, right])
    outputs = {
        "b": keras.layers.Dense(2, name="b")(both),
        "a": keras.layers.Dense(3, name="a")(both),
    }
    network = keras.Model({"left": left, "right": right}, outputs)
    x = {"left": np.ones((2, 4)), "right": np.zeros((2, 4))}
    found = reach(network, "hidden")
    outputs, (tensor,) = found.outputs_and_features(x, False)
    assert {name: out.shape for name, out in outputs.items()} == {
        "a": (2, 3),
        "b": (2, 2),
    }
    np.testing.assert_array_equal(outputs["a"], network(x)["a"])
    np.testing.assert_array_equal(found.extract(x, False, [0])[0], tensor)


def test_the_network_itself_still_works_as_before():
    network = networks.nested()
    output = network.get_layer("backbone").output
    config, weights = network.get_config(), len(network.weights)
    reach(network, "backbone/norm1")
    assert network.get_layer("backbone").output is output
    assert network.get_config() == config
    assert len(network.weights) == weights
    assert keras.models.clone_model(network).count_params() == network.count_params()


def test_a_listened_network_is_left_as_it_was():
    network = networks.Subclassed()
    found = reach(network, "backbone/stem")
    x, _ = networks.batch()
    found.outputs_and_features(x, False), found.extract(x, False, [0])
    assert all("call" not in vars(layer) for layer in network._flatten_layers())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("conv9", "no layer 'conv9'.*Did you mean 'conv[12]'"),
        ("backbone/conv9", "no layer 'backbone/conv9'"),
        ("conv1/inner", "has no layer 'inner'.*It has: none"),
        ("shared", "run 2 times"),
        ("three", "must give one tensor of floats"),
    ],
)
def test_layers_that_cannot_be_hints(path, message):
    inputs = keras.Input(networks.SHAPE)
    shared = keras.layers.Conv2D(1, 3, padding="same", name="shared")
    x = shared(shared(inputs))
    x = networks.block(2)[0](x)
    x = keras.layers.Reshape((-1, 2))(x)
    x, *_ = keras.layers.LSTM(2, return_state=True, name="three")(x)
    outputs = networks.head()[1](x)
    network = keras.Model(inputs, outputs)
    if path.startswith("backbone"):
        network = networks.nested()
    with pytest.raises(ValueError, match=message):
        reach(network, path)


def test_a_network_without_known_inputs_is_refused():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.tail = networks.head()

    with pytest.raises(ValueError, match="Call it on a batch first"):
        create_feature_extractor(Lazy(), ["flat"], None)


@pytest.mark.parametrize("middle", ["norm1", "conv2"])
def test_middle_of_a_network(middle):
    layers = networks.block(2)
    if middle == "conv2":
        layers = [*layers[:3], keras.layers.Conv2D(2, 1, name="conv3")]
    network = keras.Sequential([keras.Input(networks.SHAPE), *layers, *networks.head()])
    assert graph.find_middle_layer(network) == middle
    outer = networks.nested()
    assert graph.find_middle_layer(outer) == "backbone/norm1"


def heads(width=4, count=5, depth=1, aside=()):
    """A trunk "h1", "h2", and some heads of some layers each."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(width, "relu", name="h1")(inputs)
    x = keras.layers.Dense(width, "relu", name="h2")(x)
    outputs = []
    for k in range(count):
        end = x
        for d in range(depth):
            end = keras.layers.Dense(3, name=f"o{k}_{d}")(end)
        outputs.append(end)
    return keras.Model(inputs, [*outputs, *(x for _ in aside)])


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("count", [2, 5])
def test_the_layers_of_heads_are_not_hidden(count, depth):
    assert graph.find_middle_layer(heads(count=count, depth=depth)) == "h1"


def test_embeddings_and_layers_run_twice_are_not_hidden():
    """The middle of a language model whose end is its embedding, transposed."""
    vocabulary = keras.layers.Embedding(7, 7, name="vocabulary")
    positions = keras.layers.Embedding(5, 7, name="positions")
    shared = keras.layers.Dense(7, name="shared")
    inputs = [keras.Input((5,), dtype="int32") for _ in range(2)]
    x = vocabulary(inputs[0]) + positions(inputs[1])
    x = keras.layers.Dense(7, name="block")(shared(x))
    ids = keras.ops.argmax(shared(x), axis=-1)
    network = keras.Model(inputs, vocabulary(ids))
    assert graph.find_middle_layer(network) == "block"


def test_the_middle_of_a_nested_trunk_with_heads():
    trunk = heads(count=2)
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2)(one) for one in trunk(inputs)]
    network = keras.Model(inputs, outputs)
    assert graph.find_middle_layer(network) == f"{trunk.name}/h1"


def test_features_beside_the_output_are_no_second_head():
    inputs = keras.Input(networks.SHAPE)
    features = keras.Sequential(
        [keras.Input(networks.SHAPE), *networks.block(2)], name="trunk"
    )(inputs)
    flat, out = networks.head()
    network = keras.Model(inputs, {"f": features, "out": out(flat(features))})
    assert graph.find_middle_layer(network) == "trunk/norm1"


def test_outputs_without_a_common_layer_have_no_middle():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2)(keras.layers.Dense(3)(inputs)) for _ in range(2)]
    with pytest.raises(ValueError, match="2 output.s.. Name the layers"):
        graph.find_middle_layer(keras.Model(inputs, outputs))


class Listed(keras.Model):
    """Layers of one name, in lists and in a dictionary."""

    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(3, name="same") for _ in range(2)]
        self.stages = [[keras.layers.Dense(4, name="same")]]
        self.ends = {"classes": keras.layers.Dense(2, name="same")}
        self(np.zeros((1, 4)))

    def call(self, x):
        for block in [*self.blocks, *self.stages[0]]:
            x = block(x)
        return self.ends["classes"](x)


def test_layers_in_lists_have_paths():
    network = Listed()
    x = np.ones((2, 4), "float32")
    paths = {
        "blocks/0": network.blocks[0],
        "blocks/1": network.blocks[1],
        "stages/0/0": network.stages[0][0],
        "ends/classes": network.ends["classes"],
    }
    for path, layer in paths.items():
        assert graph.find_layer(network, path) is layer
    found = create_feature_extractor(network, list(paths), keras.KerasTensor((None, 4)))
    outputs, features = found.outputs_and_features(x, False)
    np.testing.assert_array_equal(features[0], network.blocks[0](x))
    np.testing.assert_array_equal(features[3], outputs)
    with pytest.raises(ValueError, match="several of the name 'same'.*blocks/0"):
        graph.find_layer(network, "same")
    with pytest.raises(ValueError, match="has no layer 'blocks'"):
        graph.find_layer(network, "blocks/2")


def test_layers_in_lists_of_nested_networks_have_paths():
    inputs = keras.Input((4,))
    inner = Listed()
    network = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    path = f"{inner.name}/blocks/1"
    assert graph.find_layer(network, path) is inner.blocks[1]
    with pytest.raises(ValueError, match="has no layer 'x'"):
        graph.find_layer(network, path + "/x")


def test_paths_in_lists_leave_the_order_of_layers_as_it_was():
    network = networks.Subclassed()
    names = [layer.name for layer in graph.get_descendants(network)]
    assert names == ["conv1", "norm1", "conv2", "norm2", "backbone", "flat", "out"]


def test_middle_needs_a_graph_with_hidden_layers():
    with pytest.raises(ValueError, match="Name the layers"):
        graph.find_middle_layer(networks.Subclassed())
    flat = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="1 layer.s. with a kernel"):
        graph.find_middle_layer(flat)
