"""Numbers that a network of integer inputs would cut off are an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fitnets as kf
from keras_fitnets.distillation.validate_data import guard_casts

pytestmark = pytest.mark.usefixtures("eager")

SAMPLES = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (SAMPLES, 4)).astype("uint8")
WHOLE = PIXELS.astype("float32")
FRACTIONS = WHOLE / 255


def floats(name=None):
    inputs = keras.Input((4,), name=name)
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


def integers(dtype="uint8", name=None):
    inputs = keras.Input((4,), dtype=dtype, name=name)
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(scaled))


PAIRS = {
    "student": lambda: (floats(), integers()),
    "teacher": lambda: (integers(), floats()),
    "second teacher": lambda: ([floats(), integers()], floats()),
}


def distiller(pair="student", **options):
    model = kf.Distiller(*PAIRS[pair](), activation="softmax", **options)
    model.compile("sgd")
    return model


def dataset(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(5)


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.x,)


FORMS = {"array": lambda x: x, "dataset": dataset, "PyDataset": Batches}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pair", PAIRS)
def test_fractions_are_an_error_before_training(pair, form):
    model = distiller(pair)
    before = model.student.get_weights()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"whole numbers \(uint8\).*number 0\."):
            call(FORMS[form](FRACTIONS), verbose=0)
    for one, other in zip(before, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("x", [PIXELS, WHOLE, PIXELS.astype("int64")])
def test_whole_numbers_train_in_any_dtype(form, x):
    for pair in PAIRS:
        model = distiller(pair)
        data = FORMS[form](x)
        model.fit(data, validation_data=data, shuffle=False, verbose=0)
        model.evaluate(FORMS[form](x), verbose=0)


@pytest.mark.graph
def test_fractions_in_a_later_batch_of_a_dataset_are_an_error():
    x = WHOLE.copy()
    x[-1, -1] = 7.5
    model = distiller()
    model.compile("sgd")
    with pytest.raises((ValueError, tf.errors.OpError), match=r"number 7\.5"):
        model.fit(dataset(x), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"number 7\.5"):
        model.fit(x, verbose=0)


@pytest.mark.parametrize("wrong", [-1, 256, np.nan, np.inf])
def test_numbers_out_of_range_are_an_error(wrong):
    x = WHOLE.copy()
    x[3, 1] = wrong
    for array in (x, x.astype("int64")) if np.isfinite(wrong) else (x,):
        with pytest.raises(ValueError, match=f"number {wrong}"):
            distiller().fit(array, verbose=0)


def test_validation_data_and_predictions_are_checked_too():
    model = distiller()
    for data in (FRACTIONS, (FRACTIONS,), dataset(FRACTIONS)):
        with pytest.raises(ValueError, match=r"whole numbers \(uint8\)"):
            model.fit(WHOLE, validation_data=data, verbose=0)
    with pytest.raises(ValueError, match=r"whole numbers \(uint8\)"):
        model.predict(FRACTIONS, verbose=0)
    expected = model.student.predict(PIXELS, verbose=0)
    np.testing.assert_array_equal(model.predict(WHOLE, verbose=0), expected)


def test_inputs_are_matched_by_name():
    def network():
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", dtype="uint8")
        merged = keras.layers.Concatenate()([a, keras.layers.Rescaling(1.0)(b)])
        return keras.Model([a, b], keras.layers.Dense(3)(merged))

    model = kf.Distiller(network(), network(), activation="softmax")
    model.compile("sgd")
    good, bad = {"b": WHOLE, "a": FRACTIONS}, {"b": FRACTIONS, "a": WHOLE}
    for wrap in (lambda x: x, dataset):
        model.fit(wrap(good), shuffle=False, verbose=0)
        with pytest.raises(ValueError, match="whole numbers"):
            model.fit(wrap(bad), shuffle=False, verbose=0)


def test_a_cache_checks_every_batch(tmp_path):
    x = WHOLE.copy()
    x[-1, -1] = 7.5
    with pytest.raises(ValueError, match=r"number 7\.5"):
        kf.cache_teacher(distiller(), dataset(x), tmp_path, verbose=0)
    cached = kf.cache_teacher(distiller(), dataset(WHOLE), tmp_path / "2", verbose=0)
    assert len(cached) == 3


def test_an_ordinary_dataset_is_left_as_it_is():
    model = kf.Distiller(floats(), floats(), activation="softmax")
    model.compile("sgd")
    data = dataset(FRACTIONS)
    assert guard_casts(model, "`x`", data) is data
    data = dataset(PIXELS)
    assert guard_casts(distiller(), "`x`", data) is data


def test_reports_and_exports_check_their_data(tmp_path):
    student = integers()
    with pytest.raises(ValueError, match=r"whole numbers \(uint8\)"):
        kf.report.compare({"student": student}, FRACTIONS, repeats=0, verbose=0)
    with pytest.raises(ValueError, match=r"whole numbers \(uint8\)"):
        kf.export.export_student(student, tmp_path / "s.tflite", data=FRACTIONS)
    file = kf.export.export_student(student, tmp_path / "s.tflite", data=WHOLE)
    models = {"student": student, "file": file}
    report = kf.report.compare(models, WHOLE, repeats=0, verbose=0)
    assert [row["agreement"] for row in report.rows] == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"whole numbers \(uint8\)"):
        kf.report.compare({"file": file}, FRACTIONS, repeats=0, verbose=0)
