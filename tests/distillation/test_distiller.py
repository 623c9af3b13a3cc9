"""Stages train what they should and nothing else; a Distiller is a Keras model."""

import inspect

import derivatives
import keras
import networks
import numpy as np
import pytest

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")

PAIR = ("conv1", "conv2")


def distiller(teacher=None, student=None, optimizer="adam", hints=PAIR, **options):
    made = kf.Distiller(
        teacher or networks.sequential(8, "teacher"),
        student or networks.sequential(3, "student"),
        hints=hints,
        **options,
    )
    made.compile(optimizer, networks.LABEL_LOSS, metrics=["accuracy"])
    return made


def fit(model, x, y=None, **options):
    settings = {"batch_size": 4, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, **settings).history


ABOVE_CONV1 = {"norm1", "conv2", "norm2", "out"}
STUDENTS = {
    "sequential": (networks.sequential, "conv1"),
    "functional": (networks.functional, "conv1"),
    "nested": (networks.nested, "backbone/conv1"),
    "subclassed": (networks.Subclassed, "backbone/conv1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "build"),
    [
        *(("hint", build) for build in ("sequential", "nested", "subclassed")),
        *(("kd", "functional"), ("joint", "nested")),
        pytest.param("joint", "subclassed", marks=pytest.mark.graph),
    ],
)
def test_each_stage_changes_what_it_trains_and_nothing_else(build, stage):
    make, guided = STUDENTS[build]
    teacher = networks.sequential(8, "teacher")
    teacher.get_layer("norm1").trainable = False
    flags = [layer.trainable for layer in teacher.layers]
    model = distiller(
        *(teacher, make(3)), hints=("norm1", guided), stage=stage, from_logits=True
    )
    x, y = networks.batch()
    before = networks.numpy_variables(model)
    of_teacher = networks.numpy_variables(teacher)
    fit(model, x, y, epochs=2)
    moved = networks.changed(before, networks.numpy_variables(model))
    student = {"conv1", *(ABOVE_CONV1 if stage != "hint" else ())}
    regressor = {"conv2d"} if stage != "kd" else set()
    moved = {"conv2d" if "conv2d" in name else name for name in moved}
    assert moved - {"variables"} == student | regressor
    assert not networks.changed(of_teacher, networks.numpy_variables(teacher))
    assert [layer.trainable for layer in teacher.layers] == flags
    after = networks.numpy_variables(model)
    model.evaluate(x, y, verbose=0)
    assert not networks.changed(after, networks.numpy_variables(model))


@pytest.mark.slow
def test_the_teacher_is_in_no_list_of_the_distiller():
    teacher = networks.sequential(8, "teacher")
    model = distiller(teacher)
    of_teacher = {id(variable) for variable in teacher.variables}
    for variables in (model.variables, model.weights, model.trainable_variables):
        assert variables
        assert not of_teacher & {id(variable) for variable in variables}
    x, y = networks.batch()
    fit(model, x, y)
    paths = [variable.path for variable in model.optimizer.variables]
    assert not [path for path in paths if "teacher" in path]


def test_predict_is_the_students():
    student = networks.sequential(3, "student")
    model, (x, _) = distiller(student=student), networks.batch()
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), student.predict(x, verbose=0)
    )


@pytest.mark.parametrize("argument", ["temperature", "lambda_", "hint_weight"])
def test_a_number_in_a_variable_reads_as_it_was_assigned(argument):
    model = kf.Distiller(networks.sequential(4, "teacher"), networks.sequential(3))
    for value in (0.1, 2.5, 1e-7, 12345):
        setattr(model, argument, value)
        assert getattr(model, argument) == value
        assert isinstance(getattr(model, argument), float)
    assert inspect.getdoc(getattr(kf.Distiller, argument)).endswith(".")
    with pytest.raises(ValueError, match=f"`{argument}` must be one finite"):
        setattr(model, argument, -1.0)
    assert getattr(model, argument) == 12345


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learning_rate_factor", "optimizer"),
    [(0.0, "SGD"), (0.25, "RMSprop"), (0.25, "Adam")],
)
def test_learning_rate_factor_scales_the_steps_below_the_hint(
    learning_rate_factor, optimizer
):
    x, y = networks.batch()
    steps = {}
    for factor in (1.0, learning_rate_factor):
        keras.utils.set_random_seed(1)
        make = getattr(keras.optimizers, optimizer)
        model = distiller(optimizer=make(0.01), stage="kd", hints=("conv1", "norm1"))
        model.learning_rate_factor = factor
        before = [w.numpy() for w in model.student.trainable_weights]
        fit(model, x, y, batch_size=12)
        after = [w.numpy() for w in model.student.trainable_weights]
        steps[factor] = [new - old for new, old in zip(after, before, strict=True)]
    one, scaled = steps.values()
    for i, (step, small) in enumerate(zip(one, scaled, strict=True)):
        below = i < 4  # conv1 and norm1, two variables each
        factor = learning_rate_factor if below else 1.0
        np.testing.assert_allclose(small, factor * step, rtol=1e-3, atol=2e-7)


@pytest.mark.slow
def test_hint_pairs_can_be_trained_one_at_a_time():
    model = distiller(hints=[("conv1", "conv1"), ("conv2", "conv2")], stage="hint")
    x, _ = networks.batch()
    model.active_hints = (0,)
    before = networks.numpy_variables(model.student)
    first = model.regressors[1].get_weights()
    fit(model, x)
    moved = networks.changed(before, networks.numpy_variables(model.student))
    assert moved == {"conv1"}
    np.testing.assert_array_equal(first[0], model.regressors[1].get_weights()[0])
    model.active_hints = (1,)
    fit(model, x)
    moved = networks.changed(before, networks.numpy_variables(model.student))
    assert moved == {"conv1", "norm1", "conv2"}


@pytest.mark.slow
@pytest.mark.graph
def test_stages_can_follow_each_other_under_one_optimizer():
    model, (x, y) = distiller(), networks.batch()
    seen = {}
    for stage in ("hint", "kd", "joint", "hint"):
        model.stage = stage
        seen[stage] = set(fit(model, x, y))
    terms = {"label_loss", "kd_loss", "accuracy", "loss"}
    assert seen == {
        "hint": {"hint_loss", "loss"},
        "kd": terms,
        "joint": terms | {"hint_loss"},
    }
    assert model.optimizer.iterations.numpy() == 4 * 3


@pytest.mark.slow
def test_stage_hint_needs_no_labels_and_kd_without_label_loss_neither():
    model, (x, _) = distiller(stage="hint"), networks.batch()
    history = fit(model, x)
    assert set(history) == {"hint_loss", "loss"}
    assert history["hint_loss"] == history["loss"]
    model = kf.Distiller(networks.sequential(8), networks.sequential(3, "small"))
    model.compile("adam")
    history = fit(model, x)
    assert set(history) == {"kd_loss", "loss"}
    np.testing.assert_allclose(history["loss"], 4 * np.array(history["kd_loss"]))


def test_several_outputs_are_each_distilled_by_their_own_activation():
    def network(width, name):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(width, "relu", name="hidden")(inputs)
        outputs = {
            "kind": keras.layers.Dense(3, name="kind")(x),
            "tags": keras.layers.Dense(2, "sigmoid", name="tags")(x),
            "size": keras.layers.Dense(1, name="size")(x),
        }
        return keras.Model(inputs, outputs, name=name)

    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    y = {
        "kind": np.array([0, 1, 2, 0, 1, 2]),
        "tags": np.eye(2, dtype="float32")[[0, 1, 0, 1, 0, 1]],
        "size": np.ones((6, 1), "float32"),
    }
    teacher, student = network(8, "teacher"), network(2, "student")
    activation = {"kind": "softmax", "tags": "auto", "size": None}
    model = kf.Distiller(
        *(teacher, student, ("hidden", "hidden")), activation=activation, stage="kd"
    )
    losses = {"kind": networks.LABEL_LOSS, "tags": "binary_crossentropy", "size": "mse"}
    model.compile("sgd", losses, metrics={"kind": ["accuracy"]})
    expected = sum(
        np.mean(
            derivatives.to_numpy(
                kf.soft_target_crossentropy(
                    teacher(x)[name], student(x)[name], 3.0, kind, from_logits
                )
            )
        )
        for name, kind, from_logits in [
            ("kind", "softmax", True),
            ("tags", "sigmoid", False),
        ]
    )
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)
    parts = [logs["kind_loss"], logs["tags_loss"], logs["size_loss"]]
    np.testing.assert_allclose(logs["label_loss"], sum(parts), rtol=1e-5)
    weight = {name: np.zeros(6) for name in y}
    logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    assert logs["loss"] == 0


def test_masked_steps_count_in_no_term():
    def network(width, name):
        inputs = keras.Input((5, 2))
        x = keras.layers.Masking(name="mask")(inputs)
        x = keras.layers.LSTM(width, return_sequences=True, name="hidden")(x)
        return keras.Model(inputs, keras.layers.Dense(3, name="out")(x), name=name)

    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32")
    x[:2, 3:] = 0.0
    y = np.random.default_rng(1).integers(3, size=(4, 5))
    teacher, student = network(6, "teacher"), network(2, "student")
    model = kf.Distiller(teacher, student, ("hidden", "hidden"))
    model.compile("sgd", networks.LABEL_LOSS)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    real = np.any(x != 0, axis=-1)
    to_numpy = derivatives.to_numpy
    values = to_numpy(kf.soft_target_crossentropy(teacher(x), student(x), 3.0))
    np.testing.assert_allclose(logs["kd_loss"], values[real].mean(), rtol=1e-5)
    hint = keras.Model(teacher.input, teacher.get_layer("hidden").output)(x)
    guided = keras.Model(student.input, student.get_layer("hidden").output)(x)
    guided = np.where(real[..., None], to_numpy(guided), 0.0)
    difference = to_numpy(hint) - to_numpy(model.regressors[0](guided))
    squares = np.square(difference).sum(-1) * real
    np.testing.assert_allclose(logs["hint_loss"], squares.sum() / 8, rtol=1e-5)


def test_penalties_are_part_of_the_loss():
    student = networks.sequential(3, "student")
    student.get_layer("conv1").kernel.regularizer = keras.regularizers.L2(0.1)
    student.get_layer("out").kernel.regularizer = keras.regularizers.L2(0.2)
    model, (x, y) = distiller(student=student), networks.batch()
    model.hint_weight = 1.0
    low = 0.1 * np.sum(student.get_layer("conv1").kernel.numpy() ** 2)
    high = 0.2 * np.sum(student.get_layer("out").kernel.numpy() ** 2)
    for stage, penalty in {"hint": low, "kd": low + high, "joint": low + high}.items():
        model.stage = stage
        logs = model.evaluate(x, y, verbose=0, return_dict=True)
        terms = {"label_loss": 1, "kd_loss": 4, "hint_loss": 1}
        total = sum(factor * logs.get(term, 0) for term, factor in terms.items())
        np.testing.assert_allclose(logs["loss"] - total, penalty, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize(
    ("options", "stages"),
    [({}, ("hint", "kd", "joint")), ({"jit_compile": True}, ("joint",))],
)
def test_float16_student_has_its_loss_scaled(options, stages):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = networks.sequential(3, "student")
    finally:
        keras.config.set_dtype_policy("float32")
    model = kf.Distiller(networks.sequential(8), student, PAIR)
    model.compile(keras.optimizers.SGD(1e-3), networks.LABEL_LOSS, **options)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = networks.batch()
    for stage in stages:
        model.stage = stage
        before = student.get_layer("conv1").kernel.numpy()
        # The first scales are too large on purpose, and their steps are left out.
        history = fit(model, x, y, batch_size=12, epochs=20)
        assert np.isfinite(history["loss"]).all()
        assert np.any(student.get_layer("conv1").kernel.numpy() != before)
