"""Any precision of teacher and student: losses, gradients and loss scaling."""

import itertools

import derivatives
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny

import keras_fitnets as kf

# A gradient has gone through some ten roundings, forward and back, each of half an
# epsilon of what the networks compute in; hence ROUNDINGS times the larger epsilon of
# the two. Losses and logs are in float32 at least, so that given what the networks
# give, as they round it, they are right to as many of its epsilons.
EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "mixed_float16": 2.0**-10,
    "mixed_bfloat16": 2.0**-7,
}
ROUNDINGS = 8
POLICIES = list(EPSILON)
STAGES = ("hint", "kd", "joint")
FORMS = list(itertools.product(("softmax", "sigmoid"), (True, False)))


def network(policy, **options):
    keras.config.set_dtype_policy(policy)
    try:
        return tiny.network(**options)
    finally:
        keras.config.set_dtype_policy("float32")


def distil(
    teacher="float32",
    student="float32",
    stage="joint",
    activation="softmax",
    from_logits=True,
    optimizer=None,
    hint_units=4,
    hint_activation="tanh",
    auto_scale_loss=True,
    run_eagerly=True,
    hint_weight=0.5,
    **options,
):
    """A compiled Distiller of two `tiny` networks of these policies."""
    end = None if from_logits else activation
    distiller = kf.Distiller(
        network(
            teacher, hidden=hint_units, activation=hint_activation, end=end, seed=1
        ),
        network(student, end=end, seed=5),
        hints=("hidden", "hidden"),
        stage=stage,
        hint_weight=hint_weight,
        activation=activation,
        **options,
    )
    tiny.redrawn(distiller.regressors[0], seed=6)
    # A loss of Keras computes in float32 unless it is told otherwise.
    loss = tiny.LABEL_LOSSES[activation](
        from_logits=from_logits, dtype="float64" if student == "float64" else None
    )
    distiller.compile(
        optimizer or keras.optimizers.SGD(1.0),
        loss,
        auto_scale_loss=auto_scale_loss,
        run_eagerly=run_eagerly,
    )
    return distiller


def scaled(initial_scale):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale)


def layers(model, x):
    """What the hidden and the last layer give, rounded as they round."""
    features = keras.Model(
        model.input, [model.get_layer("hidden").output, model.output]
    )
    return [reference.f64(output) for output in features(x)]


def expected(distiller, x, y, activation="softmax"):
    """Logs and, by the chain rule, gradients of networks that round nothing."""
    weights, stage = tiny.weights(distiller), distiller.stage
    temperature, lambda_ = distiller.temperature, distiller.lambda_
    hint, teacher = reference.hidden_and_logits(
        x, distiller.teacher.models[0].get_weights(), "tanh"
    )
    hidden, logits = reference.hidden_and_logits(x, weights[:4], "tanh")
    regressed = reference.regress(hidden, weights[4:], "tanh")
    logs = reference.stage_logs(
        stage,
        label=reference.crossentropy(y, logits, activation),
        kd=reference.soft_target_crossentropy(teacher, logits, temperature, activation),
        hint=reference.hint_loss(hint, regressed),
        lambda_=lambda_,
        hint_weight=distiller.hint_weight,
    )
    units = 1 if activation == "softmax" else y.shape[-1]
    label = (reference.probabilities(logits, activation=activation) - y) / units
    soft = reference.soft_target_gradient(teacher, logits, temperature, activation)
    of_logits = (label + lambda_ * soft) * (stage != "hint") / len(x)
    factor = {"hint": 1.0, "kd": 0.0, "joint": distiller.hint_weight}[stage]
    of_regressed = factor * reference.hint_gradient(hint, regressed) / len(x)
    of_regressed = of_regressed * (1.0 - regressed**2)
    of_hidden = of_logits @ weights[2].T + of_regressed @ weights[4].T
    layers = [
        (x, of_hidden * (1.0 - hidden**2)),
        (hidden, of_logits),
        (hidden, of_regressed),
    ]
    return logs, [
        gradient
        for inputs, of_outputs in layers
        for gradient in (inputs.T @ of_outputs, of_outputs.sum(axis=0))
    ]


# Every pair of precisions


@pytest.mark.parametrize("student", POLICIES)
@pytest.mark.parametrize("teacher", POLICIES)
def test_logs_and_gradients_of_every_pair(teacher, student):
    # Each precision, of teacher and of student, meets each form of the outputs and each
    # stage, and each form meets each stage that has outputs.
    place = POLICIES.index(teacher), POLICIES.index(student)
    activation, from_logits = FORMS[(place[0] - place[1]) % len(FORMS)]
    stage = STAGES[sum(place) % len(STAGES)]
    x, y = tiny.data(activation=activation)
    distiller = distil(
        teacher,
        student,
        stage,
        activation,
        from_logits,
        optimizer=scaled(2.0**10) if student == "mixed_float16" else None,
    )
    logs, gradients = expected(distiller, x, y, activation)
    tolerance = ROUNDINGS * max(EPSILON[teacher], EPSILON[student])
    logged = max(tolerance, ROUNDINGS * EPSILON["float32"])
    tiny.assert_logs(tiny.evaluate(distiller, x, y), logs, logged)
    start = tiny.weights(distiller)
    tiny.fit(distiller, x, y)
    tiny.assert_step(distiller, start, gradients, tolerance)


@pytest.mark.parametrize("student", POLICIES)
@pytest.mark.parametrize("teacher", POLICIES)
def test_the_losses_add_no_error_to_what_the_networks_give(teacher, student):
    form = POLICIES.index(teacher) + POLICIES.index(student)
    activation = ("softmax", "sigmoid")[form % 2]
    x, y = tiny.data(activation=activation)
    distiller = distil(teacher, student, activation=activation)
    logs = tiny.evaluate(distiller, x, y)
    hint, teacher_logits = layers(distiller.teacher.models[0], x)
    hidden, logits = layers(distiller.student, x)
    terms = {
        "label_loss": reference.crossentropy(y, logits, activation),
        "kd_loss": reference.soft_target_crossentropy(
            teacher_logits, logits, distiller.temperature, activation
        ),
        "hint_loss": reference.hint_loss(hint, distiller.regressors[0](hidden)),
    }
    means = {name: np.mean(values) for name, values in terms.items()}
    tiny.assert_logs(logs, means, ROUNDINGS * EPSILON["float32"])


# Loss scaling


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_gradients_that_float16_would_lose_arrive(stage):
    x, y = tiny.data()
    small = np.full(len(x), 2.0**-24, "float32")
    unscaled, distiller = (
        distil(
            student="mixed_float16",
            stage=stage,
            optimizer=keras.optimizers.SGD(2.0**24),
            auto_scale_loss=auto,
        )
        for auto in (False, True)
    )
    start, gradients = tiny.weights(distiller), expected(distiller, x, y)[1]
    tiny.fit(distiller, x, y, sample_weight=small)
    tiny.assert_step(distiller, start, gradients, ROUNDINGS * EPSILON["mixed_float16"])
    tiny.fit(unscaled, x, y, sample_weight=small)
    np.testing.assert_array_equal(start[0], tiny.weights(unscaled)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "factor"),
    [("hint", 1.0), ("kd", 0.25), ("joint", 1.0)],
)
def test_a_step_that_overflows_is_left_out_and_training_goes_on(stage, factor):
    x, y = tiny.data()
    distiller = distil(
        student="mixed_float16",
        stage=stage,
        optimizer=scaled(2.0**22),
        learning_rate_factor=factor,
        run_eagerly=False,
    )
    start = tiny.weights(distiller)
    logs, gradients = expected(distiller, x, y)
    tolerance = ROUNDINGS * EPSILON["mixed_float16"]
    for skipped in range(12):
        history = tiny.fit(distiller, x, y)
        tiny.assert_logs({k: v[0] for k, v in history.items()}, logs, tolerance)
        if not all(map(np.array_equal, start, tiny.weights(distiller))):
            break
        assert distiller.optimizer.dynamic_scale.numpy() == 2.0 ** (21 - skipped)
    assert skipped > 0
    assert distiller.optimizer.dynamic_scale.numpy() == 2.0 ** (22 - skipped)
    if stage != "hint":
        gradients[:2] = [factor * gradient for gradient in gradients[:2]]
    tiny.assert_step(distiller, start, gradients, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("student", POLICIES)
def test_stagewise_scales_the_loss_of_each_stage_where_the_student_needs_it(student):
    x, y = tiny.data()
    distiller = distil("mixed_float16", student)
    scaling, begun = keras.optimizers.LossScaleOptimizer, []

    def begin(logs=None):
        _, gradients = expected(distiller, x, y)
        if distiller.stage == "kd":
            gradients[:2] = [0.25 * gradient for gradient in gradients[:2]]
        optimizer = distiller.optimizer
        assert isinstance(optimizer, scaling) == (student == "mixed_float16")
        assert all(optimizer is not other for _, other, *_ in begun)
        begun.append((distiller.stage, optimizer, tiny.weights(distiller), gradients))

    def end(logs=None):
        tolerance = ROUNDINGS * max(EPSILON[student], EPSILON["mixed_float16"])
        tiny.assert_step(distiller, *begun[-1][2:], tolerance)

    kf.fit_stagewise(
        *(distiller, x, y),
        stages=[
            kf.Stage("hint", 1),
            kf.Stage(
                *("kd", 1),
                optimizer=keras.optimizers.SGD(1.0),
                learning_rate_factor=0.25,
            ),
        ],
        callbacks=[
            keras.callbacks.LambdaCallback(on_train_begin=begin, on_train_end=end)
        ],
        batch_size=len(x),
        verbose=0,
    )
    assert [stage for stage, *_ in begun] == ["hint", "kd"]


# Extreme values


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.1, 100.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("student", POLICIES)
def test_extreme_logits_and_temperatures_stay_right(student, activation, temperature):
    x, y = tiny.data(activation=activation)
    distiller = distil(
        *("mixed_float16", student, "joint", activation),
        optimizer=scaled(2.0**8) if student == "mixed_float16" else None,
        temperature=temperature,
    )
    logits = np.array([1e4, -1e4, 0.0])
    for model, bias in [
        (distiller.teacher.models[0], -logits),
        (distiller.student, logits),
    ]:
        out = model.get_layer("out")
        out.set_weights([np.zeros(out.kernel.shape), bias])
    start = tiny.weights(distiller)
    with np.errstate(over="ignore"):
        logs, gradients = expected(distiller, x, y, activation)
    tolerance = ROUNDINGS * max(EPSILON["mixed_float16"], EPSILON[student])
    tiny.assert_logs(tiny.evaluate(distiller, x, y), logs, tolerance)
    tiny.fit(distiller, x, y)
    tiny.assert_step(distiller, start, gradients, tolerance)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        *((policy, "mixed_float16") for policy in POLICIES),
        *(("mixed_float16", p) for p in POLICIES if p != "mixed_float16"),
    ],
)
def test_hints_whose_squares_overflow_float16_stay_right(teacher, student):
    x, _ = tiny.data()
    distiller = distil(
        *(teacher, student, "hint"),
        optimizer=scaled(1.0) if student == "mixed_float16" else None,
        hint_units=256,
        hint_activation="linear",
    )
    hint_layer = distiller.teacher.models[0].get_layer("hidden")
    hint_layer.set_weights([100.0 * weight for weight in hint_layer.get_weights()])
    hint, _ = layers(distiller.teacher.models[0], x)
    hidden, _ = layers(distiller.student, x)
    regressed = reference.f64(distiller.regressors[0](hidden))
    values = reference.hint_loss(hint, regressed)
    assert np.all(values > 65504) and np.mean(np.abs(hint)) > 100
    logs = tiny.evaluate(distiller, x)
    tiny.assert_logs(logs, {"hint_loss": values.mean()}, ROUNDINGS * EPSILON["float32"])
    start = distiller.regressors[0].get_weights()
    tiny.fit(distiller, x)
    of_regressed = reference.hint_gradient(hint, regressed) / len(x)
    for old, new, gradient in zip(
        start,
        distiller.regressors[0].get_weights(),
        (reference.f64(hidden).T @ of_regressed, of_regressed.sum(axis=0)),
        strict=True,
    ):
        tolerance = ROUNDINGS * max(EPSILON[student], EPSILON[teacher])
        tiny.assert_close(old - new, gradient, tolerance)


@pytest.mark.parametrize("stage", ["hint", "kd"])
def test_weights_of_samples_are_not_rounded_in_float64(stage):
    x, y = tiny.data()
    distiller = distil("float64", "float64", stage)
    weights = np.random.default_rng(0).uniform(size=len(x))
    hint, teacher_logits = layers(distiller.teacher.models[0], x)
    hidden, logits = layers(distiller.student, x)
    if stage == "hint":
        regressed = reference.f64(distiller.regressors[0](hidden))
        values = reference.hint_loss(hint, regressed)
    else:
        temperature = distiller.temperature
        values = reference.soft_target_crossentropy(teacher_logits, logits, temperature)
    # Keras would round the weights of arrays itself, to its default type.
    weighted = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(len(x))
    logs = distiller.evaluate(weighted, verbose=0, return_dict=True)
    expected = {f"{stage}_loss": np.mean(values * weights)}
    tiny.assert_logs(logs, expected, ROUNDINGS * EPSILON["float64"])


def test_confident_units_that_agree_keep_their_loss_and_gradient():
    teacher, student = np.float32([[20.0, -20.0]]), np.float32([[18.0, -18.0]])

    def function(student):
        return kf.soft_target_crossentropy(teacher, student, activation="sigmoid")

    loss = derivatives.to_numpy(function(student))
    [gradient] = derivatives.gradients(function, [student])
    tolerance = ROUNDINGS * EPSILON["float32"]
    value = reference.soft_target_crossentropy(teacher, student, activation="sigmoid")
    np.testing.assert_allclose(loss, value, tolerance)
    gap = 0.5 * (
        np.exp(-18.0) / (1 + np.exp(-18.0)) - np.exp(-20.0) / (1 + np.exp(-20.0))
    )
    np.testing.assert_allclose(gradient, [[-gap, gap]], tolerance)


def test_float64_probabilities_are_read_down_to_the_smallest():
    logits = np.array([[0.0, -600.0], [3.0, -300.0]])
    values = kf.soft_target_crossentropy(
        np.full((2, 2), 0.5),
        reference.probabilities(logits),
        temperature=100.0,
        from_logits=False,
    )
    expected = reference.soft_target_crossentropy(np.zeros((2, 2)), logits, 100.0)
    np.testing.assert_allclose(values, expected, ROUNDINGS * EPSILON["float64"])


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_ensemble_in_float64_is_averaged_in_float64(activation, average):
    members = np.random.default_rng(0).normal(size=(2, tiny.SAMPLES, tiny.CLASSES))
    weights = [3.0, 1.0]
    teacher = kf.Teacher([tiny.network(), tiny.network()], average, weights)
    logits = teacher.soft_logits(list(map(tf.constant, members)), 3.0, activation)
    np.testing.assert_allclose(
        reference.probabilities(logits, 3.0, activation),
        reference.ensemble_targets(members, 3.0, activation, average, weights),
        ROUNDINGS * EPSILON["float64"],
    )


@pytest.mark.parametrize("stage", ["kd", "joint"])
def test_numbers_that_float32_cannot_hold_are_float64_beside_a_float64_student(stage):
    x, y = tiny.data()
    distiller = distil(
        *("float64", "float64", stage), lambda_=0.1, temperature=0.3, hint_weight=0.7
    )
    assert (distiller.lambda_, distiller.temperature) == (0.1, 0.3)
    logs, gradients = expected(distiller, x, y)
    tolerance = ROUNDINGS * EPSILON["float64"]
    terms = {name: logs[name] for name in logs.keys() & {"kd_loss", "hint_loss"}}
    tiny.assert_logs(tiny.evaluate(distiller, x, y), terms, tolerance)
    start = tiny.weights(distiller)
    tiny.fit(distiller, x, y)
    tiny.assert_step(distiller, start, gradients, tolerance)


def half():
    return keras.layers.Dense(5, dtype="mixed_float16")


def within_float16(inside):
    layers = keras.layers
    wrapped = [layers.Reshape((2, 3)), layers.TimeDistributed(half()), layers.Flatten()]
    return {
        "layer": half,
        "nested": lambda: keras.Sequential([keras.Input((6,)), half()]),
        "wrapper": lambda: keras.Sequential(wrapped),
        "regressor": lambda: layers.Dense(5),
    }[inside]()


@pytest.mark.parametrize("inside", ["layer", "nested", "wrapper", "regressor"])
def test_float16_is_found_however_deep(inside):
    inputs = keras.Input((6,))
    hidden = within_float16(inside)(inputs)
    guided = keras.layers.Activation("linear", name="guided")(hidden)
    student = keras.Model(inputs, keras.layers.Dense(3)(guided))
    regressor = half() if inside == "regressor" else "auto"
    hint = kf.Hint("hidden", "guided", regressor=regressor)
    distiller = kf.Distiller(tiny.network(), student, hint)
    distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
