"""Maxout and HintRegressor: every pair of shapes, and values against NumPy."""

import functools
import math

import derivatives
import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import reference

import keras_fitnets as kf

SHAPE_OPTIONS = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomised(layer, guided_shape):
    """The layer, built, with weights (and biases) that are not zero."""
    layer.build((None, *guided_shape))
    layer.set_weights(
        [normal(*weight.shape, seed=i) for i, weight in enumerate(layer.weights)]
    )
    return layer


def kernels(layer):
    return [weight for weight in layer.weights if len(weight.shape) > 1]


def count(layer):
    """Weights without biases, as the paper counts them."""
    return sum(math.prod(weight.shape) for weight in kernels(layer))


def saved_and_loaded(layer, input_shape, tmp_path):
    inputs = keras.Input(input_shape)
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    return model, keras.models.load_model(tmp_path / "model.keras")


# Maxout


@pytest.mark.parametrize("pieces", range(1, 6))
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 60), -1),
        ((3, 60), 1),
        ((2, 4, 60), -1),
        ((2, 60, 4), 1),
        ((2, 3, 60, 2), -2),
        ((2, 60, 3, 2), 1),
    ],
)
def test_maxout_is_the_maximum_of_contiguous_blocks(shape, axis, pieces):
    inputs = normal(*shape)
    layer = kf.Maxout(pieces, axis=axis)
    expected = reference.maxout(inputs, pieces, axis)
    np.testing.assert_array_equal(layer(inputs), expected.astype("float32"))
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *expected.shape[1:])
    assert layer(keras.Input(shape[1:])).shape == (None, *expected.shape[1:])
    assert not layer.weights


def test_maxout_defaults_to_two_pieces_of_the_last_axis():
    inputs = normal(2, 3, 4)
    np.testing.assert_array_equal(
        kf.Maxout()(inputs), np.maximum(inputs[..., :2], inputs[..., 2:])
    )


def test_the_gradient_of_maxout_goes_to_the_winning_piece():
    inputs = np.float32([[1.0, 5.0, 3.0, 4.0, 2.0, -6.0]])
    factors = np.float32([[10.0, 20.0]])
    [gradient] = derivatives.gradients(
        lambda x: keras.ops.multiply(kf.Maxout(3)(x), factors), [inputs]
    )
    np.testing.assert_array_equal(gradient, [[0.0, 20.0, 10.0, 0.0, 0.0, 0.0]])


def test_maxout_of_unknown_dimensions():
    assert kf.Maxout(3)(keras.Input((None, 6))).shape == (None, None, 2)


def test_maxout_keeps_the_dtype():
    assert (
        keras.backend.standardize_dtype(kf.Maxout(dtype="float16")(normal(2, 4)).dtype)
        == "float16"
    )


def test_maxout_is_saved_and_loaded(tmp_path):
    model, again = saved_and_loaded(kf.Maxout(3, axis=1, name="m"), (6, 2), tmp_path)
    assert (again.get_layer("m").pieces, again.get_layer("m").axis) == (3, 1)
    np.testing.assert_array_equal(again(normal(2, 6, 2)), model(normal(2, 6, 2)))


def test_maxout_keeps_the_mask():
    steps = keras.layers.Masking()(np.ones((2, 3, 4), "float32"))
    np.testing.assert_array_equal(kf.Maxout()(steps)._keras_mask, np.ones((2, 3)))


@pytest.mark.parametrize("axis", [0, True, 1.5, "last", None])
def test_an_axis_that_is_no_integer_or_the_batch_raises(axis):
    with pytest.raises(ValueError, match=f"`axis`.*received {axis!r}"):
        kf.Maxout(axis=axis)


@pytest.mark.parametrize("axis", [3, 4, -3, -4])
def test_an_axis_that_the_input_does_not_have_raises(axis):
    with pytest.raises(ValueError, match=f"`axis` .*received axis={axis} "):
        kf.Maxout(axis=axis).build((4, 4, 4))


@pytest.mark.parametrize("pieces", [0, -1, 1.5, "two", None])
def test_a_number_of_pieces_that_is_no_positive_integer_raises(pieces):
    with pytest.raises(ValueError, match="`pieces`.*The paper uses 2"):
        kf.Maxout(pieces)
    if pieces is not None:  # no pieces: not a maxout regressor
        with pytest.raises(ValueError, match="`pieces`.*The paper uses 2"):
            kf.HintRegressor((4,), pieces=pieces)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 7), -1), ((2, 7, 4), 1), ((2, 4, 2), -1)]
)
def test_channels_that_do_not_divide_into_the_pieces_raise(shape, axis):
    with pytest.raises(ValueError, match=r"pieces.*3|3.*pieces"):
        kf.Maxout(3, axis=axis)(normal(*shape))


# HintRegressor: shapes


@st.composite
def convolutional_pairs(draw, relations=("smaller", "equal", "larger")):
    """Data format, guided shape, hint shape, and the weights the paper counts."""
    rank = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    steps = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    related = draw(st.lists(st.sampled_from(relations), min_size=rank, max_size=rank))
    guided = [
        n + d * (relation == "smaller")
        for n, d, relation in zip(sizes, steps, related, strict=True)
    ]
    hint = [
        n + d * (relation == "larger")
        for n, d, relation in zip(sizes, steps, related, strict=True)
    ]
    channels = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    data_format = draw(st.sampled_from(["channels_last", "channels_first"]))
    shapes = [
        (*size, c) if data_format == "channels_last" else (c, *size)
        for size, c in zip((guided, hint), channels, strict=True)
    ]
    kernel = [abs(g - h) + 1 for g, h in zip(guided, hint, strict=True)]
    return data_format, *shapes, math.prod(kernel) * math.prod(channels)


def check_shapes(layer, guided, hint):
    layer.build((None, *guided))
    assert layer.compute_output_shape((None, *guided)) == (None, *hint)
    assert layer(normal(2, *guided)).shape == (2, *hint)


@pytest.mark.slow
@SHAPE_OPTIONS
@hypothesis.given(convolutional_pairs())
def test_any_pair_of_convolutional_shapes_meets(pair):
    data_format, guided, hint, _ = pair
    check_shapes(kf.HintRegressor(hint, data_format=data_format), guided, hint)


@pytest.mark.slow
@SHAPE_OPTIONS
@hypothesis.given(
    st.one_of(
        convolutional_pairs(("smaller", "equal")),
        convolutional_pairs(("larger", "equal")),
    )
)
def test_a_convolution_has_the_weights_the_paper_counts(pair):
    data_format, guided, hint, weights = pair
    layer = kf.HintRegressor(hint, data_format=data_format)
    layer.build((None, *guided))
    assert count(layer) == weights


@pytest.mark.slow
@SHAPE_OPTIONS
@hypothesis.given(*[st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)] * 2)
def test_flat_and_shapes_of_other_rank_meet_in_a_dense_layer(guided, hint):
    hypothesis.assume(len(guided) != len(hint) or len(guided) == 1)
    layer = kf.HintRegressor(hint)
    check_shapes(layer, guided, hint)
    assert count(layer) == math.prod(guided) * math.prod(hint)


@pytest.mark.parametrize(
    ("guided", "hint", "weights"),
    [
        ((None, 5), (None, 7), 5 * 7),
        ((None, 6, 3), (None, 4, 2), 3 * 3 * 2),
        ((6, None, 3), (8, None, 2), 3 * 3 * 2),
        ((None, None, 3), (None, None, 2), 3 * 2),
        ((None, None, None, 3), (None, None, None, 2), 3 * 2),
    ],
)
def test_unknown_dimensions_stay_as_they_are(guided, hint, weights):
    layer = kf.HintRegressor(hint)
    layer.build((None, *guided))
    for length in (4, 9):
        inputs, expected = (
            [2, *(length if n is None else n for n in shape)]
            for shape in (guided, hint)
        )
        assert list(layer(normal(*inputs)).shape) == expected
    assert layer(keras.Input(guided)).shape == (None, *hint)
    assert count(layer) == weights


def test_unknown_dimensions_stay_as_they_are_with_channels_first():
    layer = kf.HintRegressor((3, None, None), data_format="channels_first")
    layer.build((None, 2, None, None))
    assert layer(keras.Input((2, None, None))).shape == (None, 3, None, None)
    assert count(layer) == 2 * 3


@pytest.mark.parametrize("spatial", [(6, 6, 2), (2, 6, 6)], ids=["same_rank", "larger"])
def test_a_dense_regressor_can_be_chosen(spatial):
    layer = kf.HintRegressor((3, 3, 4), kind="dense")
    check_shapes(layer, spatial, (3, 3, 4))
    assert count(layer) == math.prod(spatial) * 36


# HintRegressor: values


@pytest.mark.parametrize(
    ("guided", "hint", "convolve"),
    [
        ((6, 2), (4, 3), reference.convolve),
        ((6, 5, 2), (4, 4, 3), reference.convolve),
        ((4, 5, 3, 2), (3, 3, 3, 4), reference.convolve),
        ((4, 4, 2), (4, 4, 3), reference.convolve),
        ((4, 2), (6, 3), reference.convolve_transposed),
        ((4, 3, 2), (6, 5, 3), reference.convolve_transposed),
        ((2, 3, 3, 2), (4, 4, 4, 3), reference.convolve_transposed),
        # as many channels as columns: Keras 3.15 adds the bias to the columns then
        ((6, 2), (3, 3), reference.convolve),
        ((6, 5, 2), (4, 3, 3), reference.convolve),
        ((2, 3, 3, 2), (4, 4, 3, 3), reference.convolve_transposed),
    ],
)
@pytest.mark.parametrize(
    ("data_format", "target_data_format"),
    [
        ("channels_last", None),
        ("channels_first", None),
        ("channels_last", "channels_first"),
        ("channels_first", "channels_last"),
    ],
)
def test_convolution_values(guided, hint, convolve, data_format, target_data_format):
    guided_first = data_format == "channels_first"
    hint_first = (target_data_format or data_format) == "channels_first"
    guided_shape = (guided[-1], *guided[:-1]) if guided_first else guided
    hint_shape = (hint[-1], *hint[:-1]) if hint_first else hint
    layer = kf.HintRegressor(
        hint_shape, data_format=data_format, target_data_format=target_data_format
    )
    kernel, bias = randomised(layer, guided_shape).get_weights()
    inputs = normal(3, *guided, seed=7)
    outputs = np.asarray(layer(np.moveaxis(inputs, -1, 1) if guided_first else inputs))
    assert outputs.shape == (3, *hint_shape)
    np.testing.assert_allclose(
        np.moveaxis(outputs, 1, -1) if hint_first else outputs,
        convolve(inputs, kernel) + bias,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("guided", "hint"), [((6,), (4,)), ((2, 3, 2), (4,)), ((6,), (2, 2, 3))]
)
def test_dense_values(guided, hint):
    layer = randomised(kf.HintRegressor(hint), guided)
    kernel, bias = layer.get_weights()
    inputs = normal(3, *guided, seed=7)
    expected = (inputs.reshape(3, -1) @ kernel + bias).reshape(3, *hint)
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pieces", [None, 2])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_no_step_of_a_float64_regressor_rounds_to_float32(kind, pieces):
    layer = kf.HintRegressor(
        (3, 4, 4),
        kind,
        pieces=pieces,
        data_format="channels_first" if kind == "conv" else None,
        dtype="float64",
    )
    kernel, bias = randomised(layer, (2, 5, 5)).get_weights()
    inputs = np.random.default_rng(7).normal(size=(3, 2, 5, 5))
    if kind == "conv":
        linear = reference.convolve(np.moveaxis(inputs, 1, -1), kernel) + bias
        expected = reference.maxout(linear, pieces or 1)
        expected = np.moveaxis(expected, -1, 1)
    else:
        linear = inputs.reshape(3, -1) @ kernel.astype("float64") + bias
        expected = reference.maxout(linear, pieces or 1).reshape(3, 3, 4, 4)
    outputs = layer(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float64"
    np.testing.assert_allclose(outputs, expected, rtol=1e-10, atol=1e-12)


PAIRS = {
    "shrinking": ((5, 5, 2), (4, 4, 3)),
    "growing": ((3, 3, 2), (4, 5, 3)),
    "dense": ((5,), (7,)),
}
pairs = pytest.mark.parametrize(("guided", "hint"), PAIRS.values(), ids=PAIRS)


@pairs
@pytest.mark.parametrize(
    "activation", [None, "linear", "relu", "tanh", "sigmoid", keras.activations.tanh]
)
def test_activations_follow_the_linear_part(guided, hint, activation):
    layer = randomised(kf.HintRegressor(hint, activation=activation), guided)
    linear = randomised(kf.HintRegressor(hint), guided)
    inputs = normal(3, *guided, seed=7)
    name = getattr(activation, "__name__", activation)
    expected = reference.ACTIVATIONS[name](reference.f64(linear(inputs)))
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-5, atol=1e-6)


@pairs
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_maxout_hint_gets_a_maxout_regressor(guided, hint, pieces):
    layer = randomised(kf.HintRegressor(hint, pieces=pieces), guided)
    wide = (*hint[:-1], pieces * hint[-1])
    linear = randomised(kf.HintRegressor(wide), guided)
    inputs = normal(3, *guided, seed=7)
    np.testing.assert_allclose(
        layer(inputs), reference.maxout(linear(inputs), pieces), rtol=1e-5, atol=1e-6
    )
    assert count(layer) == count(linear)


@pytest.mark.parametrize(
    ("guided", "hint"),
    [((2, 5, 5), (3, 4, 4)), ((2, 3, 3), (3, 4, 5)), ((6,), (3, 4, 4))],
)
def test_a_maxout_regressor_with_channels_first(guided, hint):
    layer = randomised(
        kf.HintRegressor(hint, pieces=2, data_format="channels_first"), guided
    )
    linear = randomised(
        kf.HintRegressor((2 * hint[0], *hint[1:]), data_format="channels_first"), guided
    )
    inputs = normal(3, *guided, seed=7)
    expected = reference.maxout(linear(inputs), 2, axis=1)
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-5, atol=1e-6)


def test_every_weight_of_a_regressor_gets_a_gradient():
    for guided, hint in [*PAIRS.values(), ((3, 6, 2), (5, 4, 3))]:
        layer = randomised(kf.HintRegressor(hint), guided)
        assert layer.trainable_variables
        found = derivatives.gradients_of(
            functools.partial(layer, normal(3, *guided)), layer.trainable_variables
        )
        assert all(np.any(gradient != 0) for gradient in found)


# HintRegressor: as a layer of Keras

CONFIGS = {
    "shrinking": ((5, 5, 2), {"target_shape": (4, 4, 3), "activation": "relu"}),
    "growing": ((3, 3, 2), {"target_shape": (4, 5, 3), "kind": "conv"}),
    "mixed": ((3, 6, 2), {"target_shape": (5, 4, 3), "activation": "tanh"}),
    "maxout": ((5, 5, 2), {"target_shape": (4, 4, 3), "pieces": 2}),
    "dense": ((5, 5, 2), {"target_shape": (7,), "kind": "dense"}),
    "channels_first": (
        (2, 5, 5),
        {"target_shape": (3, 4, 4), "data_format": "channels_first"},
    ),
    "sequence": ((None, 5), {"target_shape": (None, 7)}),
    "layer": ((5,), {"target_shape": (7,), "activation": keras.layers.LeakyReLU(0.2)}),
}


@pytest.mark.parametrize(("guided", "config"), CONFIGS.values(), ids=CONFIGS)
def test_a_regressor_is_saved_and_loaded(guided, config, tmp_path):
    layer = randomised(kf.HintRegressor(**config, name="r"), guided)
    model, again = saved_and_loaded(layer, guided, tmp_path)
    inputs = normal(3, *(4 if n is None else n for n in guided), seed=7)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    assert again.get_layer("r").get_config() == layer.get_config()
    assert tuple(again.get_layer("r").target_shape) == config["target_shape"]


@pytest.mark.parametrize("cls", [kf.Maxout, kf.HintRegressor])
def test_files_name_a_layer_by_its_package(cls):
    assert keras.saving.get_registered_name(cls) == f"keras_fitnets>{cls.__name__}"


def test_arguments_are_attributes():
    layer = kf.HintRegressor((4, 4, 3), "conv", "relu", data_format="channels_first")
    assert (tuple(layer.target_shape), layer.kind, layer.pieces) == (
        (4, 4, 3),
        "conv",
        None,
    )
    assert (layer.activation, layer.data_format) == (
        keras.activations.relu,
        "channels_first",
    )
    assert layer.get_config()["activation"] == "relu"


@pytest.mark.parametrize(("guided", "config"), CONFIGS.values(), ids=CONFIGS)
def test_a_regressor_in_mixed_precision(guided, config):
    layer = kf.HintRegressor(**config, dtype="mixed_float16")
    layer.build((None, *guided))
    outputs = layer(normal(2, *(4 if n is None else n for n in guided)))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert {
        keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights
    } == {"float32"}


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_shape": ()}, "target_shape"),
        ({"target_shape": (4, 0, 3)}, "target_shape"),
        ({"target_shape": (4, -1, 3)}, "target_shape"),
        ({"target_shape": (4, 2.5)}, "target_shape"),
        ({"target_shape": "4x4"}, "target_shape"),
        ({"target_shape": None}, "target_shape"),
        ({"target_shape": (4,), "kind": "linear"}, r"kind.*auto.*conv.*dense"),
        ({"target_shape": (4,), "activation": "nosuch"}, "nosuch"),
        ({"target_shape": (4,), "activation": "relu", "pieces": 2}, "pieces"),
        (
            {"target_shape": (4, 4, 3), "data_format": "NCHW"},
            r"data.format.*channels_last",
        ),
    ],
)
def test_wrong_arguments_raise_at_construction(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kf.HintRegressor(**arguments)


def refuse(tensor):
    raise TypeError("no tensor of mine")


@pytest.mark.parametrize("activation", ["glu", keras.layers.PReLU(), refuse])
def test_what_is_no_elementwise_function_raises_when_built(activation):
    layer = kf.HintRegressor((4,), activation=activation)
    with pytest.raises(ValueError, match="`activation` must be"):
        layer.build((None, 6))


@pytest.mark.parametrize(
    ("guided", "hint", "options"),
    [
        ((None, 5), (4, 7), {}),
        ((4, 5), (None, 7), {}),
        ((None, 6, 3), (6, None, 3), {}),
        ((None, 5), (7,), {}),
        ((6,), (None, 7), {}),
        ((None, 5), (None, 7), {"kind": "dense"}),
        ((4, None), (4, 7), {}),
        ((6,), (4,), {"kind": "conv"}),
        ((4, 4, 3), (4, 3), {"kind": "conv"}),
        ((2, 2, 2, 2, 3), (2, 2, 2, 2, 3), {"kind": "conv"}),
    ],
)
def test_shapes_that_cannot_meet_raise_when_built_and_name_both(guided, hint, options):
    with pytest.raises(ValueError) as error:
        kf.HintRegressor(hint, **options).build((None, *guided))
    assert str(guided) in str(error.value)
    assert str(hint) in str(error.value)


@pytest.mark.parametrize(("steps", "target"), [(6, 6), (6, 4), (4, 6)])
def test_a_regressed_step_counts_if_a_step_does_that_it_is_made_of(steps, target):
    regressor = kf.HintRegressor((target, 3))
    regressor.build((None, steps, 2))
    rng = np.random.default_rng(0)
    mask = rng.random((20, steps)) < 0.3
    found = np.asarray(regressor.compute_mask(np.zeros((20, steps, 2)), mask))
    # A step is made of another if a change of the one changes the other.
    regressor.set_weights([np.ones(w.shape) for w in regressor.get_weights()])
    zeros = np.zeros((1, steps, 2), "float32")
    for row, counts in zip(mask, found, strict=True):
        expected = np.zeros(target, bool)
        for step in np.flatnonzero(row):
            changed = zeros.copy()
            changed[0, step] = 1
            difference = np.asarray(regressor(changed)) - np.asarray(regressor(zeros))
            expected |= np.any(difference[0] != 0, axis=-1)
        np.testing.assert_array_equal(counts, expected)


def test_a_flat_hint_has_no_mask():
    regressor = kf.HintRegressor((3,))
    regressor.build((None, 6, 2))
    mask = np.ones((4, 6), bool)
    assert regressor.compute_mask(np.zeros((4, 6, 2)), mask) is None
    assert kf.HintRegressor((6, 3)).compute_mask(np.zeros((4, 6, 2)), None) is None
