"""Whatever is passed, there is a clear error or a model that works, nothing else."""

import math

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers

import keras_fitnets as kf

pytestmark = [
    # Hundreds of examples each.
    pytest.mark.slow,
    # Keras warns of a softmax over one channel, which may be a hint like any other.
    pytest.mark.filterwarnings("ignore:You are using a softmax"),
]


def search(examples):
    return hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        # A failure is small enough as it is found.
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


ODD = st.sampled_from(
    [
        *(None, True, False, "", "relu", "hidden", b"bytes", 0, -1, 7, 1e400),
        *(float("nan"), 2.5, 1j, (), [], [1], {}, {"a": 1}, object(), print, int),
        *(np.float32(2.0), np.int64(2), np.ones(1), np.ones(())),
    ]
)
NUMBER = st.one_of(st.floats(), st.integers(), st.floats(0.1, 10), ODD)
KIND = st.one_of(st.sampled_from(["auto", "conv", "dense"]), ODD)
FORMAT = st.one_of(st.sampled_from([None, "channels_last", "channels_first"]), ODD)
NAMED = [None, "relu", "softmax", "linear", "leaky_relu", "glu", "nonsense"]
ACTIVATION = st.one_of(st.sampled_from(NAMED), st.text(max_size=5), ODD)
PATH = st.one_of(st.text("ab/ ", max_size=5), ODD)


def usually(value, otherwise):
    """`value` nine times out of ten, for else little would ever be accepted."""
    return st.integers(0, 9).flatmap(lambda at: value if at else otherwise)


def made_or_told(make, *about):
    """What is made, or None after an error that says what it is about."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        message = str(error)
        assert any(word in message for word in about), message
        said = ("received", "of shape", "'teacher'", "'student'", "hint", "activation=")
        assert any(word in message for word in said), message
        assert message.rstrip().endswith((".", "?")) and len(message) > 50, message
        return None


HINT = {
    "hint_layer": PATH,
    "guided_layer": PATH,
    "weight": NUMBER,
    "regressor": usually(KIND, st.just(layers.Dense(3, name="own"))),
    "member": usually(st.integers(0, 3), ODD),
}


@search(200)
@hypothesis.given(arguments=st.fixed_dictionaries({}, optional=HINT))
def test_a_hint_is_rejected_or_comes_back_from_its_config(arguments):
    arguments = {"hint_layer": "a", "guided_layer": "a/b", **arguments}
    hint = made_or_told(
        lambda: kf.Hint(**arguments), *(f"`{name}`" for name in arguments)
    )
    if hint is not None:
        again = kf.Hint.from_config(hint.get_config())
        assert repr(again).split(", regressor")[0] == repr(hint).split(", regressor")[0]


SIZE = usually(st.integers(1, 5), st.one_of(st.none(), ODD))
SHAPE = usually(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    st.one_of(st.lists(SIZE, max_size=5).map(tuple), ODD),
)
REGRESSOR = {
    "kind": usually(KIND, ODD),
    "activation": ACTIVATION,
    "pieces": st.one_of(st.none(), st.integers(-1, 3), ODD),
    "data_format": FORMAT,
    "target_data_format": FORMAT,
}


@search(150)
@hypothesis.given(
    target=SHAPE,
    guided=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    options=st.fixed_dictionaries({}, optional=REGRESSOR),
)
def test_a_regressor_is_rejected_or_gives_the_target_shape(target, guided, options):
    def build():
        regressor = kf.HintRegressor(target, **options)
        return regressor, regressor(np.ones((2, *guided), "float32"))

    about = ("`target_shape`", f"{guided}", *(f"`{name}`" for name in options))
    built = made_or_told(build, *about, "pieces=")
    if built is not None:
        regressor, outputs = built
        assert tuple(outputs.shape) == (2, *target)
        assert regressor.compute_output_shape((2, *guided)) == (2, *target)
        assert np.all(np.isfinite(outputs))
        again = kf.HintRegressor.from_config(regressor.get_config())
        assert tuple(again(np.ones((2, *guided), "float32")).shape) == (2, *target)


@search(100)
@hypothesis.given(
    pieces=usually(st.integers(1, 3), ODD),
    axis=usually(st.integers(-3, 3), ODD),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
)
def test_maxout_is_rejected_or_divides_the_channels(pieces, axis, shape):
    def build():
        return kf.Maxout(pieces, axis)(np.ones((2, *shape), "float32"))

    outputs = made_or_told(build, "`pieces`", "`axis`")
    if outputs is not None:
        assert math.prod(outputs.shape) * pieces == 2 * math.prod(shape)


INPUTS = {"dense": (4,), "conv": (6, 6, 1)}


def described(kind):
    """What a network is to be made of; drawn, since Keras itself draws numbers."""
    layer = st.tuples(
        st.sampled_from(["dense", "conv", "maxout"]),
        st.integers(1, 4),
        st.sampled_from(["relu", "tanh", "linear", "softmax"]),
    )
    ends = st.sampled_from(["sigmoid", "relu"])
    return st.tuples(
        usually(st.just(kind), st.sampled_from(list(INPUTS))),
        st.lists(layer, min_size=1, max_size=3),
        usually(st.just(3), st.sampled_from([1, 2])),
        usually(st.just("softmax"), st.one_of(st.none(), ends)),
    )


def network(name, description):
    """A small stack of layers "a", "b" and "c", "flat" and "out"."""
    kind, stack, units, end = description
    x = inputs = keras.Input(INPUTS[kind])
    for layer, (made, width, activation) in zip("abc", stack, strict=False):
        if made == "maxout" and x.shape[-1] % 2 == 0:
            x = kf.Maxout(2, name=layer)(x)
        elif made == "conv" and len(x.shape) == 4:
            x = layers.Conv2D(width, 2, activation=activation, name=layer)(x)
        else:
            x = layers.Dense(width, activation, name=layer)(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(units, end, name="out")(x), name=name)


LAYER = usually(
    st.sampled_from("aaab"), st.sampled_from(["flat", "out", "", "a/b", "zzz"])
)
PAIR = st.tuples(LAYER, LAYER)


HINTS = usually(
    st.one_of(PAIR, st.lists(PAIR, min_size=1, max_size=2), st.just("middle")),
    st.one_of(ODD, st.lists(ODD, max_size=2)),
)


DISTILLER = {
    "temperature": st.floats(0.1, 20),
    "lambda_": st.floats(0, 20),
    "stage": st.sampled_from(["kd", "joint", "hint", None]),
    "hint_weight": st.floats(0, 20),
    "activation": st.just("auto"),
    "from_logits": st.just("auto"),
    "temperature_squared": st.booleans(),
    "learning_rate_factor": st.floats(0, 2),
}
# One at a time, or the first of them would hide the others.
SPOILT = st.tuples(st.sampled_from(list(DISTILLER)), NUMBER)
ABOUT = [f"`{name}`" for name in ("hints", *HINT, *DISTILLER)]
ABOUT += ["network '", "Network '", "etworks", "student", "outputs", "hidden layers"]
ABOUT += ["activation="]


KINDS = st.sampled_from(list(INPUTS))


@search(60)
@hypothesis.given(
    pair=KINDS.flatmap(lambda kind: st.tuples(described(kind), described(kind))),
    hints=HINTS,
    regressor=usually(st.just("auto"), KIND),
    options=st.fixed_dictionaries({}, optional=DISTILLER),
    spoilt=st.one_of(st.none(), SPOILT),
)
def test_a_distiller_is_rejected_or_trains(pair, hints, regressor, options, spoilt):
    options = options | dict([spoilt] if spoilt else [])
    teacher, student = network("teacher", pair[0]), network("student", pair[1])

    def build():
        own = isinstance(hints, tuple) and hints and regressor is not None
        given = kf.Hint(*hints, regressor=regressor) if own else hints
        return kf.Distiller(teacher, student, given, **options)

    distiller = made_or_told(build, *ABOUT)
    if distiller is not None:
        distiller.compile(keras.optimizers.SGD(1e-6), run_eagerly=True)
        x = np.random.default_rng(0).normal(size=(2, *student.input_shape[1:]))
        x = x.astype("float32")

        def train():
            return distiller.train_on_batch(x, return_dict=True)

        # Without a loss nothing tells whether one unit is a class or a number.
        logs = made_or_told(train, "Pass `activation` to the Distiller")
        if logs is not None:
            assert logs and all(math.isfinite(value) for value in logs.values()), logs
