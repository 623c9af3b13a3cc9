"""The families of keras.applications as teachers and students."""

import applications
import journey
import networks
import numpy as np
import pytest
import reference

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")
# The converters take seconds for each of these, so that no family goes to all formats.
FORMATS = {
    "mobilenet_v2": [".onnx"],
    "mobilenet_v3": [".onnx"],
    "efficientnet_v2": ["", ".tflite", ".onnx"],
    "resnet_v2": [".tflite"],
    "densenet": [".onnx"],
    "convnext": ["", ".onnx"],
    "nasnet": [".onnx"],
}
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
    journey.check_export(student, batch()[0], tmp_path, FORMATS[family])


@pytest.mark.slow
@every_family
def test_a_backbone_behind_a_head(family, tmp_path):
    teacher, student = (applications.create_nested(family, i) for i in (2, 1))
    model = journey.create_distiller(teacher, student, "middle")
    [hint] = model.hints
    assert hint.hint_layer.startswith(f"{family}_2/")
    assert hint.guided_layer.startswith(f"{family}_1/")
    journey.check_stages(model, *batch())
    # To make hundreds of layers again takes as long as all the rest.
    if family not in ("mobilenet_v2", "mobilenet_v3", "nasnet"):
        journey.check_saving(model, *batch(), tmp_path)


@pytest.mark.slow
@every_family
def test_a_backbone_alone(family):
    """Its output is the hint, so that no stage but "hint" can train it."""
    teacher, student = (
        applications.create_network(family, i, include_top=False) for i in (2, 1)
    )
    hint = (teacher.layers[-1].name, student.layers[-1].name)
    model = kf.Distiller(teacher, student, hint, activation=None)
    model.stage = "hint"
    model.compile("sgd")
    x, _ = batch()
    expected = reference.hint_loss(
        journey.predict(teacher, x),
        model.regressors[0](student(x)),
    )
    loss = model.evaluate(x, verbose=0, return_dict=True)["hint_loss"]
    assert loss == pytest.approx(np.mean(expected), rel=2e-5)
    before = networks.numpy_variables(student)
    model.fit(x, verbose=0)
    assert networks.changed(before, networks.numpy_variables(student))


@pytest.mark.slow
@pytest.mark.graph
def test_a_traced_step():
    """As above, where the step is not run eagerly but traced."""
    journey.check_stages(create_whole("efficientnet_v2"), *batch())
