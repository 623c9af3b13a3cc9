"""Networks that read text: exported, loaded, compared and monitored as others are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_fitnets as kf
from keras_fitnets.runtimes.runner import load_runner

TEXT = np.array([["a b"], ["b"], ["c a"], ["nothing known"]])
LABELS = np.array([0, 1, 2, 0])
FORMS = {
    "text": TEXT,
    "objects": TEXT.astype(object),
    "bytes": np.char.encode(TEXT),
    "tensor": tf.constant(TEXT),
}


def network(width, name=None):
    vectorize = layers.TextVectorization(9, output_sequence_length=3)
    vectorize.adapt(["a b c", "a b", "a"])
    inputs = keras.Input((1,), dtype="string", name="words")
    x = layers.Flatten()(layers.Embedding(9, width)(vectorize(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x), name=name)


def mixed(width):
    """Text beside numbers, in a dictionary."""
    inputs = {
        "words": keras.Input((1,), dtype="string", name="words"),
        "numbers": keras.Input((2,), name="numbers"),
    }
    index = layers.StringLookup(vocabulary=["a b", "b"])(inputs["words"])
    x = layers.Flatten()(layers.Embedding(3, width)(index))
    return keras.Model(
        inputs, layers.Dense(3)(layers.concatenate([x, inputs["numbers"]]))
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_of_text_agrees_with_its_network(tmp_path, form):
    student = network(4)
    exported = kf.export.export_student(
        student, tmp_path / "student", data=(FORMS[form], LABELS)
    )
    assert (exported.agreement, exported.largest_difference) == (1.0, 0.0)
    [outputs] = load_runner(tmp_path / "student").run(FORMS[form])
    np.testing.assert_array_equal(outputs, student(tf.constant(TEXT)))
    models = {"network": student, "file": exported}
    for data in (
        (FORMS[form], LABELS),
        tf.data.Dataset.from_tensor_slices((TEXT, LABELS)).batch(3),
    ):
        report = kf.report.compare(models, data, repeats=1, batch_size=3, verbose=0)
        first, second = report.rows
        assert first["accuracy"] == second["accuracy"]
        assert second["agreement"] == 1.0
        # Behind TextVectorization the shapes depend on the text.
        assert first["multiplications"] is None
        assert "depend on the data" in report.notes[0]


def test_text_is_made_up_where_none_is_given(tmp_path):
    student = network(4)
    exported = kf.export.export_student(student, tmp_path / "student")
    models = {"network": student, "file": exported}
    report = kf.report.compare(models, repeats=1, verbose=0)
    assert report.rows[1]["latency"] > 0


def test_text_beside_numbers(tmp_path):
    student = mixed(4)
    x = {"words": TEXT, "numbers": np.ones((4, 2))}
    exported = kf.export.export_student(student, tmp_path / "student", data=x)
    assert exported.agreement == 1.0
    report = kf.report.compare({"s": student, "f": exported}, x, repeats=0, verbose=0)
    assert report.rows[1]["agreement"] == 1.0
    assert report.rows[0]["multiplications"] == 3 * (4 + 2)


def test_a_file_of_a_distiller_of_text_is_exported_too(tmp_path):
    model = kf.Distiller(network(6), network(4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    monitor = kf.StudentMonitor(TEXT)
    logs = model.fit(TEXT, LABELS, callbacks=[monitor], verbose=0).history
    assert 0 <= logs["agreement"][0] <= 1
    model.save(tmp_path / "whole.keras")
    exported = kf.export.export_student(
        tmp_path / "whole.keras", tmp_path / "student", data=TEXT
    )
    assert exported.agreement == 1.0
    model.export(tmp_path / "plain", verbose=False)
    [outputs] = load_runner(tmp_path / "plain").run(TEXT)
    np.testing.assert_array_equal(outputs, model.student(tf.constant(TEXT)))


@pytest.mark.parametrize("ending", [".tflite", ".onnx"])
def test_formats_without_text_say_so(tmp_path, ending):
    with pytest.raises(ValueError, match=r"text.*SavedModel") as error:
        kf.export.export_student(network(4), tmp_path / f"s{ending}", data=TEXT)
    assert "words" in str(error.value)
    assert not list(tmp_path.iterdir())
