"""What is saved is what trained, and it goes on as if it had never stopped."""

import functools
import importlib

import keras
import networks
import numpy as np
import pytest

import keras_fitnets as kf
from keras_fitnets.runtimes.runner import load_runner

pytestmark = pytest.mark.usefixtures("eager")


def distiller(
    stage="joint", teacher_width=8, optimizer="adam", student=None, **options
):
    teacher = networks.nested(teacher_width, "teacher")
    student = student or networks.sequential(3, "student")
    hints = [
        kf.Hint("backbone/norm1", "conv1", weight=0.5),
        ("backbone/conv2", "conv2"),
    ]
    made = kf.Distiller(
        teacher, student, hints, temperature=2.5, lambda_=1.7, stage=stage, **options
    )
    made.compile(optimizer, networks.LABEL_LOSS, metrics=["accuracy"])
    return made


def fit(model, epochs=1, **options):
    x, y = networks.batch()
    settings = {"batch_size": 4, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, epochs=epochs, **settings).history


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["hint", "kd", pytest.param("joint", marks=pytest.mark.graph)]
)
def test_a_loaded_distiller_trains_on_exactly_where_it_stopped(tmp_path, stage):
    model = distiller(stage, learning_rate_factor=0.5)
    fit(model, callbacks=[kf.LambdaAnnealing(lambda epoch: 1.3)])
    model.temperature = 3.7
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for name in ("stage", "lambda_", "temperature", "hint_weight"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.learning_rate_factor == 0.5
    assert loaded.lambda_ == (1.7 if stage == "hint" else 1.3)
    for one, other in zip(
        *(model.optimizer.variables, loaded.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(*(model.teacher.models, loaded.teacher.models), strict=True):
        for a, b in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert fit(model, 2) == fit(loaded, 2)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_every_argument_survives_the_archive(tmp_path):
    teacher = kf.Teacher(
        [networks.sequential(4, "a"), networks.Scaled(name="b")],
        *("geometric", [1, 3], True),
    )
    hints = [kf.Hint("conv1", "conv1", 2.0, keras.layers.Conv2D(4, 1), member=0)]
    model = kf.Distiller(
        *(teacher, networks.sequential(3, "student"), hints),
        activation="softmax",
        from_logits=True,
        temperature_squared=True,
        hint_weight=0.25,
        name="mine",
    )
    model.compile("adam", networks.LABEL_LOSS)
    fit(model)
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    saved, own = loaded.get_config(), model.get_config()
    for name in saved.keys() - {"teacher", "student", "hints"}:
        assert saved[name] == own[name]
    assert loaded.teacher.get_config()["weights"] == [0.25, 0.75]
    assert loaded.teacher.average == "geometric"
    assert loaded.teacher.from_logits is True
    assert loaded.hints[0].weight == 2.0
    assert isinstance(loaded.hints[0].regressor, keras.layers.Conv2D)
    assert fit(model) == fit(loaded)


def test_what_is_not_passed_has_the_documented_value():
    networks_of_both = networks.sequential(4, "teacher"), networks.sequential(3)
    config = kf.Distiller(*networks_of_both, name="mine").get_config()
    del config["teacher"], config["student"]
    assert config == {
        "hints": None,
        "temperature": 3.0,
        "lambda_": 4.0,
        "stage": "kd",
        "hint_weight": 1.0,
        "activation": "auto",
        "from_logits": "auto",
        "temperature_squared": False,
        "learning_rate_factor": 1.0,
        "soft_loss": None,
        "soft_weights": None,
        "name": "mine",
    }
    hinted = kf.Distiller(*networks_of_both, ("conv1", "conv1"))
    assert (hinted.stage, hinted.hints[0].weight) == ("joint", 1.0)


@pytest.mark.parametrize("cls", [kf.Distiller, kf.Teacher, kf.Hint])
def test_files_name_a_class_by_its_package(cls):
    assert keras.saving.get_registered_name(cls) == f"keras_fitnets>{cls.__name__}"


@pytest.mark.slow
def test_weight_files_and_checkpoints_hold_nothing_of_the_teacher(tmp_path):
    sizes = []
    for width in (2, 32):
        model = kf.Distiller(
            networks.sequential(width, "teacher"),
            networks.sequential(3, "student"),
            stage="kd",
        )
        model.compile("adam", networks.LABEL_LOSS)
        fit(model)
        path = tmp_path / f"{width}.weights.h5"
        model.save_weights(path)
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_weights_can_be_loaded_into_a_new_distiller(tmp_path):
    model = distiller()
    fit(model)
    model.save_weights(tmp_path / "x.weights.h5")
    teacher, student = networks.nested(8), networks.sequential(3)
    pairs = [("backbone/norm1", "conv1"), ("backbone/conv2", "conv2")]
    other = kf.Distiller(teacher, student, pairs)
    other.load_weights(tmp_path / "x.weights.h5")
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert other.lambda_ == 1.7


@pytest.mark.slow
def test_the_student_is_saved_alone(tmp_path):
    model = distiller(student=networks.functional(3, "student"))
    checkpoint = kf.StudentCheckpoint(tmp_path / "{epoch}.keras", monitor="loss")
    fit(model, epochs=2, callbacks=[checkpoint])
    model.student.save(tmp_path / "student.keras")
    x, _ = networks.batch()
    for name in ("student", "2"):
        student = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert not isinstance(student, kf.Distiller)
        assert student.count_params() == model.student.count_params()
        np.testing.assert_array_equal(student(x), model.student(x))
    assert (tmp_path / "1.keras").exists()


@pytest.mark.parametrize("ending", ["h5", "hdf5"])
@pytest.mark.parametrize("own", [True, False], ids=["method", "function"])
def test_a_file_that_cannot_hold_the_teacher_is_refused(tmp_path, ending, own):
    model = distiller()
    save = model.save if own else functools.partial(keras.saving.save_model, model)
    with pytest.raises(ValueError, match=r"cannot hold the teacher.*distiller.keras"):
        save(tmp_path / f"distiller.{ending}")
    # The student alone has no teacher to lose.
    model.student.save(tmp_path / f"student.{ending}")


def test_a_file_of_that_kind_is_not_loaded(tmp_path, monkeypatch):
    model = distiller()
    with monkeypatch.context() as patch:
        module = importlib.import_module("keras_fitnets.distillation.distiller")
        patch.setattr(module, "is_legacy_file", lambda: False)
        keras.saving.save_model(model, tmp_path / "old.h5")
    with pytest.raises(ValueError, match="cannot hold the teacher"):
        objects = {"Distiller": kf.Distiller}
        keras.saving.load_model(tmp_path / "old.h5", custom_objects=objects)


def test_a_directory_holds_the_teacher_too(tmp_path):
    """Keras 3.15 can leave the file unzipped; earlier versions say that they cannot."""
    model = distiller()
    fit(model)
    try:
        model.save(tmp_path / "whole", zipped=False)
    except ValueError as error:
        assert "extension" in str(error)  # noqa: PT017
        return
    loaded = keras.saving.load_model(tmp_path / "whole")
    x, _ = networks.batch()
    for one, other in zip(*(model.teacher.models, loaded.teacher.models), strict=True):
        np.testing.assert_array_equal(one(x), other(x))


@pytest.mark.slow
# Keras looks for `np.object`, for the sake of older versions of tf2onnx.
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
@pytest.mark.parametrize("format_", ["tf_saved_model", "onnx", "litert"])
def test_a_distiller_exports_its_student(tmp_path, format_):
    model = distiller()
    fit(model)
    endings = {"onnx": ".onnx", "litert": ".tflite"}
    path = tmp_path / f"student{endings.get(format_, '')}"
    try:
        model.export(path, format=format_, verbose=False)
    except ValueError as error:
        # Keras 3.11 does not write LiteRT yet, and says so.
        assert format_ == "litert" and "format" in str(error)  # noqa: PT017
        return
    x, _ = networks.batch()
    runner = load_runner(path)
    [outputs] = runner.run(x)
    np.testing.assert_allclose(outputs, model.student(x), rtol=1e-4, atol=1e-5)
