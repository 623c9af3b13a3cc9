"""What outputs mean, by which names they are known, and how they are compared."""

import derivatives
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers

import keras_fitnets as kf

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
CLASSES = np.arange(12) % 3


@pytest.fixture(autouse=True)
def _eager(eager):
    """Steps run eagerly: these tests are about values, not about the trace."""


def one(units=3, width=4, end=None, name=None):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(width, "tanh", name="h"),
            layers.Dense(units, end),
        ],
        name=name,
    )


def several(kind, names=("zoo", "ant"), units=3, width=4):
    """A network of several named outputs, a list or a dictionary of them."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(width, "tanh", name="h")(inputs)
    units = units if isinstance(units, tuple) else (units,) * len(names)
    outputs = {
        name: layers.Dense(count, name=name)(hidden)
        for name, count in zip(names, units, strict=True)
    }
    return keras.Model(inputs, outputs if kind == "dict" else list(outputs.values()))


def copy_heads(teacher, student, names=("zoo", "ant")):
    for name in ("h", *names):
        student.get_layer(name).set_weights(teacher.get_layer(name).get_weights())


def compiled(teacher, student, loss=None, metrics=None, loss_weights=None, **options):
    distiller = kf.Distiller(teacher, student, **options)
    distiller.compile("sgd", loss, metrics=metrics, loss_weights=loss_weights)
    return distiller


def logs_of(distiller, y=None, **options):
    return distiller.evaluate(X, y, verbose=0, return_dict=True, **options)


def out(network):
    outputs = network(X)
    if isinstance(outputs, dict):
        return {name: reference.f64(value) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [reference.f64(value) for value in outputs]
    return reference.f64(outputs)


def soft(teacher, student, temperature=3.0):
    return reference.soft_target_crossentropy(teacher, student, temperature).mean()


# What an output means


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("loss", ["mse", "mae", keras.losses.Huber(), "log_cosh"])
def test_a_regression_loss_makes_the_soft_term_a_squared_difference(units, loss):
    teacher, student = one(units), one(units, 2)
    distiller = compiled(teacher, student, loss)
    [pair] = distiller.output_pairs
    assert pair.activation == "linear"
    expected = np.mean((out(teacher) - out(student)) ** 2)
    logs = logs_of(distiller, np.zeros((12, units)))
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)
    # Neither τ nor τ² has a part in it.
    distiller.temperature = 10.0
    logs = logs_of(distiller, np.zeros((12, units)))
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("end", ["relu", "tanh", "softplus"])
def test_a_regression_may_end_in_any_function(end):
    teacher, student = one(2, end=end), one(2, 2, end=end)
    logs = logs_of(compiled(teacher, student, "mse"), np.zeros((12, 2)))
    expected = np.mean((out(teacher) - out(student)) ** 2)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="logits or probabilities"):
        compiled(teacher, student).fit(X, verbose=0)


def test_an_error_of_a_thousand_is_no_perfect_regression():
    teacher = one(4)
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    distiller = compiled(teacher, student, "mse")
    assert logs_of(distiller, np.zeros((12, 4)))["kd_loss"] == 0
    kernel, bias = student.layers[-1].get_weights()
    student.layers[-1].set_weights([kernel, bias + 1000])
    logs = logs_of(distiller, np.zeros((12, 4)))
    np.testing.assert_allclose(logs["kd_loss"], 1e6, rtol=1e-3)


@pytest.mark.slow
def test_a_student_of_numbers_learns_the_teachers_numbers():
    teacher, student = one(1), one(1)
    kernel, bias = teacher.layers[-1].get_weights()
    teacher.layers[-1].set_weights([kernel, bias + 50])
    distiller = kf.Distiller(teacher, student, lambda_=1.0, activation="linear")
    distiller.compile(keras.optimizers.Adam(0.5), run_eagerly=False)
    distiller.fit(X, epochs=150, verbose=0)
    assert np.abs(out(teacher) - out(student)).max() < 2


@pytest.mark.parametrize(
    ("loss", "units", "activation"),
    [
        (SPARSE, 3, "softmax"),
        (keras.losses.CategoricalFocalCrossentropy(from_logits=True), 3, "softmax"),
        (BINARY, 3, "sigmoid"),
        (BINARY, 1, "sigmoid"),
        ("mean_squared_error", 3, "linear"),
        (keras.losses.CosineSimilarity(), 3, "linear"),
        (kf.SoftTargetCrossentropy(activation="sigmoid"), 3, "sigmoid"),
    ],
)
def test_the_label_loss_says_what_a_linear_end_means(loss, units, activation):
    distiller = compiled(one(units), one(units, 2), loss)
    assert [pair.activation for pair in distiller.output_pairs] == [activation]


def test_a_loss_that_extends_one_of_keras_means_the_same():
    class Weighted(keras.losses.MeanSquaredError):
        pass

    [pair] = compiled(one(3), one(3), Weighted()).output_pairs
    assert pair.activation == "linear"


def test_the_loss_of_a_trained_network_says_it_where_there_is_no_label_loss():
    teacher = one(1)
    teacher.compile("adam", "mse")
    assert compiled(teacher, one(1)).output_pairs[0].activation == "linear"


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_an_explicit_end_says_more_than_a_loss(end):
    [pair] = compiled(one(3, end=end), one(3, 2, end=end), "mse").output_pairs
    assert pair.activation == end


def my_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


@pytest.mark.parametrize(("units", "loss"), [(1, None), (1, my_loss), (3, my_loss)])
def test_what_nothing_tells_is_an_error_that_lists_the_choices(units, loss):
    distiller = compiled(one(units), one(units), loss)
    with pytest.raises(ValueError, match=r'"softmax".*"sigmoid".*"linear"'):
        distiller.fit(X, np.zeros((12, units)), verbose=0)
    told = compiled(one(units), one(units), loss, activation="linear")
    told.fit(X, np.zeros((12, units)), verbose=0)


def test_losses_that_disagree_are_an_error():
    teacher, student = one(3), one(3)
    teacher.compile("sgd", "mse")
    student.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match="linear and softmax"):
        kf.Distiller(teacher, student)


def test_a_network_of_several_kinds_of_outputs_works_by_output():
    names, units = ("cls", "box"), (3, 4)
    teacher, student = (several("dict", names, units, w) for w in (5, 2))
    distiller = compiled(teacher, student, {"cls": SPARSE, "box": "mse"})
    meanings = [pair.activation for pair in distiller.output_pairs]
    assert meanings == ["linear", "softmax"]
    t, s = out(teacher), out(student)
    expected = soft(t["cls"], s["cls"]) + np.mean((t["box"] - s["box"]) ** 2)
    logs = logs_of(distiller, {"cls": CLASSES, "box": np.zeros((12, 4))})
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_outputs_without_an_axis_of_units_are_one_unit():
    def flat(width):
        inputs = keras.Input((4,))
        hidden = layers.Dense(width, "tanh")(inputs)
        return keras.Model(inputs, layers.Reshape(())(layers.Dense(1)(hidden)))

    teacher, student = flat(4), flat(2)
    weights = np.arange(12.0)
    distiller = compiled(teacher, student, "mse")
    logs = logs_of(distiller, np.zeros(12), sample_weight=weights)
    expected = np.mean(weights * (out(teacher) - out(student)) ** 2)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_an_ensemble_of_regressions_gives_the_mean_of_its_numbers():
    members, student = [one(2), one(2)], one(2)
    teacher = kf.Teacher(members, weights=[1, 3])
    distiller = compiled(teacher, student, "mse")
    target = 0.25 * out(members[0]) + 0.75 * out(members[1])
    expected = np.mean((target - out(student)) ** 2)
    logs = logs_of(distiller, np.zeros((12, 2)))
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_labels_that_would_be_broadcast_are_an_error():
    distiller = compiled(one(1), one(1), "mse")
    with pytest.raises(ValueError, match="broadcast"):
        distiller.fit(X, np.zeros((12, 3)), verbose=0)


# Losses of the user's own


def standardized(teacher, student, temperature):
    """Squared difference of standardised logits, in units of the temperature."""

    def standardize(a):
        mean = keras.ops.mean(a, axis=-1, keepdims=True)
        return (a - mean) / keras.ops.std(a, axis=-1, keepdims=True)

    difference = (standardize(teacher) - standardize(student)) / temperature
    return keras.ops.sum(keras.ops.square(difference), axis=-1)


def test_a_function_as_soft_loss_is_weighted_like_ours():
    teacher, student, weights = one(), one(width=2), np.arange(12.0)
    distiller = compiled(teacher, student, SPARSE, soft_loss=standardized)
    logs = logs_of(distiller, CLASSES, sample_weight=weights)

    def standardize(a):
        return (a - a.mean(-1, keepdims=True)) / a.std(-1, keepdims=True)

    difference = (standardize(out(teacher)) - standardize(out(student))) / 3.0
    expected = np.mean(weights * np.sum(difference**2, -1))
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-4)


def test_a_keras_loss_as_soft_loss_compares_logits():
    teacher, student = one(), one(width=2)
    own = keras.losses.MeanAbsoluteError()
    distiller = compiled(teacher, student, SPARSE, soft_loss=own)
    expected = np.mean(np.abs(out(teacher) - out(student)))
    np.testing.assert_allclose(
        logs_of(distiller, CLASSES)["kd_loss"], expected, rtol=1e-5
    )


def test_a_soft_loss_by_output_leaves_the_others_as_they_are():
    teacher, student = several("dict"), several("dict", width=2)
    own = {"ant": keras.losses.MeanSquaredError(), "zoo": None}
    distiller = compiled(teacher, student, SPARSE, soft_loss=own)
    t, s = out(teacher), out(student)
    expected = np.mean((t["ant"] - s["ant"]) ** 2) + soft(t["zoo"], s["zoo"])
    logs = logs_of(distiller, {"ant": CLASSES, "zoo": CLASSES})
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def mean_of_batch(teacher, student, temperature):
    return keras.ops.mean(keras.ops.square(teacher - student))


def too_few(teacher, student):
    return teacher - student


@pytest.mark.parametrize(
    ("own", "error", "match"),
    [
        (keras.losses.KLDivergence(), ValueError, "takes the teacher's probabilities"),
        (keras.losses.CategoricalCrossentropy(), ValueError, "probabilities"),
        (mean_of_batch, ValueError, "Do not average over the batch"),
        (too_few, ValueError, "cannot be called with"),
        ("mse", TypeError, "function of the teacher's logits"),
    ],
)
def test_a_soft_loss_that_cannot_be_right_is_refused_at_once(own, error, match):
    with pytest.raises(error, match=match):
        kf.Distiller(one(), one(), soft_loss=own)


def test_a_soft_loss_travels_with_the_distiller(tmp_path):
    own = keras.losses.Huber(delta=0.5)
    distiller = compiled(one(), one(width=2), SPARSE, soft_loss=own)
    expected = logs_of(distiller, CLASSES)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert logs_of(loaded, CLASSES) == expected


# Outputs by name


@pytest.mark.parametrize("kinds", [("dict", "list"), ("list", "dict"), ("list",) * 2])
def test_outputs_are_matched_by_their_names(kinds):
    teacher = several(kinds[0], ("zoo", "ant"))
    student = several(kinds[1], ("ant", "zoo"))
    copy_heads(teacher, student)
    t = out(teacher)
    values = t.values() if kinds[0] == "dict" else t
    # A perfect student: the cross-entropy of the teacher with itself.
    logs = logs_of(compiled(teacher, student))
    expected = sum(soft(value, value) for value in values)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_outputs_without_names_are_matched_by_position():
    def unnamed(width):
        inputs = keras.Input((4,))
        hidden = layers.Dense(width)(inputs)
        return keras.Model(inputs, [layers.Dense(3)(hidden), layers.Dense(3)(hidden)])

    teacher, student = unnamed(4), unnamed(2)
    expected = sum(soft(t, s) for t, s in zip(out(teacher), out(student), strict=True))
    logs = logs_of(compiled(teacher, student))
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "student_names", [("cat", "dog"), ("dense_11", "dense_12")], ids=["other", "none"]
)
def test_names_that_do_not_meet_are_an_error(student_names):
    with pytest.raises(ValueError, match="which output of teacher"):
        kf.Distiller(several("dict"), several("list", student_names))


def test_an_output_that_only_the_student_has_is_left_out_by_none():
    teacher, student = several("dict"), several("dict", ("ant", "new", "zoo"))
    with pytest.raises(ValueError, match="same outputs"):
        kf.Distiller(teacher, student)
    activation = {"ant": "auto", "zoo": "auto", "new": None}
    distiller = compiled(teacher, student, activation=activation)
    t, s = out(teacher), out(student)
    expected = soft(t["ant"], s["ant"]) + soft(t["zoo"], s["zoo"])
    np.testing.assert_allclose(logs_of(distiller)["kd_loss"], expected, rtol=1e-5)


def test_an_output_that_only_the_teacher_has_is_left_out_by_none():
    teacher, student = several("list", ("ant", "aux", "zoo")), several("list")
    with pytest.raises(ValueError, match="'student'|lacks"):
        kf.Distiller(teacher, student)
    activation = {"ant": "auto", "zoo": "auto", "aux": None}
    distiller = compiled(teacher, student, activation=activation)
    (ant, _, zoo), (own_zoo, own_ant) = out(teacher), out(student)
    expected = soft(ant, own_ant) + soft(zoo, own_zoo)
    np.testing.assert_allclose(logs_of(distiller)["kd_loss"], expected, rtol=1e-5)


BOTH = {"zoo": SPARSE, "ant": SPARSE}
LABELS = {"zoo": CLASSES, "ant": CLASSES[::-1].copy()}


@pytest.mark.parametrize(
    ("kind", "loss", "labels", "metrics"),
    [
        ("list", BOTH, LABELS, None),
        ("list", BOTH, list(LABELS.values()), None),
        ("list", SPARSE, LABELS, None),
        ("list", [SPARSE, SPARSE], LABELS, {"zoo": ["accuracy"], "ant": ["accuracy"]}),
        ("list", SPARSE, LABELS, {"zoo": "accuracy"}),
        ("dict", BOTH, LABELS, {"zoo": "accuracy"}),
        ("dict", {"zoo": SPARSE}, {"zoo": CLASSES}, None),
        ("list", [SPARSE, None], [CLASSES], None),
    ],
)
def test_what_keras_takes_by_name_is_taken(kind, loss, labels, metrics):
    student = several(kind)
    student.compile("sgd", loss, metrics=metrics)
    expected = student.evaluate(X, labels, verbose=0, return_dict=True)
    distiller = compiled(several(kind), student, loss, metrics)
    logs = logs_of(distiller, labels)
    np.testing.assert_allclose(logs["label_loss"], expected.pop("loss"), rtol=1e-5)
    # All that Keras logs is logged, under the same names.
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)
    distiller.fit(X, labels, verbose=0)


def test_a_single_output_is_known_by_its_name():
    def named(width):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(3, name="zoo")(inputs))

    distiller = compiled(named(4), named(2), {"zoo": SPARSE}, {"zoo": "accuracy"})
    assert distiller.output_names == ["zoo"]
    for labels in (CLASSES, {"zoo": CLASSES}):
        outputs = out(distiller.student)
        expected = reference.crossentropy(np.eye(3)[CLASSES], outputs).mean()
        logs = logs_of(distiller, labels)
        np.testing.assert_allclose(logs["label_loss"], expected, rtol=1e-5)
        distiller.fit(X, labels, verbose=0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("loss", {"zoo": SPARSE, "cat": SPARSE}), ("activation", {"zoo": "auto"})],
)
def test_unknown_and_missing_names_are_an_error(argument, value):
    loss = value if argument == "loss" else SPARSE
    options = {argument: value} if argument == "activation" else {}
    with pytest.raises(ValueError, match="cat|Name every output"):
        compiled(several("list"), several("list"), loss, **options).fit(
            X, LABELS, verbose=0
        )


def test_labels_missing_for_an_output_with_a_loss_are_an_error():
    distiller = compiled(several("dict"), several("dict"), SPARSE)
    with pytest.raises(ValueError, match="each output with a loss"):
        distiller.fit(X, {"zoo": CLASSES}, verbose=0)


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_loss_weights_reach_the_soft_term(kind):
    teacher, student = several(kind), several(kind, width=2)
    weights = {"zoo": 0.25, "ant": 2.0}
    distiller = compiled(teacher, student, BOTH, loss_weights=weights)
    t, s = out(teacher), out(student)
    if kind == "list":
        t, s = (dict(zip(("zoo", "ant"), v, strict=True)) for v in (t, s))
    expected = sum(weights[name] * soft(t[name], s[name]) for name in weights)
    logs = logs_of(distiller, LABELS)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_soft_weights_stand_in_place_of_loss_weights():
    teacher, student = several("dict"), several("dict", width=2)
    weights = {"zoo": 0.5, "ant": 3.0}
    distiller = compiled(
        *(teacher, student, BOTH),
        loss_weights={"zoo": 7.0, "ant": 7.0},
        soft_weights=weights,
    )
    t, s = out(teacher), out(student)
    expected = sum(weights[name] * soft(t[name], s[name]) for name in weights)
    logs = logs_of(distiller, LABELS)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_sample_weights_by_name_find_their_outputs():
    teacher, student = several("list"), several("list", width=2)
    weights = {"ant": np.arange(12.0), "zoo": np.ones(12)}
    distiller = compiled(teacher, student, BOTH)
    logs = logs_of(distiller, LABELS, sample_weight=weights)
    values = [
        reference.soft_target_crossentropy(t, s, 3.0)
        for t, s in zip(out(teacher), out(student), strict=True)
    ]
    expected = values[0].mean() + np.mean(weights["ant"] * values[1])
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


# Infinite logits


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_class_that_both_rule_out_adds_nothing(activation):
    finite = RNG.normal(size=(2, 5, 3))
    teacher, student = (np.insert(a, 1, -np.inf, axis=-1) for a in finite)

    def function(student):
        return kf.soft_target_crossentropy(teacher, student, 3.0, activation)

    values = derivatives.to_numpy(function(student))
    [gradient] = derivatives.gradients(function, [student])
    expected = reference.soft_target_crossentropy(*finite, 3.0, activation)
    scale = 1 / 3
    if activation == "sigmoid":
        # A mean over the units, of which there is one more.
        expected, scale = expected * 3 / 4, 1 / 3 / 4
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    probabilities = [reference.probabilities(a, 3.0, activation) for a in finite]
    difference = (probabilities[1] - probabilities[0]) * scale
    np.testing.assert_allclose(
        gradient, np.insert(difference, 1, 0.0, axis=-1), rtol=1e-10, atol=1e-15
    )


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_ensemble_may_rule_a_class_out(average, activation):
    teacher = kf.Teacher([one(), one()], average=average)
    members = [np.insert(RNG.normal(size=(5, 3)), 1, -np.inf, -1) for _ in range(2)]
    members = [keras.ops.convert_to_tensor(member) for member in members]
    logits = teacher.soft_logits(members, 3.0, activation)
    student = np.insert(RNG.normal(size=(5, 3)), 1, -np.inf, axis=-1)
    values = kf.soft_target_crossentropy(logits, student, 3.0, activation)
    assert np.isfinite(derivatives.to_numpy(values)).all()
    assert (derivatives.to_numpy(logits)[:, 1] == -np.inf).all()


# Sizes that only a batch tells


def of_any_size(width, stride):
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(width, 3, strides=stride, padding="same", name="h"),
            layers.Conv2D(5, 1),
        ]
    )


@pytest.mark.parametrize("stride", [8, 4])
def test_maps_of_other_sizes_stop_the_step_with_both_sizes(stride):
    distiller = compiled(of_any_size(4, stride), of_any_size(2, 2))
    x, size = np.zeros((2, 8, 8, 3), "float32"), 8 // stride
    message = rf"\(2, {size}, {size}, 5\), student \(2, 4, 4, 5\).*reduce the size"
    with pytest.raises(ValueError, match=message):
        distiller.fit(x, verbose=0)


@pytest.mark.graph
def test_maps_of_other_sizes_are_compared_in_the_graph():
    images = tf.data.Dataset.from_generator(
        lambda: iter(np.zeros((4, 8, 8, 3), "float32")),
        output_signature=tf.TensorSpec((None, None, 3)),
    ).batch(2)
    distiller = compiled(of_any_size(4, 8), of_any_size(2, 2))
    # In a graph of TensorFlow the sizes are compared when it runs.
    sizes = r"(?s)2,? 1,? 1,? 5.*2,? 4,? 4,? 5.*reduce the size"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=sizes):
        distiller.fit(images, shuffle=False, verbose=0)


# Hints alone


def test_stage_hint_asks_nothing_of_the_outputs():
    hints = ("h", "h")
    for teacher, student, activation in (
        (one(32), one(8), "auto"),
        (one(1), one(1), None),
        (one(3, end="softmax"), one(3, end="sigmoid"), "auto"),
    ):
        distiller = kf.Distiller(
            teacher, student, hints=hints, stage="hint", activation=activation
        )
        distiller.compile("sgd")
        expected = distiller.evaluate(X, verbose=0, return_dict=True)
        assert sorted(expected) == ["hint_loss", "loss"]
        distiller.fit(X, verbose=0)
    with pytest.raises(ValueError, match="Make them agree"):
        distiller.stage = "kd"


def test_without_soft_targets_stage_joint_is_labels_and_hints():
    distiller = kf.Distiller(one(), one(), hints=("h", "h"), activation=None)
    distiller.compile("sgd", SPARSE)
    assert sorted(logs_of(distiller, CLASSES)) == ["hint_loss", "label_loss", "loss"]
    with pytest.raises(ValueError, match="nothing to teach"):
        distiller.stage = "kd"


# Keras' own hook for losses


class WithPenalty(kf.Distiller):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return super().compute_loss(x, y, y_pred, sample_weight) + 1000.0


@pytest.mark.parametrize("loss", [SPARSE, None])
def test_an_overridden_compute_loss_is_asked(loss):
    teacher, student = one(), one(width=2)
    plain, own = compiled(teacher, student, loss), WithPenalty(teacher, student)
    own.compile("sgd", loss)
    expected = logs_of(plain, CLASSES)
    logs = logs_of(own, CLASSES)
    label_loss = expected.get("label_loss", 0.0)
    np.testing.assert_allclose(logs["label_loss"], label_loss + 1000, rtol=1e-6)
    np.testing.assert_allclose(logs["loss"], expected["loss"] + 1000, rtol=1e-6)


# The weight of the hints


def test_the_hint_weight_of_stage_joint_is_a_mean_over_the_features():
    distiller = kf.Distiller(one(width=16), one(), hints=("h", "h"))
    assert distiller.hint_weight == pytest.approx(1 / 16)
    distiller.compile("sgd", SPARSE)
    logs = logs_of(distiller, CLASSES)
    expected = logs["label_loss"] + 4 * logs["kd_loss"] + logs["hint_loss"] / 16
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_features_of_unknown_number_are_counted_in_the_step():
    distiller = kf.Distiller(of_any_size(4, 2), of_any_size(2, 2), hints=("h", "h"))
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    x = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
    logs = distiller.evaluate(x, np.ones((3, 4, 4)), verbose=0, return_dict=True)
    weighted = logs["loss"] - logs["label_loss"] - 4 * logs["kd_loss"]
    np.testing.assert_allclose(weighted, logs["hint_loss"] / (4 * 4 * 4), rtol=1e-3)


# What looks at the outputs besides the loss


def ruled_out(width):
    """A network that rules its second class out by a logit of minus infinity."""
    inputs = keras.Input((4,))
    logits = layers.Dense(3)(layers.Dense(width, "tanh", name="h")(inputs))
    penalty = np.array([0.0, -np.inf, 0.0], "float32")
    return keras.Model(inputs, keras.ops.add(logits, penalty))


def test_a_class_that_is_ruled_out_is_no_fault_to_check_numerics():
    teacher, student = ruled_out(4), ruled_out(2)
    distiller = compiled(teacher, student, from_logits=True)
    before = student.get_weights()
    distiller.fit(X, callbacks=[kf.CheckNumerics()], verbose=0)
    assert distiller.first_not_finite is None
    after = student.get_weights()
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    assert np.isfinite(logs_of(distiller)["kd_loss"])


def test_the_monitor_gives_a_regression_an_r2_and_no_agreement():
    teacher, student = one(2), one(2)
    distiller = compiled(teacher, student, "mse")
    monitor = kf.StudentMonitor(X)
    logs = distiller.fit(X, np.zeros((12, 2)), callbacks=[monitor], verbose=0).history
    t, s = out(teacher), out(student)
    expected = 1 - np.sum((t - s) ** 2) / np.sum((t - t.mean(0)) ** 2)
    np.testing.assert_allclose(logs["output_r2"], [expected], rtol=1e-5)
    assert "agreement" not in logs


def test_a_curriculum_is_drawn_of_classes_alone():
    distiller = compiled(one(2), one(2), "mse")
    with pytest.raises(ValueError, match="numbers of a regression"):
        kf.plots.curriculum(distiller, X, np.zeros(12, int), lambdas=[1.0])


class Subclassed(keras.Model):
    """A network that shows neither its graph nor its end."""

    def __init__(self, width, end=None):
        super().__init__()
        self.hidden = layers.Dense(width, "tanh")
        self.last = layers.Dense(3, end)
        self(X)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def test_from_logits_is_said_once_for_teacher_and_student():
    inputs = keras.Input((4,))
    hidden = layers.Dense(2)(inputs)
    # The end of the student is code that shows no activation.
    student = keras.Model(
        inputs, layers.Lambda(lambda a: 2 * a)(layers.Dense(3)(hidden))
    )
    teacher = Subclassed(4)
    with pytest.raises(ValueError, match="logits or probabilities"):
        compiled(teacher, student, SPARSE).fit(X, CLASSES, verbose=0)
    distiller = kf.Distiller(teacher, student, from_logits=True)
    distiller.compile("sgd", SPARSE)
    expected = soft(out(teacher), out(student))
    logs = logs_of(distiller, CLASSES)
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)
