"""How a network's outputs, non-linearities and data formats are read off it."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_fitnets as kf
from keras_fitnets.distillation.output_specs import OutputMatcher
from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph

LOGITS = ("softmax", True)
SOFTMAX = ("softmax", False)
SIGMOID = ("sigmoid", False)
UNIT_LOGIT = ("sigmoid", True)
# One logit may be of a class or a number of a regression: the label loss tells.
NUMBER = ("auto", True)


def chain(*steps, shape=(4,), name=None):
    return keras.Sequential([keras.Input(shape), *steps], name=name)


def functional(*steps, shape=(4,)):
    """A Functional network of layers and functions."""
    inputs = x = keras.Input(shape)
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def dense(units=3, activation=None):
    return layers.Dense(units, activation)


def read(network, from_logits="auto", activation="auto"):
    """How a network, as teacher and as student, is read: activation and logits."""
    [output_pair] = OutputMatcher(
        *([network], network, graph.get_inputs(network)),
        *(activation, from_logits, from_logits),
    ).pair(is_compiled=True)
    assert output_pair.members == (output_pair.student,)
    assert output_pair.activation == output_pair.student.activation
    return tuple(output_pair.student)


def mixed_precision_end():
    return chain(
        layers.Dense(3, "softmax", dtype="mixed_float16"),
        layers.Activation("linear", dtype="float32"),
    )


def two_branches(merge):
    inputs = keras.Input((4,))
    branches = [dense(3, "softmax")(inputs) for _ in range(2)]
    return keras.Model(inputs, merge(branches))


class Subclassed(keras.Model):
    """A network that shows no graph."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.out = layers.Dense(3, "softmax")
        self.build((None, 4))

    def build(self, input_shape):
        self.out.build(input_shape)

    def call(self, inputs):
        return self.out(inputs)


def resized(layer, activation=None):
    """As the networks that segment images end."""
    conv = layers.Conv2D(3, 1, activation=activation)
    return chain(conv, layer, shape=(4, 4, 1))


ENDS = {
    "dense softmax": (lambda: chain(dense(3, "softmax")), SOFTMAX),
    "softmax layer": (lambda: chain(dense(), layers.Softmax()), SOFTMAX),
    "activation layer": (lambda: chain(dense(), layers.Activation("softmax")), SOFTMAX),
    "operation": (lambda: functional(dense(), ops.softmax), SOFTMAX),
    "operation as activation": (lambda: chain(dense(3, ops.softmax)), SOFTMAX),
    "convolution": (
        lambda: chain(layers.Conv1D(3, 1, activation="softmax"), shape=(4, 2)),
        SOFTMAX,
    ),
    "nested sequential": (
        lambda: functional(dense(), chain(dense(3, "softmax"), shape=(3,))),
        SOFTMAX,
    ),
    "nested functional": (
        lambda: chain(dense(), functional(dense(3, "sigmoid"), shape=(3,))),
        SIGMOID,
    ),
    "nested, more behind": (
        lambda: chain(chain(dense(3, "softmax")), layers.Activation("linear")),
        SOFTMAX,
    ),
    "mixed precision": (mixed_precision_end, SOFTMAX),
    "linear behind logits": (
        lambda: chain(dense(), layers.Activation("linear")),
        LOGITS,
    ),
    "one sigmoid unit": (lambda: chain(dense(1, "sigmoid")), SIGMOID),
    "sigmoid units": (lambda: chain(dense(3, "sigmoid")), SIGMOID),
    "sigmoid operation": (lambda: functional(dense(), ops.sigmoid), SIGMOID),
    "one logit": (lambda: chain(dense(1)), NUMBER),
    "logits": (lambda: chain(dense()), LOGITS),
    "normalised logits": (lambda: chain(dense(), layers.BatchNormalization()), LOGITS),
    "pooled logits": (
        lambda: chain(
            layers.Conv2D(3, 1), layers.GlobalAveragePooling2D(), shape=(4, 4, 1)
        ),
        LOGITS,
    ),
    "resized logits": (lambda: resized(layers.Resizing(8, 8)), LOGITS),
    "resized logits, cubic": (
        lambda: resized(layers.Resizing(8, 8, interpolation="bicubic")),
        LOGITS,
    ),
    "upsampled probabilities": (
        lambda: resized(layers.UpSampling2D(2, interpolation="bilinear"), "softmax"),
        SOFTMAX,
    ),
    "embedding": (lambda: chain(layers.Embedding(5, 3)), LOGITS),
    "log softmax": (lambda: chain(dense(3, "log_softmax")), LOGITS),
    "log softmax operation": (lambda: functional(dense(), ops.log_softmax), LOGITS),
    "flatten": (
        lambda: chain(
            layers.Conv2D(3, 4, activation="softmax"), layers.Flatten(), shape=(4, 4, 1)
        ),
        SOFTMAX,
    ),
    "reshape": (
        lambda: chain(dense(3, "softmax"), layers.Reshape((1, 3))),
        SOFTMAX,
    ),
    "dropout": (lambda: chain(dense(3, "sigmoid"), layers.Dropout(0.5)), SIGMOID),
    "identity": (lambda: chain(dense(3, "softmax"), layers.Identity()), SOFTMAX),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_end_of_a_network_tells_what_its_outputs_are(case):
    build, expected = ENDS[case]
    assert read(build()) == expected


def sharpened_softmax(x):
    return ops.softmax(2 * x)


def softmax_of_pairs():
    """Two distributions over three classes each, laid side by side."""
    return [dense(6), layers.Reshape((2, 3)), layers.Softmax(), layers.Flatten()]


# No name at the end of these says what they return; None: it has to be said.
HIDDEN = {
    "lambda": (lambda: chain(dense(), layers.Lambda(ops.softmax)), None),
    "relu": (lambda: chain(dense(3, "relu")), None),
    "relu layer": (lambda: chain(dense(), layers.ReLU()), None),
    "relu operation": (lambda: functional(dense(), ops.relu), None),
    "exponential operation": (lambda: functional(dense(), ops.exp), None),
    "tanh": (lambda: chain(dense(3, "tanh")), None),
    "own function": (lambda: chain(dense(3, sharpened_softmax)), None),
    "own lambda": (lambda: chain(dense(3, lambda x: ops.softmax(2 * x))), None),
    "softmax over space": (
        lambda: chain(layers.Dense(3), layers.Softmax(axis=1), shape=(4, 2)),
        None,
    ),
    "softmax operation over space": (
        lambda: functional(
            layers.Dense(3), lambda x: ops.softmax(x, axis=1), shape=(4, 2)
        ),
        None,
    ),
    "several distributions": (lambda: chain(*softmax_of_pairs()), None),
    "moved classes": (
        lambda: chain(dense(3, "softmax"), layers.Permute((2, 1)), shape=(4, 4)),
        None,
    ),
    "softmax wrapped": (
        lambda: chain(layers.TimeDistributed(dense(3, "softmax")), shape=(4, 2)),
        SOFTMAX,
    ),
    "averaged probabilities": (lambda: two_branches(layers.average), SOFTMAX),
    "pooled probabilities": (
        lambda: chain(
            layers.Conv2D(3, 1, activation="softmax"),
            layers.GlobalAveragePooling2D(),
            shape=(4, 4, 1),
        ),
        SOFTMAX,
    ),
    "probabilities out of their range": (
        lambda: resized(layers.Resizing(8, 8, interpolation="bicubic"), "softmax"),
        None,
    ),
    "scaled logits": (lambda: functional(dense(), lambda x: x / 2.0), LOGITS),
    "subclassed": (Subclassed, None),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_outputs_that_show_no_activation_are_asked_for_rather_than_guessed(case):
    build, right = HIDDEN[case]
    network = build()
    try:
        assert read(network) == right
    except ValueError as error:
        assert network.name in str(error)
        assert "`from_logits=True`" in str(error)


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_from_logits_of_a_subclassed_network_holds(from_logits):
    assert read(Subclassed(), from_logits) == ("softmax", from_logits)
    assert read(Subclassed(), from_logits, "sigmoid") == ("sigmoid", from_logits)


def test_teacher_and_student_are_each_read_in_their_own_way():
    student, teachers = chain(dense()), [chain(dense(3, "softmax")), chain(dense())]
    [output_pair] = OutputMatcher(
        *(teachers, student, graph.get_inputs(student)), "auto", "auto", "auto"
    ).pair()
    assert tuple(output_pair.student) == LOGITS
    assert [tuple(member) for member in output_pair.members] == [SOFTMAX, LOGITS]


def test_several_outputs_are_read_one_by_one():
    inputs = keras.Input((4,))
    outputs = {
        "both": layers.Softmax()(dense()(inputs)),
        "kind": dense(3)(inputs),
        "left": dense(2)(inputs),
        "tags": dense(5, "sigmoid")(inputs),
    }
    network = keras.Model(inputs, outputs)
    wanted = {"both": "auto", "kind": "sigmoid", "left": None, "tags": "auto"}
    matcher = OutputMatcher([network], network, inputs, wanted, "auto", "auto")
    output_pairs = matcher.pair()
    read = [output_pair and tuple(output_pair.student) for output_pair in output_pairs]
    assert read == [SOFTMAX, UNIT_LOGIT, None, SIGMOID]
    assert activations.output_activations(network) == [
        *("softmax", "linear", "linear", "sigmoid")
    ]


IMAGE = (8, 8, 8)


def conv(activation=None, **options):
    return layers.Conv2D(4, 3, activation=activation, **options)


NONLINEARITIES = {
    "dense relu": ([dense(4, "relu")], keras.activations.relu),
    "relu layer": ([dense(4), layers.ReLU()], keras.activations.relu),
    "relu activation": ([dense(4), layers.Activation("relu")], keras.activations.relu),
    "tanh": ([dense(4, "tanh")], keras.activations.tanh),
    "sigmoid": ([dense(4, "sigmoid")], keras.activations.sigmoid),
    "sigmoid layer": (
        [dense(4), layers.Activation("sigmoid")],
        keras.activations.sigmoid,
    ),
    "linear": ([dense(4)], keras.activations.linear),
    "convolution": ([conv("relu")], keras.activations.relu),
    "maxout": ([dense(6), kf.Maxout(3)], 3),
    "maxout, pooled": (
        [conv(), kf.Maxout(2), layers.MaxPooling2D()],
        2,
    ),
    "pooling behind relu": (
        [conv("relu"), layers.MaxPooling2D()],
        keras.activations.relu,
    ),
    "flat dropout behind tanh": (
        [conv("tanh"), layers.Dropout(0.5), layers.Flatten()],
        keras.activations.tanh,
    ),
    "linear activation behind relu": (
        [dense(4, "relu"), layers.Activation("linear")],
        keras.activations.relu,
    ),
    "normalised relu": (
        [dense(4, "relu"), layers.BatchNormalization()],
        keras.activations.linear,
    ),
    "bounded relu": ([dense(4), layers.ReLU(2.0)], layers.ReLU(2.0)),
    "leaky relu": ([dense(4), layers.LeakyReLU(0.1)], layers.LeakyReLU(0.1)),
    "relu of normalised": (
        [dense(4), layers.BatchNormalization(), layers.ReLU()],
        keras.activations.relu,
    ),
}


def fresh(steps):
    """Copies, since a layer of the table has a place in one network only."""
    return [type(step).from_config(step.get_config()) for step in steps]


def with_last(steps, build=chain):
    """A network of the steps and an output, and the name of the last step."""
    shape = IMAGE if "conv" in steps[0].name else (4,)
    network = build(*steps, layers.Flatten(), dense(2), shape=shape)
    return network, steps[-1].name


def assert_nonlinearity(network, path, expected):
    """What a regressor gets for a hint layer: pieces, or a function by its values."""
    found = activations.nonlinearity(network, path)
    if isinstance(expected, int):
        assert found == {"pieces": expected}
        return
    function = kf.HintRegressor((4,), **found).activation
    probe = np.array([[-3.0, -0.5, 0.5, 3.0]], "float32")
    np.testing.assert_array_equal(function(probe), expected(probe))


@pytest.mark.parametrize("build", [chain, functional])
@pytest.mark.parametrize("case", NONLINEARITIES)
def test_the_nonlinearity_of_a_hint_is_seen(case, build):
    steps, expected = NONLINEARITIES[case]
    assert_nonlinearity(*with_last(fresh(steps), build), expected)


@pytest.mark.parametrize("path", ["inner", "inner/pool", "inner/deeper/act"])
def test_the_nonlinearity_is_seen_in_nested_networks(path):
    deeper = chain(conv(), layers.ReLU(name="act"), shape=IMAGE, name="deeper")
    inner = chain(deeper, layers.MaxPooling2D(name="pool"), shape=IMAGE, name="inner")
    outer = chain(inner, layers.Flatten(), dense(), shape=IMAGE)
    assert_nonlinearity(outer, path, keras.activations.relu)


FIRST = {"data_format": "channels_first"}
FORMATS = {
    "convolution": [conv(**FIRST)],
    "normalised": [conv(**FIRST), layers.BatchNormalization(axis=1)],
    "activated": [conv(**FIRST), layers.ReLU()],
    "pooled": [conv(**FIRST), layers.MaxPooling2D(data_format="channels_first")],
    "dropped": [conv(**FIRST), layers.Dropout(0.5)],
}


@pytest.mark.parametrize("build", [chain, functional])
@pytest.mark.parametrize("case", FORMATS)
def test_the_data_format_is_that_of_the_layers_in_front(case, build):
    network, last = with_last(fresh(FORMATS[case]), build)
    assert activations.data_format(network, last) == "channels_first"


@pytest.mark.parametrize("steps", [[conv()], [dense(4, "relu")]])
def test_the_data_format_is_keras_own_where_nothing_says_otherwise(steps):
    assert activations.data_format(*with_last(fresh(steps))) == "channels_last"


def test_the_data_format_is_seen_in_nested_networks():
    inner = chain(conv(**FIRST), layers.ReLU(name="act"), shape=IMAGE, name="inner")
    outer = chain(inner, layers.Flatten(), dense(), shape=IMAGE)
    for path in ("inner", "inner/act"):
        assert activations.data_format(outer, path) == "channels_first"
