"""What ships: the student alone, in every format, checked in the file's own runtime."""

import os
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_fitnets as kf
from keras_fitnets.export import exporter
from keras_fitnets.runtimes.runner import load_runner

SHAPE, CLASSES, WIDE = (8, 8, 2), 3, 97
FORMATS = [".tflite", ".onnx", ""]
QUANTIZED = [
    (suffix, quantize)
    for suffix in FORMATS[:2]
    for quantize in ("float16", "dynamic", "int8")
]


def student_network():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(24, 3, padding="same")(inputs)
    x = kf.Maxout(2, name="guided")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(24, 3, activation="relu")(layers.MaxPooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def teacher_network():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(WIDE, 3, activation="relu", name="hint")(inputs)
    x = layers.Conv2D(WIDE, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *SHAPE)).astype("float32")
    return x, rng.integers(CLASSES, size=64)


@pytest.fixture(scope="module")
def distiller(data):
    """A trained one, so that BatchNormalization has statistics."""
    keras.utils.set_random_seed(0)
    pair = kf.Distiller(teacher_network(), student_network(), ("hint", "guided"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pair.compile("adam", loss)
    pair.fit(*data, verbose=0)
    return pair


def outputs_of(path, x, one_by_one=False):
    """What the file gives, asked of its runtime as its users would."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    if path.suffix == ".tflite":
        interpreter = Interpreter(str(path))
        [entry], [end] = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        found = []
        for sample in x:
            interpreter.resize_tensor_input(entry["index"], (1, *sample.shape))
            interpreter.allocate_tensors()
            interpreter.set_tensor(entry["index"], sample[None])
            interpreter.invoke()
            found.append(interpreter.get_tensor(end["index"])[0])
        return np.stack(found)
    loaded = tf.saved_model.load(path)
    return loaded.serve(x).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_gives_what_the_student_gives(distiller, data, suffix, tmp_path):
    x, y = data
    path = tmp_path / f"student{suffix}"
    found = kf.export.export_student(distiller, path, data=data)
    expected = distiller.student.predict(x, verbose=0)
    given = outputs_of(path, x)
    difference = np.abs(given - expected).max() / np.abs(expected).max()
    assert difference < 1e-5
    assert found.largest_difference == pytest.approx(difference, abs=1e-6)
    assert found.accuracy == np.mean(expected.argmax(-1) == y)
    assert found.agreement == 1.0
    assert found.parameters == distiller.student.count_params()
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    assert found.bytes == sum(file.stat().st_size for file in files)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_is_returned_stands_for_the_path(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    student = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    path = tmp_path / "student.onnx"
    exported = kf.export.export_student(student, path, data=x)
    assert os.fspath(exported) == exported.path == str(path)
    with open(exported, "rb") as file:
        assert len(file.read()) == exported.bytes
    [outputs] = load_runner(exported).run(x)
    np.testing.assert_allclose(outputs, student.predict(x, verbose=0), atol=1e-6)
    models = {"student": student, "file": exported, "path": path}
    rows = kf.report.compare(models, x, repeats=0, verbose=0).rows
    # A comparison takes the counts from what was returned; a mere path shows none.
    assert [row["parameters"] for row in rows] == [15, 15, None]
    assert [row["multiplications"] for row in rows] == [12, 12, None]
    assert [row["agreement"] for row in rows] == [1.0, 1.0, 1.0]
    assert rows[1]["bytes"] == rows[2]["bytes"] == exported.bytes


@pytest.mark.slow
@pytest.mark.parametrize("suffix, quantize", QUANTIZED)
def test_a_quantised_file_holds_smaller_numbers_and_is_near(
    distiller, data, suffix, quantize, tmp_path
):
    x, _ = data
    path = tmp_path / f"student{suffix}"
    found = kf.export.export_student(
        distiller, path, quantize=quantize, representative_data=x.astype("float64")
    )
    expected = distiller.student.predict(x, verbose=0)
    outputs = outputs_of(path, x)
    difference = np.abs(outputs - expected).max() / np.abs(expected).max()
    nearest = {"float16": 1e-6, "dynamic": 1e-4, "int8": 1e-3}[quantize]
    assert nearest < difference < exporter.TOLERANCES[quantize]
    assert found.largest_difference == pytest.approx(difference, rel=0.2)
    # How many classes agree depends on the CPU: without VNNI instructions the sums of
    # integer products saturate in ONNX Runtime (its page on quantization, "reduce
    # range", https://onnxruntime.ai/docs/performance/).
    agreement = np.mean(outputs.argmax(-1) == expected.argmax(-1))
    assert found.quantize == quantize and found.agreement == pytest.approx(agreement)
    if suffix == ".tflite":
        interpreter = Interpreter(str(path))
        kinds = {
            t["dtype"] for t in interpreter.get_tensor_details() if t["shape"].size > 1
        }
        weights = {"float16": np.float16, "dynamic": np.int8, "int8": np.int8}
        assert weights[quantize] in kinds
    else:
        kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
        types = onnx.TensorProto
        float16 = quantize == "float16"
        assert (types.FLOAT16 if float16 else types.INT8) in kinds | (
            {types.INT8} if types.UINT8 in kinds else set()
        )


@pytest.mark.slow
def test_full_integers_take_and_give_integers(distiller, data, tmp_path):
    x, _ = data
    path = tmp_path / "student.tflite"
    found = kf.export.export_student(
        distiller, path, quantize="int8", representative_data=x, int8_io=True
    )
    interpreter = Interpreter(str(path))
    ends = [interpreter.get_input_details(), interpreter.get_output_details()]
    assert [end[0]["dtype"] for end in ends] == [np.int8, np.int8]
    # Nothing within computes with floats either.
    tensors = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float32 not in tensors
    assert found.largest_difference < 0.1
    row = kf.report.compare({"a": found}, x, repeats=0, verbose=0).rows[0]
    assert row["parameters"] == distiller.student.count_params()


def numbers_in(path):
    """How many numbers the weights in a file are."""
    if path.suffix == ".onnx":
        weights = onnx.load(path).graph.initializer
        return sum(int(np.prod(w.dims)) for w in weights if w.data_type == 1)
    if path.suffix == ".tflite":
        details = Interpreter(str(path)).get_tensor_details()
        return sum(
            int(np.prod(t["shape"])) for t in details if t["dtype"] == np.float32
        )
    variables = tf.saved_model.load(path).variables
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_of_the_teacher_or_regressor_is_in_the_file(
    distiller, suffix, tmp_path
):
    path, alone = tmp_path / f"student{suffix}", tmp_path / f"alone{suffix}"
    whole = kf.export.export_student(distiller, path)
    copy = keras.models.clone_model(distiller.student)
    copy.set_weights(distiller.student.get_weights())
    bare = kf.export.export_student(copy, alone)
    # The same file but for names; the teacher's weights would be 20 times as many.
    assert abs(whole.bytes - bare.bytes) < 0.02 * bare.bytes
    assert numbers_in(path) == numbers_in(alone)
    assert numbers_in(path) < 5 * distiller.student.count_params()
    assert distiller.teacher.models[0].count_params() > 5 * numbers_in(path)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    assert b"hint" not in content and b"regressor" not in content


@pytest.mark.slow
def test_a_saved_distiller_and_a_saved_student_are_sources(distiller, data, tmp_path):
    x, _ = data
    expected = distiller.student.predict(x, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    distiller.student.save(tmp_path / "student.keras")
    assert zipfile.is_zipfile(tmp_path / "distiller.keras")
    for name in ("distiller", "student"):
        path = tmp_path / f"{name}.onnx"
        kf.export.export_student(str(tmp_path / f"{name}.keras"), path)
        np.testing.assert_allclose(outputs_of(path, x), expected, atol=1e-5)


@pytest.mark.slow
def test_preprocessing_and_softmax_go_in(distiller, data, tmp_path):
    x, _ = data
    student = distiller.student
    pixels = np.uint8(np.clip(128 + 40 * x, 0, 255))
    scale = layers.Rescaling(1 / 40, offset=-128 / 40)
    contrast = kf.datasets.GlobalContrastNormalization()
    raw = pixels.astype("float32")
    logits = student.predict(np.asarray(contrast(scale(raw))), verbose=0)
    powers = np.exp(logits.astype("float64"))
    path = tmp_path / "student.tflite"
    kf.export.export_student(
        distiller, path, preprocessing=[scale, contrast], activation="softmax", data=raw
    )
    given = outputs_of(path, raw)
    np.testing.assert_allclose(given, powers / powers.sum(-1, keepdims=True), atol=1e-5)

    # A network in front shows what it takes, here integers of another size.
    front = keras.Sequential(
        [keras.Input((16, 16, 2), dtype="uint8"), layers.Resizing(8, 8), scale]
    )
    found = kf.export.export_student(
        distiller,
        tmp_path / "student.onnx",
        preprocessing=front,
        data=np.repeat(np.repeat(pixels, 2, 1), 2, 2),
    )
    assert found.largest_difference < 1e-4


@pytest.mark.slow
def test_a_student_in_mixed_precision_ships_in_float32(data, tmp_path):
    x, _ = data
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    inputs = keras.Input(SHAPE)
    hidden = layers.Conv2D(4, 3, activation="relu", dtype=policy)(inputs)
    outputs = layers.Dense(2, dtype="float32")(layers.Flatten(dtype=policy)(hidden))
    student = keras.Model(inputs, outputs)
    path = tmp_path / "student.tflite"
    kf.export.export_student(student, path, data=x)
    exact = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()]
    )
    exact.add(layers.Dense(2))
    exact.set_weights(student.get_weights())
    np.testing.assert_allclose(
        outputs_of(path, x), exact.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_network_within_a_student_is_not_run_as_in_training(
    distiller, suffix, tmp_path
):
    inputs = keras.Input((16, 16, 2))
    outputs = distiller.student(layers.Resizing(8, 8)(inputs))
    whole = keras.Model(inputs, outputs)
    path = tmp_path / f"student{suffix}"
    assert kf.export.export_student(whole, path).largest_difference < 1e-5


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_subclassed_networks_and_several_inputs_and_outputs(suffix, tmp_path):
    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    path = tmp_path / f"subclassed{suffix}"
    assert kf.export.export_student(subclassed, path).largest_difference < 1e-5

    words, numbers = keras.Input((4,), dtype="int32"), keras.Input((3,))
    flat = layers.Flatten()(layers.Embedding(9, 2)(words))
    both = layers.Concatenate()([flat, numbers])
    one, other = layers.Dense(2)(both), layers.Dense(3)(both)
    network = keras.Model([words, numbers], [one, other])
    rng = np.random.default_rng(0)
    x = [rng.integers(9, size=(6, 4)), rng.normal(size=(6, 3)).astype("float32")]
    found = kf.export.export_student(network, tmp_path / f"two{suffix}", data=(x,))
    assert found.largest_difference < 1e-5 and found.agreement is None
    report = kf.report.compare({"keras": network, "file": found}, repeats=1, verbose=0)
    assert report.rows[1]["throughput"] > 0


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        one, other = inputs.values() if isinstance(inputs, dict) else inputs
        return self.dense(one - 2 * other)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_inputs_come_by_name_in_any_order(suffix, tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 9, 4)).astype("float32")
    last, first = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    network = keras.Model([last, first], layers.Dense(3)(last - 2 * first))
    expected = network.predict([one, other], verbose=0)
    data = {"z": one, "a": other}
    found = kf.export.export_student(network, tmp_path / f"two{suffix}", data=data)
    assert found.largest_difference < 1e-5
    [given] = load_runner(found).run(data)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    report = kf.report.compare({"a": network, "b": found}, data, repeats=0, verbose=0)
    assert report.rows[1]["agreement"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("name, quantize", [("a.onnx", None), ("a.tflite", "int8")])
def test_a_subclassed_network_of_several_inputs(as_list, name, quantize, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    given = list(x) if as_list else {"a": x[0], "b": x[1]}
    network = TwoInputs()
    network(given)
    with pytest.raises(ValueError, match="does not declare its inputs. Pass"):
        kf.export.export_student(network, tmp_path / name)
    found = kf.export.export_student(
        network,
        tmp_path / name,
        quantize=quantize,
        representative_data=(given,) if quantize else None,
        data=(given,),
    )
    kernel, bias = network.get_weights()
    expected = (x[0] - 2.0 * x[1]) @ kernel + bias
    names = [entry for entry, _, _ in load_runner(found).inputs]
    assert names == (["input_0", "input_1"] if as_list else ["a", "b"])
    [outputs] = load_runner(found).run(dict(zip(names, x, strict=True)))
    most = 1e-5 if quantize is None else 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=most)


def test_units_of_their_own_are_judged_as_such(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.integers(2, size=(40, 3))
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3, "sigmoid")])
    kernel, bias = network.get_weights()
    right = np.mean((x.astype("float64") @ kernel + bias > 0) == y)
    found = kf.export.export_student(network, tmp_path / "a.onnx", data=(x, y))
    assert (found.accuracy, found.agreement) == (right, 1.0)
    models = {"network": network, "file": found}
    rows = kf.report.compare(models, (x, y), repeats=0, verbose=0).rows
    assert [row["accuracy"] for row in rows] == [right, right]


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix, policy",
    [(".onnx", "float32"), (".onnx", "mixed_float16"), ("", "mixed_float16")],
)
def test_what_normalisation_has_seen_is_in_the_file(suffix, policy, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(7.0, 3.0, size=(50, 4)).astype("float32")
    normal = layers.Normalization(dtype=policy)
    normal.adapt(x)
    network = keras.Sequential([keras.Input((4,)), normal, layers.Dense(3)])
    path = tmp_path / f"student{suffix}"
    kf.export.export_student(network, path, data=x)
    kernel, bias = (w.astype("float64") for w in network.layers[-1].get_weights())
    expected = (x - x.mean(0, "float64")) / x.std(0, dtype="float64") @ kernel + bias
    np.testing.assert_allclose(outputs_of(path, x), expected, atol=1e-5)
    assert isinstance(normal.mean, tf.Tensor)


@pytest.mark.slow
def test_a_recurrent_student_ships_unrolled_and_in_float32_within(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")

    def network(policy):
        inner = layers.LSTM(3, dtype=policy)
        both = layers.Bidirectional(inner, dtype=policy)
        return keras.Sequential([keras.Input((5, 4)), both, layers.Dense(2)])

    student, exact = network("mixed_float16"), network("float32")
    exact.set_weights(student.get_weights())
    path = tmp_path / "student.tflite"
    kf.export.export_student(student, path, data=x)
    expected = exact.predict(x, verbose=0)
    np.testing.assert_allclose(outputs_of(path, x), expected, atol=1e-6)
    assert not student.layers[0].forward_layer.unroll


def test_what_goes_before_and_behind_is_float32_whatever_the_policy(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    student = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    keras.config.set_dtype_policy("mixed_float16")
    try:
        front = keras.Sequential([layers.Rescaling(1 / 3)])
        path = tmp_path / "student.onnx"
        kf.export.export_student(
            student, path, preprocessing=front, activation="softmax", data=x
        )
    finally:
        keras.config.set_dtype_policy("float32")
    kernel, bias = student.get_weights()
    powers = np.exp(x.astype("float64") / 3 @ kernel + bias)
    given = outputs_of(path, x)
    np.testing.assert_allclose(given, powers / powers.sum(-1, keepdims=True), atol=1e-6)


@pytest.mark.slow
def test_a_file_too_far_from_the_network_is_not_written(distiller, data, tmp_path):
    x, _ = data
    path = tmp_path / "student.tflite"
    path.write_text("what was there before")
    with pytest.raises(ValueError, match="Pass more, or more typical"):
        kf.export.export_student(
            distiller,
            path,
            quantize="int8",
            representative_data=np.full_like(x[:4], 1e-3),
            data=x,
        )
    with pytest.raises(ValueError, match=r"the tolerance is 1e-12, so nothing was wri"):
        kf.export.export_student(distiller, path, data=x, tolerance=1e-12)
    assert path.read_text() == "what was there before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.tflite"]
    kf.export.export_student(distiller, path, data=x)
    assert path.stat().st_size > 1000


@pytest.mark.slow
def test_what_is_there_is_replaced_if_it_is_of_the_same_kind(distiller, tmp_path):
    path = tmp_path / "student"
    kf.export.export_student(distiller, path)
    kf.export.export_student(distiller, path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match="holds something other than a SavedModel"):
        kf.export.export_student(distiller, tmp_path / "mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="exists and is a directory, not a file"):
        kf.export.export_student(distiller, tmp_path / "folder.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is a file, not a SavedModel"):
        kf.export.export_student(distiller, tmp_path / "file")
    with pytest.raises(OSError, match="Nothing can be written into '.*file'"):
        kf.export.export_student(distiller, tmp_path / "file" / "a.onnx")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"


@pytest.mark.parametrize("name", ["", ".", "..", "student/.."])
def test_the_folder_one_is_in_is_not_replaced(name, distiller, tmp_path, monkeypatch):
    (tmp_path / "student").mkdir()
    for folder in (tmp_path, tmp_path / "student"):
        (folder / "saved_model.pb").write_text("what was there before")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is a folder that others are in"):
        kf.export.export_student(distiller, name)
    assert (tmp_path / "saved_model.pb").read_text() == "what was there before"


def softmax_network():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2, "softmax")])


def broken_network():
    network = softmax_network()
    network.set_weights([np.full((4, 2), np.nan), np.zeros(2)])
    return network


@pytest.mark.parametrize(
    "source, path, options, error, told",
    [
        (3, "a.onnx", {}, TypeError, "must be a Distiller, a keras.Model.*received 3"),
        ("b.keras", "a.onnx", {}, ValueError, "'b.keras' is no `.keras` file in"),
        (None, "a.onnx", {"quantize": "int4"}, ValueError, "one of .*received 'int4'"),
        (None, "a", {"quantize": "int8"}, ValueError, "SavedModel, which 'a' would be"),
        (None, "a.onnx", {"quantize": "int8"}, ValueError, "Pass some hundred inputs"),
        (None, "a.onnx", {"int8_io": True}, ValueError, "`int8_io` is for LiteRT"),
        (None, "a.onnx", {"tolerance": -1}, ValueError, "`tolerance` must be"),
        (None, "a.onnx", {"activation": "relu"}, ValueError, "`activation` must be"),
        (
            None,
            "a.onnx",
            {"activation": "softmax"},
            ValueError,
            "already ends in softmax",
        ),
        (None, "a.onnx", {"preprocessing": len}, TypeError, "must be a Keras layer or"),
        (None, "a.onnx", {"data": np.ones((0, 4))}, ValueError, "at least one; receiv"),
        (None, "a.onnx", {"data": np.ones((2, 5))}, ValueError, r"(4,).*received .5,"),
        (None, "a", {"data": [np.ones((2, 4))] * 2}, ValueError, "received 2 array.s"),
        (None, 3, {}, TypeError, "`path` must be the path of a file; received 3"),
        (None, "a.keras", {}, ValueError, "'a.keras' ends like one of Keras' own"),
        (broken_network(), "a", {}, ValueError, "The network itself gives NaN or inf"),
        (
            keras.Sequential([keras.Input((4,)), layers.Dense(2, tf.math.digamma)]),
            "a.onnx",
            {},
            ValueError,
            "Network 'sequential.*' cannot be exported to 'a.onnx': .* Digamma",
        ),
        (
            softmax_network(),
            "a.tflite",
            {"quantize": "int8", "representative_data": np.ones((2, 5))},
            ValueError,
            "takes samples of the shape .4,. as its input .*; received .5,",
        ),
        (
            keras.Sequential([layers.Dense(2)]),
            "a.onnx",
            {},
            ValueError,
            "has no weights yet",
        ),
        (
            keras.Sequential([keras.Input((None, 4)), layers.LSTM(2)]),
            "a.onnx",
            {},
            ValueError,
            "more than the batch size unknown.*Pass `data`",
        ),
    ],
)
def test_what_cannot_be_exported_is_reported(
    source, path, options, error, told, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told):
        kf.export.export_student(
            softmax_network() if source is None else source, path, **options
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "module, package, path",
    [
        ("ai_edge_litert.interpreter", "ai-edge-litert", "a.tflite"),
        ("tf2onnx", "tf2onnx", "a.onnx"),
        ("onnxruntime", "onnxruntime", "a.onnx"),
    ],
)
def test_a_missing_runtime_is_reported(module, package, path, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(
        ImportError, match=f"pip install {package}`, or install keras-f"
    ):
        kf.export.export_student(softmax_network(), tmp_path / path)


# What transformers are made of.


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_exact_gelu_is_exported(tmp_path, suffix):
    student = keras.Sequential([keras.Input((6,)), layers.Dense(4, "gelu")])
    x = np.random.default_rng(0).normal(scale=3, size=(40, 6)).astype("float32")
    exported = kf.export.export_student(student, tmp_path / f"s{suffix}", data=x)
    assert exported.largest_difference < 1e-6


@pytest.mark.parametrize("is_nested", [False, True])
def test_constants_of_the_graph_are_no_inputs_of_the_file(tmp_path, is_nested):
    inputs, factors = keras.Input((4,)), tf.constant([2.0, 3.0, 4.0, 5.0])
    student = keras.Model(inputs, layers.Dense(3)(inputs * factors))
    if is_nested:
        outer = keras.Input((4,))
        student = keras.Model(outer, student(outer) - tf.constant(1.0))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    path = tmp_path / "student.onnx"
    kf.export.export_student(student, path, data=x)
    kernel, bias = (w.astype("float64") for w in student.get_weights())
    expected = (x * [2, 3, 4, 5]) @ kernel + bias - is_nested
    np.testing.assert_allclose(outputs_of(path, x), expected, atol=1e-5)
    # The network itself is as before.
    np.testing.assert_allclose(student(x), expected, atol=1e-5)


def test_a_convolution_of_groups_is_exported(tmp_path):
    conv = layers.Conv2D(4, 3, groups=2)
    student = keras.Sequential(
        [keras.Input((5, 5, 6)), conv, layers.Flatten(), layers.Dense(2)]
    )
    x = np.random.default_rng(0).normal(size=(4, 5, 5, 6)).astype("float32")
    kf.export.export_student(student, tmp_path / "student.onnx", data=x)
    assert not tf.config.functions_run_eagerly()


class RotaryAttention(layers.Layer):
    """Causal attention by einsum, with rotary positions: as in Llama and Gemma."""

    def __init__(self, heads=2, size=4, **options):
        super().__init__(**options)
        shape = (None, heads, size)
        self.inputs = [layers.EinsumDense("btd,dhk->bthk", shape) for _ in range(3)]
        self.outputs = layers.EinsumDense("bthk,hkd->btd", (None, heads * size))
        self.size = size

    def rotate(self, x):
        positions = keras.ops.cast(keras.ops.arange(keras.ops.shape(x)[1]), "float32")
        powers = keras.ops.arange(0, self.size, 2, dtype="float32") / self.size
        angles = keras.ops.einsum("i,j->ij", positions, 1 / 10000**powers)
        angles = keras.ops.concatenate([angles, angles], -1)[None, :, None]
        first, second = keras.ops.split(x, 2, -1)
        turned = keras.ops.concatenate([-second, first], -1)
        return x * keras.ops.cos(angles) + turned * keras.ops.sin(angles)

    def call(self, x):
        query, key, value = (layer(x) for layer in self.inputs)
        query, key = self.rotate(query), self.rotate(key)
        scores = keras.ops.einsum("bqhk,bshk->bhqs", query, key) / self.size**0.5
        steps = keras.ops.arange(keras.ops.shape(x)[1])
        is_before = (steps[:, None] >= steps[None])[None, None]
        weights = keras.ops.softmax(keras.ops.where(is_before, scores, -1e9))
        return self.outputs(keras.ops.einsum("bhqs,bshk->bqhk", weights, value))


@pytest.mark.slow
@pytest.mark.parametrize("length", [5, None])
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_a_causal_language_model_is_exported(tmp_path, suffix, length):
    inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(11, 8)(inputs)
    x = x + RotaryAttention()(layers.RMSNormalization()(x))
    gate = layers.RMSNormalization()(x)
    x = x + layers.Dense(8)(layers.Dense(16, "silu")(gate) * layers.Dense(16)(gate))
    student = keras.Model(inputs, layers.Dense(11)(layers.RMSNormalization()(x)))
    tokens = np.random.default_rng(0).integers(0, 11, (6, 5)).astype("int32")
    path = tmp_path / f"student{suffix}"
    exported = kf.export.export_student(student, path, data=tokens)
    assert exported.largest_difference < 1e-5
