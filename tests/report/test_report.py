"""What `kf.report` counts, judges, times and shows."""

import itertools

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf
from keras_fitnets.report import timing
from keras_fitnets.runtimes import predictions
from keras_fitnets.runtimes.runner import load_runner


def sequential(shape, *inner):
    return keras.Sequential([keras.Input(shape), *inner])


# Of docs/reproduction.md, worked out from the paper's printed channels.
@pytest.mark.parametrize(
    "name, expected",
    [
        ("fitnet1", 30_150_024),
        ("fitnet2", 107_775_880),
        ("fitnet3", 323_946_376),
        ("fitnet4", 381_749_128),
        ("cifar_teacher", 736_370_312),
    ],
)
def test_the_papers_networks_are_counted_exactly(name, expected):
    assert kf.report.multiplications(kf.models.build(name)) == expected


# What is multiplied with what: places × kernel × channels in × channels out.
LAYERS = {
    "Dense": ((6,), layers.Dense(5), 6 * 5),
    "Dense on steps": ((8, 4), layers.Dense(5), 8 * 4 * 5),
    "Conv1D": ((8, 4), layers.Conv1D(5, 3), 6 * 3 * 4 * 5),
    "Conv2D": ((8, 8, 4), layers.Conv2D(5, (3, 2)), 6 * 7 * 6 * 4 * 5),
    "padded": ((8, 8, 4), layers.Conv2D(5, 3, padding="same"), 64 * 9 * 4 * 5),
    "strides": ((8, 8, 4), layers.Conv2D(5, 3, strides=2), 9 * 9 * 4 * 5),
    "groups": ((8, 8, 4), layers.Conv2D(6, 3, groups=2), 36 * 9 * 2 * 6),
    "dilated": ((8, 8, 4), layers.Conv2D(5, 3, dilation_rate=2), 16 * 9 * 4 * 5),
    "Conv3D": ((5, 5, 5, 2), layers.Conv3D(3, 2), 64 * 8 * 2 * 3),
    "depthwise": ((8, 8, 4), layers.DepthwiseConv2D(3), 36 * 9 * 4),
    "separable": ((8, 8, 4), layers.SeparableConv2D(5, 3), 36 * 9 * 4 + 36 * 4 * 5),
    "transposed": ((4, 4, 3), layers.Conv2DTranspose(5, 3, 2), 16 * 9 * 3 * 5),
    "transposed 3D": ((3, 3, 3, 2), layers.Conv3DTranspose(4, 2), 27 * 8 * 2 * 4),
    "LSTM": ((7, 4), layers.LSTM(3), 7 * 4 * 3 * (4 + 3)),
    "GRU": ((7, 4), layers.GRU(3, return_sequences=True), 7 * 3 * 3 * (4 + 3)),
    "two ways": ((7, 4), layers.Bidirectional(layers.LSTM(3)), 2 * 7 * 4 * 3 * 7),
    "ConvLSTM1D": ((3, 8, 2), layers.ConvLSTM1D(5, 3), 3 * 6 * 3 * (2 + 5) * 20),
    "over time": ((7, 6), layers.TimeDistributed(layers.Dense(5)), 7 * 6 * 5),
    "einsum": ((8, 4), layers.EinsumDense("abc,cd->abd", (8, 5)), 8 * 4 * 5),
    "table": ((8,), layers.Embedding(9, 4), 0),
    "normalised": ((8, 8, 4), layers.BatchNormalization(), 0),
    "maxout": ((8, 8, 4), kf.Maxout(2), 0),
    "nested": ((6,), sequential((6,), layers.Dense(5), layers.Dense(2)), 40),
}


@pytest.mark.parametrize("shape, layer, expected", LAYERS.values(), ids=LAYERS)
def test_a_layer_is_counted_as_by_hand(shape, layer, expected):
    network = sequential(shape, layer)
    assert kf.report.multiplications(network) == expected
    assert not getattr(layer, "unroll", False)


def test_attention_is_counted_as_by_hand():
    steps, width, heads, key, value = 7, 6, 2, 3, 5
    inputs = keras.Input((steps, width))
    attention = layers.MultiHeadAttention(heads, key, value)(inputs, inputs)
    projections = steps * width * heads * (key + key + value)
    weighing = steps * steps * heads * (key + value)
    back = steps * heads * value * width
    network = keras.Model(inputs, attention)
    assert kf.report.multiplications(network) == projections + weighing + back


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["a"] * inputs["b"])


def test_data_show_what_a_network_does_not():
    given = {"a": np.ones((5, 4)), "b": np.ones((5, 4))}
    network = Subclassed()
    network(given)
    with pytest.raises(
        ValueError, match="not known in all dimensions: None. Pass a batch"
    ):
        kf.report.multiplications(network)
    assert kf.report.multiplications(network, given) == 12
    text = keras.Sequential([keras.Input((None, 4)), layers.LSTM(3)])
    with pytest.raises(ValueError, match=r"\(None, None, 4\). Pass a batch"):
        kf.report.multiplications(text)
    assert kf.report.multiplications(text, np.ones((2, 9, 4))) == 9 * 4 * 3 * 7


def looping():
    def loop(x):
        def body(i, y):
            return i + 1, tf.matmul(y, tf.ones((4, 4)))

        return tf.while_loop(lambda i, _: i < 3, body, (0, x))[1]

    return sequential((4,), layers.Lambda(loop, output_shape=(4,)))


def test_only_networks_with_weights_are_counted():
    with pytest.raises(TypeError, match="must be a keras.Model; received 'a.keras'"):
        kf.report.multiplications("a.keras")
    with pytest.raises(ValueError, match="has no weights yet"):
        kf.report.multiplications(keras.Sequential([layers.Dense(2)]), np.ones((1, 3)))


def test_what_a_loop_hides_is_not_left_out_in_silence():
    with pytest.raises(
        ValueError, match="cannot be counted: its pass contains .*While"
    ):
        kf.report.multiplications(looping())
    report = kf.report.compare({"looping": looping()}, repeats=0, verbose=0)
    assert report.rows[0]["multiplications"] is None
    assert "looping: The multiplications" in str(report)


def test_an_einsum_of_two_factors_is_counted_with_its_dots():
    def product(x):
        y = tf.ones((3, 1, 5, 4))
        return tf.einsum("...ij,...kj->...ik", x, y)

    network = sequential((3, 2, 6, 4), layers.Lambda(product))
    assert kf.report.multiplications(network) == 3 * 2 * 6 * 5 * 4


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def naive_calibration_error(confidence, correct, bins=15):
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            error += inside.mean() * abs(gap)
    return error


@pytest.mark.parametrize("from_logits", [True, False])
def test_softmax_outputs_are_judged_as_by_hand(from_logits):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(scale=3, size=(500, 4)), rng.integers(4, size=500)
    p = softmax(logits)
    judged = predictions.to_predictions(
        logits if from_logits else p, "softmax", from_logits
    )
    np.testing.assert_array_equal(judged.classes, p.argmax(-1))
    np.testing.assert_allclose(judged.confidence, p.max(-1), rtol=1e-12)
    for given in (labels, labels[:, None], np.eye(4)[labels]):
        correct = judged.classes == predictions.labels_to_classes(given, judged)
        assert correct.mean() == np.mean(p.argmax(-1) == labels)
    expected = naive_calibration_error(p.max(-1), p.argmax(-1) == labels)
    assert (
        abs(predictions.calibration_error(judged.confidence, correct) - expected)
        < 1e-12
    )


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [1, 3])
def test_sigmoid_outputs_are_judged_as_by_hand(from_logits, units):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(300, units))
    labels = rng.integers(2, size=(300, units))
    p = 1 / (1 + np.exp(-logits))
    judged = predictions.to_predictions(
        logits if from_logits else p, "sigmoid", from_logits
    )
    np.testing.assert_array_equal(judged.classes, p > 0.5)
    expected = np.where(p > 0.5, p, 1 - p)
    np.testing.assert_allclose(judged.confidence, expected, rtol=1e-12)
    correct = judged.classes == predictions.labels_to_classes(labels, judged)
    assert correct.mean() == np.mean((p > 0.5) == labels)
    error = naive_calibration_error(expected.ravel(), correct.ravel())
    assert (
        abs(predictions.calibration_error(judged.confidence, correct) - error) < 1e-12
    )


def test_probabilities_in_256_steps_are_distinguished_from_logits():
    logits = np.random.default_rng(0).normal(size=(50, 200))
    steps = np.round(256 * softmax(logits)) / 256
    # So far off that fewer units would take them for logits.
    assert np.abs(steps.sum(-1) - 1).max() > 0.05
    assert predictions.is_probability_like(steps, "softmax")
    assert not predictions.is_probability_like(steps[:, :10], "softmax")


class OneNumber(keras.Model):
    """A network whose output has no axis of units."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, inputs):
        return keras.ops.squeeze(self.dense(inputs), -1)


def test_an_output_without_units_is_one_unit():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.integers(2, size=40)
    network = OneNumber()
    network(x)
    kernel, bias = network.get_weights()
    logits = x.astype("float64") @ kernel[:, 0] + bias
    [row] = kf.report.compare({"a": network}, (x, y), repeats=0, verbose=0).rows
    assert row["accuracy"] == np.mean((logits > 0) == y)
    assert 0 < row["accuracy"] < 1


def test_a_perfect_and_an_overconfident_network_are_calibrated_so():
    right = np.array([True, True, True, False])
    assert predictions.calibration_error(np.full(4, 0.75), right) == 0
    assert predictions.calibration_error(np.full(4, 1.0), right) == 0.25


@pytest.mark.parametrize(
    "labels, told",
    [
        (np.zeros((4, 3, 2)), "Labels of shape .4, 3, 2. do not fit 4 outputs of 3 u"),
        (np.zeros((4, 2)), "Labels of shape .4, 2. do not fit"),
        (np.array([0, 1, 2, 3]), "between 0 and 2, for outputs of 3 unit.*0 to 3"),
        (np.array([-1, 1, 2, 0]), "received -1 to 2"),
        (np.array([0, 1, 2, np.nan]), "received nan to nan"),
        (np.array([0, 1, 2, 0.5]), "Classes must be whole numbers"),
        (np.array(["a", "b", "a", "b"]), "Labels must be numbers.*dtype <U1"),
        ([np.zeros(4), np.zeros((4, 2))], "Labels must be one array: "),
    ],
)
def test_labels_that_do_not_fit_are_reported(labels, told):
    network = sequential((2,), layers.Dense(3))
    with pytest.raises(ValueError, match=told):
        kf.report.compare(
            {"a": network}, (np.ones((4, 2)), labels), repeats=0, verbose=0
        )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 6)).astype("float32"), rng.integers(3, size=300)


def in_float64(network, x):
    """The logits of a `tiny.network`, by hand."""
    kernel, bias, out, last = (w.astype("float64") for w in network.get_weights())
    return np.tanh(x @ kernel + bias) @ out + last


def test_rows_hold_what_is_true_of_the_models(data):
    x, y = data
    teacher = tiny.network(hidden=40, seed=1)
    student = tiny.network(hidden=5, seed=2, end="softmax")
    report = kf.report.compare(
        {"teacher": teacher, "student": student}, data, repeats=1, verbose=0
    )
    first, second = report.rows
    assert first.keys() == second.keys()
    assert (first["model"], second["model"]) == ("teacher", "student")
    assert second["parameters"] == 6 * 5 + 5 + 5 * 3 + 3
    assert second["bytes"] == 4 * second["parameters"]
    assert second["multiplications"] == 6 * 5 + 5 * 3
    assert second["compression"] == (6 * 40 + 40 + 40 * 3 + 3) / 53
    assert second["multiplications_ratio"] == (6 * 40 + 40 * 3) / 45
    assert second["bytes_ratio"] == second["compression"]
    p = [softmax(in_float64(network, x)) for network in (teacher, student)]
    for row, own in zip(report.rows, p, strict=True):
        right = own.argmax(-1) == y
        assert row["accuracy"] == right.mean()
        assert row["agreement"] == np.mean(own.argmax(-1) == p[0].argmax(-1))
        error = naive_calibration_error(own.max(-1), right)
        assert abs(row["calibration_error"] - error) < 1e-4
        assert row["speed_up"] == first["latency"] / row["latency"]
        assert row["throughput_ratio"] == row["throughput"] / first["throughput"]
    assert 0 < second["agreement"] < 1


def test_batches_of_a_dataset_and_a_distiller_are_the_same(data):
    x, y = data
    teacher, student = tiny.network(hidden=40, seed=1), tiny.network(seed=2)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(77)
    plain = kf.report.compare({"a": student}, data, repeats=0, verbose=0)
    other = kf.report.compare(
        {"a": kf.Distiller(teacher, student)}, batches, repeats=0, verbose=0
    )
    assert plain.rows == other.rows


def test_several_inputs_and_integers_are_compared():
    words, numbers = keras.Input((4,), dtype="int32"), keras.Input((3,))
    flat = layers.Flatten()(layers.Embedding(9, 2)(words))
    outputs = layers.Dense(2)(layers.Concatenate()([flat, numbers]))
    network = keras.Model([words, numbers], outputs)
    x = [np.ones((5, 4), "int32"), np.ones((5, 3), "float32")]
    report = kf.report.compare(
        {"a": network, "b": network}, (x, np.ones(5)), repeats=1, verbose=0
    )
    assert report.rows[1]["agreement"] == 1.0
    assert report.rows[1]["multiplications"] == (8 + 3) * 2
    alone = kf.report.compare({"a": network}, repeats=1, verbose=0)
    assert alone.rows[0]["latency"] > 0 and "accuracy" not in alone.rows[0]


def first_label(x, y):
    return x, y[0]


def broken():
    network = tiny.network()
    network.set_weights([np.full(w.shape, np.nan) for w in network.get_weights()])
    return network


def embedding():
    inner = [layers.Embedding(9, 2), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *inner])


@pytest.mark.parametrize(
    "models, options, error, told",
    [
        ([1], {}, TypeError, "must be a dictionary from names to models"),
        ({}, {}, TypeError, "at least one; received {}"),
        ({"a": 3}, {}, TypeError, "A model must be a keras.Model.*received 3"),
        ({"a": "b.tflite"}, {}, FileNotFoundError, "There is no 'b.tflite' in"),
        ({"a": __file__}, {}, ValueError, "ends in none of .keras, .tflite, .onnx"),
        ({"a": keras.Sequential([layers.Dense(2)])}, {}, ValueError, "no weights yet"),
        ({1: tiny.network()}, {}, TypeError, "must be a dictionary from names to mod"),
        (
            {"a": tiny.network()},
            {"activation": "relu"},
            ValueError,
            "`activation` must",
        ),
        ({"a": Subclassed()}, {}, ValueError, "has no weights yet"),
        ({"a": tiny.network()}, {"repeats": -1}, ValueError, "`repeats` must be a"),
        ({"a": tiny.network()}, {"batch_size": 0}, ValueError, "`batch_size` must"),
        (
            {"a": tiny.network(end="softmax")},
            {"data": tiny.data(), "activation": "sigmoid"},
            ValueError,
            "Model 'a' ends in softmax; received activation='sigmoid'",
        ),
        (
            {"a": tiny.network(), "b": tiny.network(classes=1)},
            {"data": tiny.data()[0]},
            ValueError,
            "'b' makes 8 predictions by sigmoid of 1 unit.*the first model .* softmax",
        ),
        (
            {"a": tiny.network(classes=4), "b": tiny.network(classes=3)},
            {"data": tiny.data()[0]},
            ValueError,
            "'b' makes 8 predictions by softmax of 3 .* first model .* softmax of 4",
        ),
        (
            {"a": broken()},
            {"data": tiny.data()},
            ValueError,
            "Model 'a' gives NaN or infinity for 8 of 8 samples",
        ),
        (
            {"a": embedding()},
            {"data": np.full((2, 4), 9)},
            ValueError,
            "Network 'sequential.*' fails when it runs: .* not in .0, 9",
        ),
        (
            {"a": tiny.network()},
            {"data": [*tiny.data()]},
            ValueError,
            "takes 1 input.s.; received 2 array.s.. Data are `x` or the tuple",
        ),
        (
            {"a": tiny.network()},
            {"data": (*tiny.data(), np.ones(8))},
            ValueError,
            "received a tuple of 3. Leave sample weights out",
        ),
        (
            {"a": tiny.network()},
            {"data": tf.data.Dataset.from_tensor_slices(tiny.data()).map(first_label)},
            ValueError,
            "must consist of batches.*received single samples",
        ),
        (
            {"a": keras.Model((i := keras.Input((6,))), [i, layers.Dense(2)(i)])},
            {"data": tiny.data()},
            ValueError,
            "Model 'a' has 2 outputs, and predictions are read from one",
        ),
        (
            {"a": tiny.network()},
            {"data": (np.ones((3, 6)), np.ones(2))},
            ValueError,
            "same number of samples in each.*labels of the shape .2,.",
        ),
        (
            {"a": tiny.network()},
            {"data": tf.data.Dataset.from_tensors(np.ones((3, 6))).repeat()},
            ValueError,
            "repeats without end",
        ),
    ],
)
def test_what_cannot_be_compared_is_reported(models, options, error, told):
    with pytest.raises(error, match=told):
        kf.report.compare(models, **{"repeats": 0, "verbose": 0, **options})


def test_a_network_that_shows_no_inputs_needs_data_to_be_timed():
    network = Subclassed()
    network({"a": np.ones((5, 4)), "b": np.ones((5, 4))})
    with pytest.raises(ValueError, match="does not declare its inputs.*Pass `data`"):
        kf.report.compare({"a": network}, repeats=1, verbose=0)


def test_a_file_of_one_batch_size_runs_any_number_of_samples(tmp_path):
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    ends = [helper.make_tensor_value_info(name, kind, [4, 2]) for name in ("x", "y")]
    node = helper.make_node("Neg", ["x"], ["y"])
    graph = helper.make_graph([node], "fixed", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 15)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    x = np.arange(20, dtype="float32").reshape(10, 2)
    [found] = load_runner(tmp_path / "a.onnx").predict(x, 7)
    np.testing.assert_array_equal(found, -x)


def test_times_are_medians_of_runs_that_take_turns(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    # The machine is ten times slower in one turn out of three, for whoever runs then.
    takes = {"a": itertools.cycle([0.1, 0.1, 1.0]), "b": itertools.cycle([0.3] * 3)}

    def step(name):
        def run():
            order.append(name)
            clock[0] += next(takes[name])

        return run

    turns = []
    steps = {name: step(name) for name in takes}
    found = timing.measure_medians(steps, repeats=9, warm_up=1, progress=turns.append)
    assert found["a"] == pytest.approx(0.1) and found["b"] == pytest.approx(0.3)
    rounds = [order[i : i + 2] for i in range(4, len(order), 2)]
    assert len(rounds) == 10 and all(set(one) == {"a", "b"} for one in rounds)
    assert rounds != [rounds[0]] * 10
    assert turns == [1] * 9


def test_a_short_run_is_repeated_within_a_measurement(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    calls = []

    def step():
        calls.append(1)
        clock[0] += 1e-4

    assert timing.measure_medians({"a": step}, 1, warm_up=0)["a"] == pytest.approx(1e-4)
    assert len(calls) == 2 + 20


ROWS = [
    {
        "model": "a|b",
        "parameters": 2_000_000,
        "compression": 1.0,
        "bytes": 8_000_000,
        "bytes_ratio": 1.0,
        "latency": 0.01,
        "speed_up": 1.0,
        "accuracy": 0.9,
    },
    {
        "model": "<c>",
        "parameters": 15_000,
        "compression": 133.3,
        "bytes": 999,
        "bytes_ratio": 8008.0,
        "latency": 0.02,
        "speed_up": 0.5,
        "accuracy": None,
    },
]


def test_a_report_is_shown_as_text_markdown_and_html():
    report = kf.report.Report(ROWS, 128, ("c: not told.",))
    assert str(report).splitlines() == [
        "        parameters               size  latency, ms  accuracy, %",
        "a|b      2,000,000            8.00 MB           10        90.00",
        "<c>  15,000 (133×)  999 B (8.01e+03×)    20 (0.5×)            –",
        "c: not told.",
    ]
    assert report.to_markdown().splitlines() == [
        "|  | parameters | size | latency, ms | accuracy, % |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a\\|b | 2,000,000 | 8.00 MB | 10 | 90.00 |",
        "| <c> | 15,000 (133×) | 999 B (8.01e+03×) | 20 (0.5×) | – |",
        "",
        "c: not told.",
    ]
    shown = report._repr_html_()
    assert "<th>&lt;c&gt;</th>" in shown and "<p>c: not told.</p>" in shown
    assert shown.count("<tr>") == 3


def test_a_picture_has_each_model_at_its_place(tmp_path):
    rows = [
        {"model": "t", "parameters": 400, "multiplications": 9000, "accuracy": 0.9},
        {"model": "s", "parameters": 100, "multiplications": 1000, "accuracy": 0.8},
        {"model": "q", "parameters": 100, "multiplications": 1000, "accuracy": 0.8},
        {"model": "no", "parameters": None, "multiplications": 1, "accuracy": 0.5},
        {"model": "none", "parameters": 0, "multiplications": 0, "accuracy": 0.5},
    ]
    figure = kf.report.Report(rows, 1).plot(tmp_path / "a.png")
    [axis] = figure.axes
    found = {(*dots.get_offsets()[0], dots.get_sizes()[0]) for dots in axis.collections}
    areas = {(x, y): area for x, y, area in found if area != 9}
    assert areas[9000, 90] == 4 * areas[1000, 80] and len(areas) == 2
    labels = {text.get_text() for text in axis.texts}
    assert labels == {"t: 400 parameters", "s; q: 100 parameters"}
    assert (tmp_path / "a.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="nothing to draw: no model has accuracy"):
        kf.report.Report(rows[-2:], 1).plot()
