"""The families of keras.applications as teachers and students."""

import applications
import journey
import keras
import numpy as np
import pytest

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")
every_family = pytest.mark.parametrize("family", applications.FAMILIES)


def batch():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (journey.SAMPLES, *applications.SHAPE)).astype("float32")
    return x, np.arange(journey.SAMPLES) % applications.CLASSES


def create_whole(family):
    _, hint = applications.FAMILIES[family]
    teacher, student = (applications.create_network(family, i) for i in (2, 1))
    return journey.create_distiller(teacher, student, (hint, hint))


@pytest.mark.slow
@every_family
def test_a_whole_network(family, tmp_path):
    model = create_whole(family)
    journey.check_stages(model, *batch())
    journey.check_cache(model, *batch(), tmp_path)
    journey.check_saving(model, *batch(), tmp_path)


@pytest.mark.slow
@every_family
def test_a_student_in_a_file(family, tmp_path):
    student = applications.create_network(family, 1)
    # The converters take ten seconds and more for the deepest of these.
    endings = {"mobilenet_v3": [".tflite"], "nasnet": [".onnx"]}
    endings = endings.get(family, ["", ".tflite", ".onnx"])
    journey.check_export(student, batch()[0], tmp_path, endings)


@pytest.mark.slow
@every_family
def test_a_backbone_behind_a_head(family, tmp_path):
    teacher, student = (applications.create_nested(family, i) for i in (2, 1))
    model = journey.create_distiller(teacher, student, "middle")
    [hint] = model.hints
    assert hint.hint_layer.startswith(f"{family}_2/")
    assert hint.guided_layer.startswith(f"{family}_1/")
    journey.check_stages(model, *batch())
    journey.check_saving(model, *batch(), tmp_path)


@pytest.mark.slow
@every_family
def test_a_backbone_alone(family, tmp_path):
    """Its output is the hint, so that no stage but "hint" can train it."""
    teacher, student = (
        applications.create_network(family, i, include_top=False) for i in (2, 1)
    )
    hint = (teacher.layers[-1].name, student.layers[-1].name)
    model = kf.Distiller(teacher, student, hint, activation=None)
    model.stage = "hint"
    model.compile("sgd")
    x, _ = batch()
    expected = journey.reference.hint_loss(
        journey.predict(teacher, x),
        model.regressors[0](student(x)),
    )
    loss = model.evaluate(x, verbose=0, return_dict=True)["hint_loss"]
    assert loss == pytest.approx(np.mean(expected), rel=2e-5)
    model.fit(x, verbose=0)
    model.save(tmp_path / "whole.keras")
    loaded = keras.saving.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.slow
@pytest.mark.graph
def test_a_traced_step():
    """As above, where the step is not run eagerly but traced."""
    journey.check_stages(create_whole("efficientnet_v2"), *batch())
