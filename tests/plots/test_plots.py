"""The pictures show the numbers that float64 NumPy finds, where they belong."""

import re

import keras
import numpy as np
import pytest
import reference
import tiny
from keras import layers

import keras_fitnets as kf
from keras_fitnets.utils import figures


def history(**logs):
    made = keras.callbacks.History()
    made.history = logs
    return made


def run(hint, kd):
    return kf.StagewiseHistory(history(**hint), history(**kd))


HINT = {"loss": [9.0, 2.0, 1.0], "hint_loss": [9.0, 2.0, 0.5]}
KD = {
    "loss": [5.0, 4.0],
    "label_loss": [1.0, 0.4],
    "kd_loss": [1.0, 0.9],
    "val_label_loss": [1.1, 0.7],
    "accuracy": [0.5, 0.75],
    "val_accuracy": [0.25, 0.5],
    "learning_rate": [0.1, 0.1],
    "lambda": [4.0, 1.0],
}


def lines(axis):
    """The curves of an axis, as epochs and values, by their figures."""
    found = {}
    for line in axis.get_lines():
        if len(line.get_xdata()) > 1 and np.ptp(line.get_xdata()) > 0:
            key = (line.get_color(), line.get_linestyle())
            found.setdefault(key, []).append((line.get_xdata(), line.get_ydata()))
    return found


def assert_lines(axis, expected):
    found = lines(axis)
    assert found.keys() == expected.keys()
    for key, parts in expected.items():
        assert len(found[key]) == len(parts), key
        for (x, y), (epochs, values) in zip(found[key], parts, strict=True):
            np.testing.assert_array_equal(x, epochs)
            np.testing.assert_array_equal(y, values)


def test_the_stages_follow_each_other_on_one_axis(tmp_path):
    figure = kf.plots.stages(run(HINT, KD), tmp_path / "stages.png")
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
    losses, metrics, lambdas = figure.axes
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["loss per sample", "metric", "λ"]
    assert lambdas.get_xlabel() == "epoch"
    second = [4, 5]
    assert_lines(
        losses,
        {
            (figures.GREEN, "-"): [([1, 2, 3], [9.0, 2.0, 0.5])],
            (figures.BLUE, "-"): [(second, [1.0, 0.4])],
            (figures.BLUE, "--"): [(second, [1.1, 0.7])],
            (figures.VERMILLION, "-"): [(second, [1.0, 0.9])],
        },
    )
    assert_lines(
        metrics,
        {
            (figures.BLUE, "-"): [(second, [0.5, 0.75])],
            (figures.BLUE, "--"): [(second, [0.25, 0.5])],
        },
    )
    assert_lines(lambdas, {("black", "-"): [(second, [4.0, 1.0])]})
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "linear", "linear"]
    for axis in figure.axes:
        [border] = [one for one in axis.get_lines() if np.ptp(one.get_xdata()) == 0]
        assert border.get_xdata()[0] == 3.5 and axis.get_xlim() == (0.5, 5.5)
    names = [text.get_text() for text in losses.get_legend().get_texts()]
    assert names == ["hint_loss", "label_loss", "kd_loss", "validation"]
    assert [text.get_text() for text in losses.texts] == [
        *("stage 1: hint ", " stage 2: kd"),
    ]


def test_stage_2_alone_and_joint():
    kd = {**KD, "hint_loss": [0.9, 0.3], "temperature": [3.0, 2.0]}
    kd |= {"agreement": [0.1, 0.2], "hint_share": [0.3, 0.4], "val_accuracy": [0.5]}
    figure = kf.plots.stages(run({}, kd))
    losses, metrics, shares, annealed = figure.axes
    assert [text.get_text() for text in losses.texts] == ["stage 2: joint"]
    assert annealed.get_ylabel() == "λ, τ"
    assert shares.get_ylabel() == "share of the loss"
    # Of one validation in two epochs, it is after the second.
    [dashed] = [one for one in metrics.get_lines() if one.get_linestyle() == "--"]
    assert [*dashed.get_xdata(), *dashed.get_ydata()] == [2, 0.5]
    assert losses.get_yscale() == "linear"


def test_of_pairs_in_turn_only_whole_logs_are_drawn():
    hint = {"hint_loss": [4.0, 3.0, 2.0, 1.0], "hint_r2_1": [0.1, 0.2]}
    figure = kf.plots.stages(run(hint, {}))
    [losses] = figure.axes
    assert_lines(losses, {(figures.GREEN, "-"): [([1, 2, 3, 4], hint["hint_loss"])]})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (history(**KD), TypeError, "StagewiseHistory(keras.callbacks.History(), h"),
        (KD, TypeError, "must be what `fit_stagewise` returned"),
        (
            run({}, {"loss": [1.0]}),
            ValueError,
            "nothing to draw; received [[], ['loss']]",
        ),
    ],
)
def test_what_is_no_history_of_two_stages_is_refused(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kf.plots.stages(given)


# Maps


def pictures(figure):
    """What is drawn on each axis but for the scale, by its title and its label."""
    found = []
    for axis in figure.axes[:-1]:
        [image] = axis.get_images()
        found.append((axis.get_title(), axis.get_ylabel(), image))
    return found


def conv_pair(**options):
    teacher = tiny.network("conv", hidden=6, seed=1, **options)
    made = kf.Distiller(
        [tiny.network("conv", hidden=3, seed=5), teacher],
        tiny.network("conv", hidden=2, seed=2),
        hints=[("hidden", "hidden"), kf.Hint("hidden", "hidden", member=1)],
    )
    tiny.redrawn(made.regressors[1], 4)
    return made


@pytest.mark.slow
def test_maps_of_the_liveliest_channels_in_one_scale(tmp_path):
    model, (x, _) = conv_pair(), tiny.data("conv", samples=40)
    path = tmp_path / "maps.png"
    figure = kf.plots.hint_maps(model, x, pair=1, channels=2, images=3, path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    hint, _ = reference.hidden_and_logits(
        x, model.teacher.models[1].get_weights(), "tanh"
    )
    guided, _ = reference.hidden_and_logits(x, model.student.get_weights(), "tanh")
    predicted = reference.regress(guided, model.regressors[1].get_weights(), "tanh")
    liveliest = np.sort(np.argsort(-hint[:32].var(axis=(0, 1, 2)))[:2])
    drawn = pictures(figure)
    tiles = iter(drawn)
    for i in range(3):
        for side, values in {"hint": hint, "regressed": predicted}.items():
            for k, channel in enumerate(liveliest):
                title, label, image = next(tiles)
                expected = values[i, ..., channel]
                np.testing.assert_allclose(image.get_array(), expected, atol=1e-5)
                above = f"map {channel}" if i == 0 and side == "hint" else ""
                assert (title, label) == (above, side if k == 0 else "")
    scales = {image.get_clim() for *_, image in drawn}
    assert len(scales) == 1
    shown = np.concatenate([v[:3][..., liveliest].ravel() for v in (hint, predicted)])
    np.testing.assert_allclose(*scales, [shown.min(), shown.max()], rtol=1e-5)
    spread = np.sum((hint - hint.mean(axis=0)) ** 2)
    r2 = 1 - np.sum((hint - predicted) ** 2) / spread
    expected = f"hint hidden → guided hidden, R² = {r2:.2f} over 40 samples"
    assert figure.get_suptitle() == expected.replace("-", "−")


@pytest.mark.parametrize("shape", [(6, 6, 1), (6, 6, 3), (6, 6)])
def test_images_stand_beside_their_maps(shape):
    def network(width):
        steps = [layers.Reshape((6, 6, -1)), layers.Conv2D(width, 3, name="conv")]
        top = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
        return keras.Sequential([keras.Input(shape), *steps, *top])

    model = kf.Distiller(network(4), network(2), hints=("conv", "conv"))
    x = np.random.default_rng(0).integers(0, 255, size=(2, *shape))
    figure = kf.plots.hint_maps(model, x, channels=1)
    seen = [image for title, _, image in pictures(figure) if title == "image"]
    seen += [pictures(figure)[3][2]]
    assert len(pictures(figure)) == 6
    low, high = x.min(), x.max()
    for image, one in zip(seen, x, strict=True):
        np.testing.assert_allclose(
            np.squeeze(image.get_array()), np.squeeze((one - low) / (high - low))
        )


def test_of_one_sample_there_is_no_r2():
    figure = kf.plots.hint_maps(conv_pair(), tiny.data("conv")[0][:1])
    assert figure.get_suptitle() == "hint hidden → guided hidden"


def test_a_flat_layer_is_a_row_for_each_sample():
    teacher, student = tiny.network(hidden=7, seed=1), tiny.network(hidden=2, seed=2)
    model, (x, _) = kf.Distiller(teacher, student, ("hidden", "hidden")), tiny.data()
    (_, label, hint), (_, other, predicted) = pictures(kf.plots.hint_maps(model, x))
    assert (label, other) == ("hint\nsample", "regressed\nsample")
    expected, _ = reference.hidden_and_logits(x, teacher.get_weights(), "tanh")
    np.testing.assert_allclose(hint.get_array(), expected[:3], atol=1e-6)
    guided, _ = reference.hidden_and_logits(x, student.get_weights(), "tanh")
    expected = reference.regress(guided, model.regressors[0].get_weights(), "tanh")
    np.testing.assert_allclose(predicted.get_array(), expected[:3], atol=1e-6)


def test_a_sequence_is_a_row_for_each_channel_and_masked_steps_are_blank():
    def network(width, seed):
        inputs = keras.Input((5, 3))
        hidden = layers.Dense(width, "tanh", name="hidden")(layers.Masking()(inputs))
        outputs = layers.Dense(3)(hidden)
        return tiny.redrawn(keras.Model(inputs, outputs), seed)

    teacher = network(6, 1)
    model = kf.Distiller(teacher, network(2, 2), hints=("hidden", "hidden"))
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    x[0, 3:] = 0.0
    figure = kf.plots.hint_maps(model, x, channels=2, images=2)
    drawn = pictures(figure)
    assert [label for _, label, _ in drawn] == [
        "hint\nchannel",
        "regressed\nchannel",
    ] * 2
    kernel, bias, *_ = map(reference.f64, teacher.get_weights())
    hint = np.tanh(x @ kernel + bias)
    hint[0, 3:] = np.nan
    liveliest = np.sort(np.argsort(-np.nanvar(hint, axis=(0, 1)))[:2])
    for i, (*_, image) in enumerate(drawn[::2]):
        expected = hint[i][:, liveliest].T
        values = np.ma.filled(image.get_array(), np.nan)
        np.testing.assert_allclose(values, expected, atol=1e-6)
    assert np.ma.getmaskarray(drawn[1][2].get_array())[:, 3:].all()


@pytest.mark.parametrize("kind", ["channels first", "3-D"])
def test_other_maps(kind):
    def network(width, seed):
        if kind == "3-D":
            shape, hidden = (5, 4, 4, 2), layers.Conv3D(width, 2, name="hidden")
            pool = layers.GlobalAveragePooling3D()
        else:
            options = {"data_format": "channels_first"}
            shape, pool = (2, 5, 5), layers.GlobalAveragePooling2D(**options)
            hidden = layers.Conv2D(width, 2, name="hidden", **options)
        steps = [hidden, pool, layers.Dense(3)]
        return tiny.redrawn(keras.Sequential([keras.Input(shape), *steps]), seed)

    teacher = network(3, 1)
    model = kf.Distiller(teacher, network(2, 2), hints=("hidden", "hidden"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *teacher.input_shape[1:])).astype("float32")
    kernel, bias, *_ = teacher.get_weights()
    last = x if kind == "3-D" else np.moveaxis(x, 1, -1)
    hint = reference.convolve(last, kernel) + bias
    expected = hint[:, 2] if kind == "3-D" else hint
    drawn = pictures(kf.plots.hint_maps(model, x, channels=3, images=1))
    for i, (*_, image) in enumerate(drawn[:3]):
        np.testing.assert_allclose(image.get_array(), expected[0, ..., i], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pair": 2}, ValueError, "received 2. There are 0: Hint('hidden', 'hidden')"),
        ({"pair": -1}, ValueError, "received -1"),
        ({"pair": True}, ValueError, "received True"),
        ({"channels": 0}, ValueError, "`channels` must be an integer"),
        ({"images": 1.5}, ValueError, "`images` must be an integer"),
        ({"x": np.ones((2, 5, 4, 2))}, ValueError, "`x` of hint_maps of shape (2, 5"),
        ({"x": [[1.0]]}, TypeError, "`x` of hint_maps must be an array"),
        ({"distiller": None}, TypeError, "received None"),
        (
            {"distiller": kf.Distiller(tiny.network(), tiny.network())},
            ValueError,
            "has no hints",
        ),
    ],
)
def test_mistakes_about_hints_are_reported(options, error, message):
    given = {"distiller": conv_pair(), "x": tiny.data("conv")[0], **options}
    with pytest.raises(error, match=re.escape(message)):
        kf.plots.hint_maps(**given)


# The curriculum


def norm(gradient):
    return np.linalg.norm(gradient, axis=-1)


CURRICULA = {
    "softmax": ("softmax", {}),
    "targets": ("softmax", {"targets": True}),
    "squared": ("softmax", {"temperature_squared": True}),
    "sigmoid": ("sigmoid", {}),
    "one unit": ("sigmoid", {"classes": 1}),
}


@pytest.mark.parametrize("case", CURRICULA)
def test_points_are_ratios_of_gradients_over_the_confidence(case, tmp_path):
    activation, options = CURRICULA[case]
    options = dict(options)
    targets = options.pop("targets", activation == "sigmoid")
    classes = options.pop("classes", 3)
    members = [tiny.network(classes=classes, seed=seed) for seed in (3, 4)]
    student = tiny.network(hidden=2, classes=classes)
    options |= {"activation": activation, "temperature": 2.5}
    model = kf.Distiller(members, student, **options)
    x, y = tiny.data(activation=activation, samples=40, classes=classes)
    path = tmp_path / "curriculum.png" if case == "softmax" else None
    labels = y if targets else y.argmax(-1)
    figure = kf.plots.curriculum(model, x, labels, [4.0, 0.5], path)
    logits = [
        reference.hidden_and_logits(x, member.get_weights(), "tanh")[1]
        for member in members
    ]
    soft = reference.ensemble_targets(logits, 2.5, activation)
    # As logits of one teacher, at the temperature.
    one = 2.5 * reference.to_logits(soft, activation, from_logits=False)
    squared = options.get("temperature_squared", False)
    nothing = np.zeros_like(one)
    pull = reference.soft_target_gradient(one, nothing, 2.5, activation, squared)
    units = 1 if activation == "softmax" else classes
    label = (reference.probabilities(nothing, 1.0, activation) - y) / units
    sure = np.maximum(soft, 1 - soft).mean(axis=-1)
    sure = soft.max(axis=-1) if activation == "softmax" else sure
    if activation == "softmax":
        wrong = soft.argmax(-1) != y.argmax(-1)
    else:
        wrong = np.any((soft > 0.5) != (y > 0.5), axis=-1)
    assert 0 < wrong.sum() < 40
    above, below = figure.axes
    clouds = [dots.get_offsets() for dots in above.collections]
    expected = []
    for which in (slice(None), wrong):
        for lambda_ in (4.0, 0.5):
            ratio = lambda_ * norm(pull) / norm(label)
            expected.append(np.stack([sure, ratio], axis=-1)[which])
    for cloud, points in zip(clouds, expected, strict=True):
        np.testing.assert_allclose(cloud, points, rtol=1e-4)
    right, mistaken = (
        sum(bar.get_height() for bar in bars) for bars in below.containers
    )
    assert (right, mistaken) == (np.sum(~wrong), np.sum(wrong))
    assert below.get_xlabel() == "teacher's confidence at τ = 2.5, a probability"
    if path is not None:
        assert path.read_bytes().startswith(b"\x89PNG")


def forked():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])


def sequences():
    inputs = keras.Input((6, 1))
    return keras.Model(inputs, layers.Dense(3)(inputs))


X, Y = tiny.data()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": Y[:5]}, ValueError, "of shape (5, 3)"),
        ({"y": np.full(8, 3)}, ValueError, "from 3 to 3"),
        ({"y": np.full(8, 0.5)}, ValueError, "from 0.5 to 0.5"),
        ({"y": ["a"] * 8}, ValueError, "the number of one of 3 classes"),
        ({"lambdas": []}, ValueError, "one to five values"),
        ({"lambdas": range(6)}, ValueError, "one to five values"),
        ({"lambdas": [-1.0]}, ValueError, "non-negative number; received -1.0"),
        (
            {"lambdas": kf.LambdaAnnealing(4.0, 1.0, 9)},
            ValueError,
            "[annealing.value(epoch)",
        ),
        ({"x": X[:, :4]}, ValueError, "`x` of curriculum of shape (8, 4)"),
        ({"distiller": tiny.network()}, TypeError, "of a keras_fitnets.Distiller"),
        (
            {"distiller": kf.Distiller(forked(), forked())},
            ValueError,
            "one output; this Distiller has 2",
        ),
        (
            {"distiller": kf.Distiller(sequences(), sequences()), "x": X[..., None]},
            ValueError,
            "(8, 6, 3)",
        ),
    ],
)
def test_mistakes_about_the_curriculum_are_reported(options, error, message):
    model = kf.Distiller(tiny.network(seed=3), tiny.network(seed=4))
    given = {"distiller": model, "x": X, "y": Y, "lambdas": [4.0], **options}
    with pytest.raises(error, match=re.escape(message)):
        kf.plots.curriculum(**given)
