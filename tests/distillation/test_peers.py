"""What keras.distillation gets wrong (Keras 3.15.1), row by row, is right here."""

import functools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")

LAMBDA, TEMPERATURE = 4.0, 3.0
LABEL_LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)


def distil(
    teacher, student, loss=LABEL_LOSS, optimizer=None, compile_options=None, **options
):
    defaults = {"temperature": TEMPERATURE, "lambda_": LAMBDA, "hint_weight": 1.0}
    distiller = kf.Distiller(teacher, student, **defaults | options)
    distiller.compile(
        optimizer or keras.optimizers.SGD(1.0), loss, **compile_options or {}
    )
    return distiller


def teacher_network(**options):
    return tiny.network(**{"hidden": 7, "seed": 1} | options)


def joint(teacher=None, student=None, **options):
    """Both terms and a hint; regressor, teacher and student are always the same."""
    hints = options.pop("hints", ("hidden", "hidden"))
    distiller = distil(
        teacher or teacher_network(), student or tiny.network(), hints=hints, **options
    )
    for regressor in distiller.regressors:
        tiny.redrawn(regressor, seed=6)
    return distiller


def terms(distiller, x, y, teacher=None):
    """One value per sample of each term of Eq. 2 and of Eq. 3, by the reference."""
    arrays = tiny.weights(distiller)
    teacher = teacher or distiller.teacher.models[0]
    hint, soft = reference.hidden_and_logits(x, teacher.get_weights(), "tanh")
    guided, logits = reference.hidden_and_logits(x, arrays[:4], "tanh")
    values = {
        "label": reference.crossentropy(y, logits),
        "kd": reference.soft_target_crossentropy(soft, logits, TEMPERATURE),
    }
    if arrays[4:]:
        values["hint"] = reference.hint_loss(
            hint, reference.regress(guided, arrays[4:], "tanh")
        )
    return values


def expected_logs(distiller, x, y, **options):
    return reference.stage_logs(
        distiller.stage, **terms(distiller, x, y), lambda_=LAMBDA, **options
    )


def still(**options):
    """A Distiller that steps, and stays where it is."""
    return joint(optimizer=keras.optimizers.SGD(0.0), **options)


def two_replicas():
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) > 1, (
        "conftest.py must make two logical CPUs before TensorFlow starts"
    )
    # a second strategy would reuse the keys of the first one's collective operations
    one_device = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(
        [device.name for device in devices[:2]], one_device
    )


# Row 1


def test_row_1_the_default_soft_loss_is_the_softened_crossentropy():
    x, y = tiny.data()
    teacher = teacher_network()
    distiller = distil(teacher, tiny.network())
    logs = tiny.evaluate(distiller, x, y)
    tiny.assert_logs(logs, expected_logs(distiller, x, y))
    _, soft = reference.hidden_and_logits(x, teacher.get_weights(), "tanh")
    _, logits = reference.hidden_and_logits(x, tiny.weights(distiller), "tanh")
    p, q = (reference.probabilities(a, TEMPERATURE) for a in (soft, logits))
    divergence = np.mean(np.sum(p * np.log(p / q), axis=-1))
    entropy = np.mean(reference.crossentropy(p, soft / TEMPERATURE))
    np.testing.assert_allclose(logs["kd_loss"] - entropy, divergence, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.graph
def test_row_1_a_student_trained_by_the_soft_loss_alone_learns_its_teacher():
    x, y = tiny.data(samples=256)
    teacher = teacher_network()
    distiller = distil(
        teacher,
        tiny.network(hidden=16, seed=5),
        loss=lambda y_true, y_pred: 0.0 * keras.ops.sum(y_pred, axis=-1),
        optimizer=keras.optimizers.Adam(0.05),
        activation="softmax",
    )

    def agreement():
        outputs = [reference.f64(one(x)) for one in (distiller.student, teacher)]
        return np.mean(np.argmax(outputs[0], -1) == np.argmax(outputs[1], -1))

    assert agreement() < 0.6
    tiny.fit(distiller, np.tile(x, (30, 1)), np.tile(y, (30, 1)), batch_size=32)
    assert agreement() > 0.95


# Row 2


def test_row_2_an_opposed_confident_student_gets_its_gradient():
    def constant(*logits):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
        model.set_weights([np.zeros((1, 2)), np.array(logits)])
        return model

    student = constant(-20.0, 20.0)
    distiller = distil(constant(20.0, 0.0), student, lambda_=1.0, temperature=1.0)
    _, bias = tiny.gradients(distiller, np.zeros((4, 1)), np.tile([0.0, 1.0], (4, 1)))
    np.testing.assert_allclose(bias, [-1.0, 1.0], rtol=1e-5)


# Rows 3 and 4


class Counting(keras.layers.Layer):
    """Counts how often it runs."""

    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs


def normalised_student():
    return tiny.redrawn(
        keras.Sequential(
            [
                keras.Input(tiny.SHAPES["dense"]),
                keras.layers.Dense(5, name="dense"),
                keras.layers.BatchNormalization(momentum=0.9, name="guided"),
                Counting(name="counting"),
                keras.layers.Dense(tiny.CLASSES),
            ]
        )
    )


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
def test_row_3_evaluation_changes_nothing(stage):
    distiller = joint(
        student=normalised_student(), hints=("hidden", "guided"), stage=stage
    )
    before = tiny.weights(distiller)
    tiny.evaluate(distiller, *tiny.data())
    distiller.predict(tiny.data()[0], verbose=0)
    for old, new in zip(before, tiny.weights(distiller), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
def test_row_4_a_step_updates_batch_statistics_once(stage):
    student = normalised_student()
    distiller = joint(student=student, hints=("hidden", "guided"), stage=stage)
    norm = student.get_layer("guided")
    x, y = tiny.data()
    inputs = np.asarray(student.get_layer("dense")(x), "float64")
    mean, variance = (np.asarray(v) for v in (norm.moving_mean, norm.moving_variance))
    tiny.fit(distiller, x, y)
    np.testing.assert_allclose(
        norm.moving_mean, 0.9 * mean + 0.1 * inputs.mean(0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        norm.moving_variance, 0.9 * variance + 0.1 * inputs.var(0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_row_4_a_step_runs_the_student_once():
    student = normalised_student()
    distiller = joint(
        student=student,
        hints=("hidden", "guided"),
        compile_options={"run_eagerly": True},
    )
    tiny.fit(distiller, *tiny.data())
    before = student.get_layer("counting").calls
    tiny.fit(distiller, *tiny.data(), batch_size=2)
    assert student.get_layer("counting").calls - before == tiny.SAMPLES // 2


# Row 5


@pytest.mark.slow
@pytest.mark.graph
def test_row_5_two_replicas_step_like_one():
    """Of the one sample of the last batch a replica gets none.

    Other stages, batches and numbers of replicas are in test_replicas.
    """
    x, y = tiny.data(samples=8 + 1)
    weight = np.linspace(0.5, 3.0, len(x), dtype="float32")

    def two_steps():
        decay = keras.regularizers.L2(0.1)
        distiller = joint(
            student=tiny.network(kernel_regularizer=decay),
            optimizer=keras.optimizers.SGD(0.05),
        )
        logs = tiny.evaluate(distiller, x, y, sample_weight=weight, batch_size=8)
        history = tiny.fit(distiller, x, y, sample_weight=weight, batch_size=8)
        logs |= {f"fit_{name}": values[0] for name, values in history.items()}
        return logs, tiny.weights(distiller)

    logs, weights = two_steps()
    with two_replicas().scope():
        actual_logs, actual_weights = two_steps()
    tiny.assert_logs(actual_logs, logs)
    for actual, expected in zip(actual_weights, weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


# Row 6


@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
def test_row_6_samples_of_no_weight_teach_nothing(stage):
    x, y = tiny.data()
    distiller = joint(stage=stage)
    nothing = np.zeros(len(x), "float32")
    assert set(tiny.evaluate(distiller, x, y, sample_weight=nothing).values()) == {0.0}
    for gradient in tiny.gradients(distiller, x, y, sample_weight=nothing):
        np.testing.assert_array_equal(gradient, 0.0)


def test_row_6_class_weights_weigh_every_term():
    x, y = tiny.data()
    class_weight = {0: 0.5, 1: 2.0, 2: 3.0}
    distiller = still()
    expected = expected_logs(
        distiller, x, y, sample_weight=y @ list(class_weight.values())
    )
    history = tiny.fit(distiller, x, y, class_weight=class_weight)
    tiny.assert_logs({name: values[0] for name, values in history.items()}, expected)


class Costly(keras.layers.Layer):
    """Adds a loss of its own."""

    def call(self, inputs):
        self.add_loss(0.5 * keras.ops.mean(inputs**2))
        return inputs


def costly_student():
    decay = keras.regularizers.L2(0.1)
    inputs = keras.Input(tiny.SHAPES["dense"])
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=decay, name="hidden")(
        Costly()(inputs)
    )
    outputs = keras.layers.Dense(tiny.CLASSES, kernel_regularizer=decay, name="out")(
        Costly()(hidden)
    )
    return tiny.redrawn(keras.Model(inputs, outputs))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["hint", "kd", "joint"])
def test_row_6_regularisers_and_added_losses_count(stage):
    x, y = tiny.data()
    regressor = keras.layers.Dense(
        7, "tanh", kernel_regularizer=keras.regularizers.L2(0.2)
    )
    distiller = joint(
        student=costly_student(),
        stage=stage,
        hints=kf.Hint("hidden", "hidden", regressor=regressor),
    )
    kernel, _, out_kernel, _ = distiller.student.get_weights()
    guided, _ = reference.hidden_and_logits(x, distiller.student.get_weights(), "tanh")
    extra = 0.5 * np.mean(reference.f64(x) ** 2) + 0.1 * np.sum(kernel**2)
    if stage != "hint":
        extra += 0.5 * np.mean(guided**2) + 0.1 * np.sum(out_kernel**2)
    if stage != "kd":
        extra += 0.2 * np.sum(distiller.regressors[0].get_weights()[0] ** 2)
    expected = expected_logs(distiller, x, y)
    expected["loss"] += extra
    tiny.assert_logs(tiny.evaluate(distiller, x, y), expected)
    (loss,) = tiny.fit(distiller, x, y)["loss"]
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)


# Row 7


@pytest.mark.parametrize("container", [list, dict])
def test_row_7_several_outputs(container):
    ends = {"kind": ("softmax", 3), "marks": ("sigmoid", 2)}

    def arranged(values):
        return values if container is dict else list(values.values())

    def network(seed):
        inputs = keras.Input((6,))
        heads = {
            name: keras.layers.Dense(n, end, name=name)(inputs)
            for name, (end, n) in ends.items()
        }
        return tiny.redrawn(keras.Model(inputs, arranged(heads)), seed)

    x, kind = tiny.data()
    _, marks = tiny.data(activation="sigmoid", classes=2)
    labels = {"kind": kind, "marks": marks}
    teacher, student = network(1), network(2)
    distiller = distil(
        teacher,
        student,
        loss=arranged(
            {"kind": "categorical_crossentropy", "marks": "binary_crossentropy"}
        ),
    )
    outputs = {}
    for name, (end, _) in ends.items():
        soft, logits = (
            x @ model.get_layer(name).get_weights()[0]
            + model.get_layer(name).get_weights()[1]
            for model in (teacher, student)
        )
        outputs[name] = (
            np.mean(reference.crossentropy(labels[name], logits, end)),
            np.mean(reference.soft_target_crossentropy(soft, logits, TEMPERATURE, end)),
        )
    label, kd = np.sum(list(outputs.values()), axis=0)
    logs = {"label_loss": label, "kd_loss": kd, "loss": label + LAMBDA * kd}
    tiny.assert_logs(tiny.evaluate(distiller, x, arranged(labels)), logs)
    history = tiny.fit(distiller, x, arranged(labels))
    tiny.assert_logs({name: history[name][0] for name in logs}, logs)


# Row 8


def pooled_network(pools, seed):
    """A last feature map of 8×8×8, or of 1×1×8 after pooling."""
    layers = [
        keras.layers.Conv2D(8, 1),
        keras.layers.MaxPooling2D(8 if pools else 1, name="map"),
    ]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    return tiny.redrawn(
        keras.Sequential([keras.Input((8, 8, 3)), *layers, *head]), seed
    )


@pytest.mark.parametrize("teacher_pools", [False, True])
def test_row_8_features_of_other_shapes_meet_through_a_regressor(teacher_pools):
    distiller = distil(
        pooled_network(teacher_pools, 1),
        pooled_network(not teacher_pools, 2),
        hints=("map", "map"),
    )
    shapes = [(2, 8, 8, 8), (2, 1, 1, 8)]
    hint, guided = shapes[::-1] if teacher_pools else shapes
    assert distiller.regressors[0](np.ones(guided, "float32")).shape == hint


def test_row_8_a_regressor_that_misses_the_hint_raises_at_construction():
    hint = kf.Hint("map", "map", regressor=keras.layers.Dense(8))
    with pytest.raises(ValueError, match="map") as error:
        kf.Distiller(pooled_network(False, 1), pooled_network(True, 2), hints=hint)
    assert all(shape in str(error.value) for shape in ("8, 8, 8", "1, 1, 8"))


@pytest.mark.parametrize(
    ("teacher_classes", "student_classes"), [(4, 3), (1, 3), (3, 1)]
)
def test_row_8_outputs_of_other_shapes_raise_at_construction(
    teacher_classes, student_classes
):
    with pytest.raises(ValueError, match="shape|classes|units"):
        kf.Distiller(
            tiny.network(classes=teacher_classes), tiny.network(classes=student_classes)
        )


# Row 9


@pytest.mark.slow
@pytest.mark.graph
def test_row_9_lambda_and_temperature_are_not_baked_into_the_trace():
    x, y = tiny.data()
    distiller = still(stage="kd")
    values = {name: np.mean(value) for name, value in terms(distiller, x, y).items()}
    history = tiny.fit(
        distiller, x, y, epochs=3, callbacks=[kf.LambdaAnnealing(4.0, 0.0, epochs=2)]
    )
    np.testing.assert_allclose(
        (history["lambda"][0], history["lambda"][-1]), (4.0, 0.0)
    )
    expected = [
        values["label"] + lambda_ * values["kd"] for lambda_ in history["lambda"]
    ]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.graph
def test_row_9_there_are_a_regressor_and_stages():
    x, y = tiny.data()
    distiller = joint(stage="hint", optimizer=keras.optimizers.Adam(0.02))
    assert distiller.regressors[0](np.ones((2, 5), "float32")).shape == (2, 7)
    before = tiny.evaluate(distiller, x)["loss"]
    tiny.fit(distiller, np.tile(x, (100, 1)), batch_size=len(x))
    assert tiny.evaluate(distiller, x)["loss"] < 0.2 * before
    distiller.stage = "kd"
    distiller.compile(keras.optimizers.SGD(0.0), LABEL_LOSS)
    tiny.assert_logs(tiny.evaluate(distiller, x, y), expected_logs(distiller, x, y))


# Row 10


@pytest.mark.slow
@pytest.mark.graph
def test_row_10_the_teacher_is_left_as_it_was():
    teacher = teacher_network()
    teacher.get_layer("out").trainable = False
    flags = [layer.trainable for layer in (teacher, *teacher.layers)]
    trainable, before = len(teacher.trainable_weights), teacher.get_weights()
    distiller = joint(teacher)
    tiny.fit(distiller, *tiny.data(), epochs=2)
    owned = {id(v) for v in distiller.trainable_variables}
    assert not owned & {id(v) for v in teacher.variables}
    del distiller
    assert [layer.trainable for layer in (teacher, *teacher.layers)] == flags
    assert len(teacher.trainable_weights) == trainable == 2
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_row_10_a_layer_shared_with_the_teacher_keeps_its_flag_and_its_weights():
    shared = keras.layers.Dense(5, "tanh", name="shared")

    def network():
        inputs = keras.Input(tiny.SHAPES["dense"])
        return keras.Model(inputs, keras.layers.Dense(tiny.CLASSES)(shared(inputs)))

    teacher, student = network(), network()
    with pytest.raises(ValueError, match=r"\['shared'\] are the teacher's own"):
        distil(teacher, student)
    assert shared.trainable
    shared.trainable = False
    before, head = teacher.get_weights(), student.layers[-1].get_weights()
    tiny.fit(distil(teacher, student), *tiny.data())
    assert not shared.trainable
    assert len(student.trainable_weights) == len(teacher.trainable_weights) == 2
    assert np.any(student.layers[-1].get_weights()[0] != head[0])
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


# Row 11


def weight_file(distiller, folder):
    distiller.save_weights(folder / "d.weights.h5")


def backup(distiller, folder):
    callback = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    tiny.fit(distiller, *tiny.data(), callbacks=[callback])


def best_weights(distiller, folder):
    callback = keras.callbacks.ModelCheckpoint(
        folder / "best.weights.h5", save_weights_only=True
    )
    tiny.fit(distiller, *tiny.data(), callbacks=[callback])


def tensorflow_checkpoint(distiller, folder):
    tf.train.Checkpoint(distiller).write(str(folder / "checkpoint"))


@pytest.mark.parametrize(
    "write", [weight_file, backup, best_weights, tensorflow_checkpoint]
)
def test_row_11_a_checkpoint_does_not_carry_the_teacher(write, tmp_path):
    sizes = []
    for width in (7, 7000):
        folder = tmp_path / str(width)
        folder.mkdir()
        write(joint(teacher_network(hidden=width), stage="kd", hints=None), folder)
        sizes.append(
            sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        )
    assert sizes[0] > 0
    assert abs(sizes[1] - sizes[0]) < 1000, sizes


# Row 12


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("stage", ["hint", "joint"])
def test_row_12_a_loaded_distiller_trains_on_where_it_stopped(stage, tmp_path):
    x, y = tiny.data()
    distiller = joint(stage=stage, optimizer=keras.optimizers.Adam(0.01))
    tiny.fit(distiller, x, y, epochs=3)
    distiller.lambda_, distiller.temperature = 2.5, 7.0
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert (loaded.stage, loaded.lambda_, loaded.temperature) == (stage, 2.5, 7.0)
    histories = [tiny.fit(model, x, y, epochs=2) for model in (distiller, loaded)]
    assert histories[0] == histories[1]
    for ours, expected in zip(
        tiny.weights(loaded), tiny.weights(distiller), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


# Row 13


@pytest.mark.slow
def test_row_13_logged_losses_are_means_over_samples():
    """Row 5 says that two replicas log the same."""
    x, y = tiny.data(samples=101)
    x[-1] *= 100.0
    distiller = still()
    expected = expected_logs(distiller, x, y)
    tiny.assert_logs(tiny.evaluate(distiller, x, y, batch_size=100), expected)
    history = tiny.fit(distiller, x, y, batch_size=100)
    tiny.assert_logs({name: values[0] for name, values in history.items()}, expected)


# Row 14


def test_row_14_one_pair_in_a_list_keeps_its_weight():
    x, y = tiny.data()
    logs = []
    for weight in (1.0, 3.0):
        distiller = joint(hints=[kf.Hint("hidden", "hidden", weight)], hint_weight=0.5)
        logs.append(tiny.evaluate(distiller, x, y))
    np.testing.assert_allclose(
        logs[1]["hint_loss"], 3.0 * logs[0]["hint_loss"], rtol=1e-6
    )
    np.testing.assert_allclose(
        logs[1]["loss"], logs[0]["loss"] + 0.5 * 2.0 * logs[0]["hint_loss"], rtol=1e-5
    )


@pytest.mark.parametrize("argument", ["hint_weight", "lambda_", "temperature"])
def test_row_14_a_list_where_one_number_belongs_raises(argument):
    with pytest.raises((ValueError, TypeError), match=argument):
        joint(**{argument: [3.0]})


# Row 15


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """The network of tiny.network, without a graph."""

    def __init__(self, hidden, seed):
        super().__init__()
        self.hidden = keras.layers.Dense(hidden, "tanh", name="hidden")
        self.out = keras.layers.Dense(tiny.CLASSES, name="out")
        self.build((None, *tiny.SHAPES["dense"]))
        tiny.redrawn(self, seed)

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.out.build((None, self.hidden.units))
        self.built = True

    def call(self, inputs):
        return self.out(self.hidden(inputs))


def nested(hidden, seed):
    inner = tiny.network(hidden=hidden, seed=seed)
    backbone = keras.Model(
        inner.inputs, inner.get_layer("hidden").output, name="backbone"
    )
    inputs = keras.Input(tiny.SHAPES["dense"])
    return tiny.redrawn(
        keras.Model(inputs, keras.layers.Dense(tiny.CLASSES)(backbone(inputs))), seed
    )


def functional(hidden, seed, dtype="float32"):
    keras.config.set_dtype_policy(dtype)
    try:
        return tiny.network(hidden=hidden, seed=seed)
    finally:
        keras.config.set_dtype_policy("float32")


def in_dtype(dtype):
    return functools.partial(functional, dtype=dtype)


KINDS = {
    # name: (teacher, student, hint layer, guided layer, tolerance)
    "nested": (nested, nested, "backbone/hidden", "backbone/hidden", 1e-5),
    "nested_teacher": (nested, functional, "backbone/hidden", "hidden", 1e-5),
    "subclassed": (Subclassed, Subclassed, "hidden", "hidden", 1e-5),
    "subclassed_teacher": (Subclassed, functional, "hidden", "hidden", 1e-5),
    "subclassed_student": (functional, Subclassed, "hidden", "hidden", 1e-5),
    "float64_teacher": (in_dtype("float64"), functional, "hidden", "hidden", 1e-5),
    "float16_teacher": (
        in_dtype("mixed_float16"),
        functional,
        "hidden",
        "hidden",
        1e-2,
    ),
    "float16_student": (
        functional,
        in_dtype("mixed_float16"),
        "hidden",
        "hidden",
        1e-2,
    ),
    "bfloat16_both": (
        in_dtype("mixed_bfloat16"),
        in_dtype("mixed_bfloat16"),
        "hidden",
        "hidden",
        5e-2,
    ),
    "float64_student": (functional, in_dtype("float64"), "hidden", "hidden", 1e-5),
}


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        *((kind, "joint") for kind in KINDS),
        *((kind, "hint") for kind in KINDS if "float" not in kind),
    ],
)
def test_row_15_networks_of_any_make_and_dtype(kind, stage):
    build_teacher, build_student, hint_layer, guided_layer, tolerance = KINDS[kind]
    x, y = tiny.data()
    distiller = joint(
        kf.Teacher(build_teacher(7, 1), from_logits=True),
        build_student(5, 2),
        hints=(hint_layer, guided_layer),
        stage=stage,
        from_logits=True,  # nothing shows it in a network without a graph
    )
    expected = expected_logs(distiller, x, y)
    tiny.assert_logs(tiny.evaluate(distiller, x, y), expected, tolerance)
    (loss,) = tiny.fit(distiller, x, y)["loss"]
    np.testing.assert_allclose(loss, expected["loss"], rtol=tolerance)


def test_row_15_a_float16_student_has_its_loss_scaled():
    distiller = joint(student=in_dtype("mixed_float16")(5, 2))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)


def test_row_15_a_list_of_teachers():
    x, y = tiny.data()
    teachers = [teacher_network(seed=1), teacher_network(seed=2, hidden=4)]
    distiller = distil(teachers, tiny.network())
    logits = [
        reference.hidden_and_logits(x, model.get_weights(), "tanh")[1]
        for model in teachers
    ]
    _, student = reference.hidden_and_logits(x, tiny.weights(distiller), "tanh")
    targets = reference.ensemble_targets(logits, TEMPERATURE)
    kd = np.mean(reference.crossentropy(targets, student / TEMPERATURE))
    tiny.assert_logs(tiny.evaluate(distiller, x, y), {"kd_loss": kd})


# Row 16


@pytest.mark.parametrize("end", [None, "sigmoid"])
def test_row_16_one_unit_sigmoid_outputs(end):
    x, y = tiny.data(activation="sigmoid", classes=1)
    distiller = distil(
        teacher_network(classes=1, end=end),
        tiny.network(classes=1, end=end),
        loss=keras.losses.BinaryCrossentropy(from_logits=end is None),
        activation="sigmoid",
        stage="kd",
    )
    arrays = tiny.weights(distiller)
    _, soft = reference.hidden_and_logits(
        x, distiller.teacher.models[0].get_weights(), "tanh"
    )

    def total(arrays):
        _, logits = reference.hidden_and_logits(x, arrays, "tanh")
        kd = reference.soft_target_crossentropy(soft, logits, TEMPERATURE, "sigmoid")
        label = reference.crossentropy(y, logits, "sigmoid")
        return reference.stage_logs("kd", label=label, kd=kd, lambda_=LAMBDA)

    expected = total(arrays)
    assert expected["kd_loss"] > 0.1
    tiny.assert_logs(tiny.evaluate(distiller, x, y), expected)
    gradients = reference.central_differences(
        lambda arrays: total(arrays)["loss"], arrays
    )
    for ours, gradient in zip(tiny.gradients(distiller, x, y), gradients, strict=True):
        tiny.assert_close(ours, gradient)
