"""Values and gradients of both losses against the float64 reference."""

import itertools

import derivatives
import keras
import numpy as np
import pytest
import reference
from tiny import assert_close

import keras_fitnets as kf

TEMPERATURES = (1.0, 3.0, 10.0)
ACTIVATIONS = ("softmax", "sigmoid")
FORMS = tuple(
    itertools.product(ACTIVATIONS, (True, False))
)  # (activation, from_logits)
REDUCTIONS = {
    "sum_over_batch_size": lambda values, weights: np.mean(values * weights),
    "mean": lambda values, weights: np.mean(values * weights),
    "sum": lambda values, weights: np.sum(values * weights),
    "mean_with_sample_weight": lambda values, weights: (
        np.sum(values * weights) / np.sum(weights)
    ),
    None: lambda values, weights: values * weights,
}
WEIGHTS = np.array([0.0, 0.5, 1.0, 3.0], "float32")


def outputs(activation="softmax", from_logits=True, shape=(4, 5), seed=0):
    """Teacher's and student's outputs in float32."""
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(2, *shape))
    return (
        logits if from_logits else reference.probabilities(logits, 1.0, activation)
    ).astype("float32")


def features(shape=(4, 3, 2, 5), seed=1):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype("float32")


def numpy(tensor):
    return derivatives.to_numpy(tensor).astype("float64")


def gradient(function, at):
    [found] = derivatives.gradients(function, [at])
    return found.astype("float64")


# The reference itself


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_reference_gradients_by_hand_agree_with_central_differences(
    activation, temperature
):
    teacher, student = reference.f64(outputs())
    for squared in (False, True):
        options = {
            "temperature": temperature,
            "activation": activation,
            "temperature_squared": squared,
        }
        (numerical,) = reference.central_differences(
            lambda arrays, options=options: np.sum(
                reference.soft_target_crossentropy(teacher, arrays[0], **options)
            ),
            [student],
        )
        assert_close(
            reference.soft_target_gradient(teacher, student, **options), numerical, 1e-6
        )


def test_reference_hint_gradient_agrees_with_central_differences():
    hint, regressed = features()
    (numerical,) = reference.central_differences(
        lambda arrays: np.sum(reference.hint_loss(hint, arrays[0])), [regressed]
    )
    assert_close(reference.hint_gradient(hint, regressed), numerical, 1e-6)


# Soft targets


@pytest.mark.parametrize("squared", (False, True))
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("activation", "from_logits"), FORMS)
def test_soft_target_values(activation, from_logits, temperature, squared):
    teacher, student = outputs(activation, from_logits)
    options = {
        "temperature": temperature,
        "activation": activation,
        "from_logits": from_logits,
        "temperature_squared": squared,
    }
    expected = reference.soft_target_crossentropy(teacher, student, **options)
    assert_close(
        numpy(kf.soft_target_crossentropy(teacher, student, **options)), expected
    )
    assert_close(
        numpy(kf.SoftTargetCrossentropy(**options)(teacher, student)), np.mean(expected)
    )


@pytest.mark.parametrize("squared", (False, True))
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("activation", "from_logits"), FORMS)
def test_soft_target_gradients_reach_the_students_logits(
    activation, from_logits, temperature, squared
):
    teacher, student = outputs()
    end = keras.ops.copy if from_logits else getattr(keras.ops, activation)
    actual = gradient(
        lambda logits: kf.soft_target_crossentropy(
            end(teacher), end(logits), temperature, activation, from_logits, squared
        ),
        student,
    )
    assert_close(
        actual,
        reference.soft_target_gradient(
            teacher, student, temperature, activation, squared
        ),
    )


@pytest.mark.parametrize(
    ("activation", "keras_loss"),
    [
        ("softmax", keras.losses.categorical_crossentropy),
        ("sigmoid", keras.losses.binary_crossentropy),
    ],
)
def test_at_temperature_one_it_is_the_crossentropy_of_keras(activation, keras_loss):
    teacher, student = outputs()
    actual = kf.soft_target_crossentropy(teacher, student, activation=activation)
    labels = getattr(keras.ops, activation)(teacher)
    assert_close(numpy(actual), numpy(keras_loss(labels, student, from_logits=True)))


def test_defaults_are_softmax_of_logits_at_temperature_one():
    teacher, student = outputs()
    expected = reference.soft_target_crossentropy(
        teacher, student, 1.0, "softmax", True
    )
    assert_close(numpy(kf.soft_target_crossentropy(teacher, student)), expected)
    assert_close(
        numpy(kf.SoftTargetCrossentropy()(teacher, student)), np.mean(expected)
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_axes_between_the_batch_and_the_classes_stay(activation):
    teacher, student = outputs(shape=(4, 3, 2, 5))
    actual = kf.soft_target_crossentropy(teacher, student, 3.0, activation)
    assert_close(
        numpy(actual),
        reference.soft_target_crossentropy(teacher, student, 3.0, activation),
    )


def test_one_unit_sigmoid():
    teacher, student = outputs("sigmoid", False, shape=(4, 1))
    actual = numpy(kf.soft_target_crossentropy(teacher, student, 3.0, "sigmoid", False))
    assert_close(
        actual,
        reference.soft_target_crossentropy(teacher, student, 3.0, "sigmoid", False),
    )
    assert np.all(actual > 0.1)


# Precision


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 1e-5), ("bfloat16", 1e-5), ("float64", 1e-12)]
)
@pytest.mark.parametrize(("activation", "from_logits"), FORMS)
def test_soft_targets_are_computed_in_float32_or_better(
    activation, from_logits, dtype, tolerance
):
    teacher, student = (
        keras.ops.cast(array, dtype) for array in outputs(activation, from_logits)
    )
    actual = kf.soft_target_crossentropy(teacher, student, 3.0, activation, from_logits)
    expected = reference.soft_target_crossentropy(
        numpy(teacher), numpy(student), 3.0, activation, from_logits
    )
    assert_close(numpy(actual), expected, tolerance)
    assert keras.backend.standardize_dtype(actual.dtype) == (
        "float64" if dtype == "float64" else "float32"
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 1e-5), ("bfloat16", 1e-5), ("float64", 1e-12)]
)
def test_hint_loss_is_computed_in_float32_or_better(dtype, tolerance):
    hint, regressed = (keras.ops.cast(300.0 * array, dtype) for array in features())
    actual = kf.hint_loss(hint, regressed)
    assert_close(
        numpy(actual), reference.hint_loss(numpy(hint), numpy(regressed)), tolerance
    )
    assert keras.backend.standardize_dtype(actual.dtype) == (
        "float64" if dtype == "float64" else "float32"
    )


@pytest.mark.parametrize(
    ("teacher_dtype", "student_dtype"),
    [("float16", "float32"), ("float32", "bfloat16")],
)
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (kf.soft_target_crossentropy, reference.soft_target_crossentropy),
        (kf.hint_loss, reference.hint_loss),
    ],
)
def test_the_two_sides_may_differ_in_dtype(
    function, expected, teacher_dtype, student_dtype
):
    teacher, student = outputs()
    teacher, student = (
        keras.ops.cast(teacher, teacher_dtype),
        keras.ops.cast(student, student_dtype),
    )
    assert_close(
        numpy(function(teacher, student)), expected(numpy(teacher), numpy(student))
    )


@pytest.mark.parametrize("from_logits", (True, False))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_opposed_confident_student_gets_its_true_gradient(activation, from_logits):
    teacher, student = np.float32([[20.0, -20.0]]), np.float32([[-20.0, 12.0]])
    end = keras.ops.copy if from_logits else getattr(keras.ops, activation)
    actual = gradient(
        lambda logits: kf.soft_target_crossentropy(
            end(teacher), end(logits), 1.0, activation, from_logits
        ),
        student,
    )
    expected = reference.soft_target_gradient(teacher, student, 1.0, activation)
    assert np.allclose(
        np.abs(expected), 1.0 if activation == "softmax" else 0.5, atol=1e-5
    )
    # 1 - sigmoid(12) keeps two digits in float32: there, probabilities cannot tell more
    assert_close(
        actual,
        expected,
        0.02 if (activation, from_logits) == ("sigmoid", False) else 1e-5,
    )


def test_the_opposed_student_of_keras_distillation():
    teacher, student = np.float32([[20.0, 0.0]]), np.float32([[-20.0, 20.0]])
    actual = gradient(
        lambda logits: kf.SoftTargetCrossentropy()(teacher, logits), student
    )
    assert_close(actual, [[-1.0, 1.0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_probabilities_of_exactly_zero_and_one_stay_finite(
    activation, temperature, dtype
):
    certain = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype)
    for teacher, student in ((certain, certain[::-1]), (certain, certain)):

        def loss(outputs, teacher=teacher):
            return kf.soft_target_crossentropy(
                teacher, outputs, temperature, activation, False
            )

        assert np.all(np.isfinite(numpy(loss(student))))
        assert np.all(np.isfinite(gradient(loss, student)))


# Hints


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (4, 3, 2, 5), (4, 2, 3, 2, 5)])
def test_hint_values_and_gradients(shape):
    hint, regressed = features(shape)
    assert_close(
        numpy(kf.hint_loss(hint, regressed)), reference.hint_loss(hint, regressed)
    )
    assert_close(
        gradient(lambda at: kf.hint_loss(hint, at), regressed),
        reference.hint_gradient(hint, regressed),
    )
    assert_close(
        numpy(kf.HintLoss()(hint, regressed)),
        np.mean(reference.hint_loss(hint, regressed)),
    )


@pytest.mark.parametrize("value", [keras.Variable, keras.ops.convert_to_tensor])
def test_the_temperature_may_be_a_variable_or_a_tensor(value):
    teacher, student = outputs()
    temperature = value(3.0)
    assert_close(
        kf.soft_target_crossentropy(teacher, student, temperature),
        reference.soft_target_crossentropy(teacher, student, 3.0),
    )
    loss = kf.SoftTargetCrossentropy(temperature, reduction=None)
    assert loss.temperature is temperature
    assert_close(
        loss(teacher, student),
        reference.soft_target_crossentropy(teacher, student, 3.0),
    )


# As losses of Keras


LOSSES = {
    "soft_targets": (
        lambda **options: kf.SoftTargetCrossentropy(temperature=3.0, **options),
        lambda teacher, student: reference.soft_target_crossentropy(
            teacher, student, 3.0
        ),
    ),
    "hint": (kf.HintLoss, reference.hint_loss),
}
both_losses = pytest.mark.parametrize(
    ("build", "expected"), LOSSES.values(), ids=LOSSES
)


@both_losses
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_reductions_and_sample_weights(build, expected, reduction):
    teacher, student = outputs()
    loss = build(reduction=reduction)
    for weights in (None, WEIGHTS):
        values = REDUCTIONS[reduction](
            expected(teacher, student), 1.0 if weights is None else weights
        )
        if weights is None and reduction == "mean_with_sample_weight":
            values = np.mean(expected(teacher, student))
        assert_close(numpy(loss(teacher, student, sample_weight=weights)), values)


def test_weights_for_each_step_of_a_sequence():
    teacher, student = outputs(shape=(2, 4, 5))
    weights = np.stack([WEIGHTS, WEIGHTS[::-1]])
    expected = np.mean(
        reference.soft_target_crossentropy(teacher, student, 3.0) * weights
    )
    actual = kf.SoftTargetCrossentropy(temperature=3.0)(
        teacher, student, sample_weight=weights
    )
    assert_close(numpy(actual), expected)


def test_masked_steps_count_for_nothing_in_the_soft_targets():
    teacher, student = outputs(shape=(2, 4, 5))
    kept = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool)
    masked = keras.layers.Masking()(student * kept[..., None])
    actual = kf.SoftTargetCrossentropy(temperature=3.0)(teacher, masked)
    assert_close(
        numpy(actual),
        np.mean(reference.soft_target_crossentropy(teacher, student, 3.0)[kept]),
    )


def test_masked_steps_count_for_nothing_in_the_hint():
    hint, regressed = features((2, 4, 5))
    kept = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool)[..., None]
    actual = kf.HintLoss()(hint, keras.layers.Masking()(regressed * kept))
    assert_close(
        numpy(actual), np.mean(reference.hint_loss(hint * kept, regressed * kept))
    )


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (kf.SoftTargetCrossentropy, {}),
        (
            kf.SoftTargetCrossentropy,
            {
                "temperature": 3.0,
                "activation": "sigmoid",
                "from_logits": False,
                "temperature_squared": True,
                "reduction": "sum",
                "name": "soft",
                "dtype": "float32",
            },
        ),
        (kf.HintLoss, {}),
        (kf.HintLoss, {"reduction": None, "name": "hinted", "dtype": "float32"}),
    ],
)
def test_config_round_trip(cls, config):
    loss = cls(**config)
    assert {name: getattr(loss, name) for name in config} == config
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert type(again) is cls
    # The name under which files know the class.
    assert keras.saving.get_registered_name(cls) == f"keras_fitnets>{cls.__name__}"
    assert (
        again.get_config()
        == loss.get_config()
        == cls.from_config(loss.get_config()).get_config()
    )
    teacher, student = outputs("sigmoid", False)
    np.testing.assert_array_equal(again(teacher, student), loss(teacher, student))


@both_losses
def test_a_loss_is_computed_in_its_dtype(build, expected):
    teacher, student = (value.astype("float64") for value in outputs())
    loss = build(dtype="float64")(teacher, student)
    assert keras.backend.standardize_dtype(loss.dtype) == "float64"
    assert_close(numpy(loss), np.mean(expected(teacher, student)), 1e-12)


@both_losses
def test_it_compiles_into_any_model(build, expected):
    teacher, inputs = outputs()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Activation("linear")])
    model.compile(loss=build())
    assert_close(
        model.evaluate(inputs, teacher, verbose=0), np.mean(expected(teacher, inputs))
    )


# Wrong input


@pytest.mark.parametrize(
    "temperature", [0, 0.0, -1.0, float("nan"), float("inf"), "hot", None]
)
def test_a_temperature_that_is_no_positive_number_raises(temperature):
    with pytest.raises((ValueError, TypeError), match="temperature"):
        kf.SoftTargetCrossentropy(temperature=temperature)
    with pytest.raises((ValueError, TypeError), match="temperature"):
        kf.soft_target_crossentropy(*outputs(), temperature=temperature)


@pytest.mark.parametrize("activation", ["relu", "Softmax", None, 3])
def test_an_unknown_activation_raises(activation):
    with pytest.raises((ValueError, TypeError), match=r"softmax.*sigmoid"):
        kf.SoftTargetCrossentropy(activation=activation)
    with pytest.raises((ValueError, TypeError), match=r"softmax.*sigmoid"):
        kf.soft_target_crossentropy(*outputs(), activation=activation)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ((4, 5), (4, 1)),
        ((4, 1), (4, 5)),
        ((4, 5), (1, 5)),
        ((4, 5), (5,)),
        ((4, 3, 5), (4, 5)),
        ((4, 8, 8, 2), (4, 1, 1, 2)),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        kf.soft_target_crossentropy,
        kf.hint_loss,
        lambda *pair: kf.SoftTargetCrossentropy()(*pair),
        lambda *pair: kf.HintLoss()(*pair),
    ],
    ids=["soft_target_crossentropy", "hint_loss", "SoftTargetCrossentropy", "HintLoss"],
)
def test_shapes_that_differ_raise_instead_of_being_broadcast(
    function, teacher, student
):
    with pytest.raises(ValueError, match="shape"):
        function(np.ones(teacher, "float32"), np.ones(student, "float32"))
