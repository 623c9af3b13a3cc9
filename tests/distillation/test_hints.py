"""Hints of every kind: masked, padded, of unknown size, of outputs, with own losses."""

import logging

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny
from keras import layers
from keras import ops

import keras_fitnets as kf
from keras_fitnets.distillation.objective import _note_large_regressor
from keras_fitnets.inspection import graph

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _eager(eager):
    """Steps run eagerly but for those of tests that are about the trace."""


def compiled(teacher, student, hints, loss=SPARSE, optimizer="sgd", **options):
    made = kf.Distiller(teacher, student, hints, **options)
    made.compile(optimizer, loss)
    return made


def hidden(network, x, name="h"):
    inputs = graph.get_inputs(network)
    return np.asarray(keras.Model(inputs, network.get_layer(name).output)(x))


def hint_log(model, x, y=None, **options):
    logs = model.evaluate(x, y, verbose=0, return_dict=True, **options)
    return logs["hint_loss"]


def half_squares(hint, prediction, valid):
    """Eq. 3 over the steps that count."""
    squares = 0.5 * np.sum((reference.f64(hint) - reference.f64(prediction)) ** 2, -1)
    return np.sum(squares * valid, axis=1)


# Masks of either side

TOKENS = RNG.integers(1, 20, (8, 6))
TOKENS[:, 3:] = 0
TOKENS[0, 1:] = 0
REAL = TOKENS != 0


class Rule(layers.Layer):
    """Rules out the steps whose token is one of some."""

    def __init__(self, tokens, **options):
        super().__init__(**options)
        self.tokens = tokens

    def compute_mask(self, x, previous_mask=None):
        return ops.all(ops.stack([x != token for token in self.tokens]), axis=0)

    def call(self, x):
        return ops.one_hot(x, 20)


def text_network(width, *ruled_out, end=4):
    rule = Rule(ruled_out or (-1,))
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Dense(width, "tanh", name="h")(rule(inputs))
    return keras.Model(inputs, layers.Dense(end)(x))


SIDES = {
    "neither": ((), ()),
    "the teacher's": ((0,), ()),
    "the student's": ((), (0,)),
    "both": ((0,), (0,)),
    "each its own": ((0, 5), (0, 7)),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("traced", [pytest.param(1, marks=pytest.mark.graph), 0])
def test_what_either_side_rules_out_does_not_count(side, traced):
    tokens = TOKENS.copy()
    tokens[1, :3] = 5, 7, 9
    ruled = SIDES[side]
    teacher, student = text_network(8, *ruled[0]), text_network(4, *ruled[1])
    model = compiled(teacher, student, ("h", "h"))
    u, v = hidden(teacher, tokens), hidden(student, tokens)
    own = ~np.isin(tokens, ruled[1])
    valid = ~np.isin(tokens, ruled[0]) & own
    prediction = np.asarray(model.regressors[0](v * own[..., None]))
    y = RNG.integers(0, 4, (8, 6))
    expected = half_squares(u, prediction, valid).mean()
    np.testing.assert_allclose(hint_log(model, tokens, y), expected, rtol=1e-5)
    without = half_squares(u, prediction, np.ones_like(valid)).mean()
    assert (abs(without - expected) > 1e-3) == (side != "neither")


def test_the_monitor_counts_what_both_sides_leave():
    teacher, student = text_network(8, 0), text_network(4, 0, 7)
    model = compiled(teacher, student, ("h", "h"), stage="hint")
    tokens = TOKENS.copy()
    tokens[1:, 1] = 7
    logs = model.fit(
        tokens, callbacks=[kf.StudentMonitor(tokens)], batch_size=8, verbose=0
    ).history
    own = ~np.isin(tokens, (0, 7))
    u = reference.f64(hidden(teacher, tokens))
    prediction = model.regressors[0](hidden(student, tokens) * own[..., None])
    missed = np.sum((u - np.asarray(prediction))[own] ** 2)
    # The mean of a feature is that of each of its steps over the samples.
    spread = 0.0
    for step in np.flatnonzero(own.any(axis=0)):
        there = u[own[:, step], step]
        spread += np.sum((there - there.mean(axis=0)) ** 2)
    expected = 1 - missed / spread
    np.testing.assert_allclose(logs["hint_r2"], [expected], rtol=1e-4)


def test_masked_steps_have_no_gradient():
    teacher, student = text_network(8), text_network(4, 0)
    model = compiled(teacher, student, ("h", "h"), stage="hint", optimizer="sgd")
    before = student.get_layer("h").kernel.numpy()
    model.fit(TOKENS, batch_size=8, verbose=0)
    moved = np.any(student.get_layer("h").kernel.numpy() != before, axis=1)
    # The rows of the kernel are the tokens; padding is token 0.
    assert not moved[0]
    assert moved[np.unique(TOKENS[REAL])].all()


# Padding that an input tells


def padded_network(width, names=("tokens", "padding_mask"), steps=6):
    """As those of KerasHub: the input says the padding, and no layer has a mask."""
    inputs = {
        names[0]: keras.Input((steps,), dtype="int32", name=names[0]),
        names[1]: keras.Input((steps,), dtype="int32", name=names[1]),
    }
    x = layers.Embedding(20, width)(inputs[names[0]])
    x = layers.Dense(width, "tanh", name="h")(x)
    weights = ops.cast(ops.expand_dims(inputs[names[1]], -1), "float32")
    pooled = ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)
    return keras.Model(inputs, layers.Dense(4)(pooled))


def padded_batch(padding, names=("tokens", "padding_mask")):
    return {
        names[0]: np.where(REAL, TOKENS, padding).astype("int32"),
        names[1]: REAL.astype("int32"),
    }


CLASSES = np.arange(8) % 4


@pytest.mark.parametrize("steps", [6, None])
@pytest.mark.parametrize(
    "name", ["padding_mask", "attention_mask", "text_padding_mask"]
)
def test_a_padding_mask_among_the_inputs_keeps_padding_out(steps, name):
    names = ("tokens", name)
    teacher = padded_network(8, names, steps)
    student = padded_network(4, names, steps)
    model = compiled(teacher, student, ("h", "h"))
    x = padded_batch(0, names)
    u, v = hidden(teacher, x), hidden(student, x)
    prediction = model.regressors[0](v * REAL[..., None])
    expected = half_squares(u, np.asarray(prediction), REAL).mean()
    for padding in (0, 7, 9):
        logged = hint_log(model, padded_batch(padding, names), CLASSES)
        np.testing.assert_allclose(logged, expected, rtol=1e-5)
        cached = model.with_teacher_outputs(padded_batch(padding, names))
        np.testing.assert_allclose(
            model.evaluate(
                tf.data.Dataset.from_tensors((cached, CLASSES)),
                verbose=0,
                return_dict=True,
            )["hint_loss"],
            expected,
            rtol=1e-5,
        )


def token_network(width):
    """One that gives logits for each token."""
    inputs = {
        name: keras.Input((6,), dtype="int32", name=name)
        for name in ("tokens", "padding_mask")
    }
    x = layers.Embedding(20, width)(inputs["tokens"])
    # Lower versions of Keras take no input that is not used.
    x = x + 0.0 * ops.cast(ops.expand_dims(inputs["padding_mask"], -1), "float32")
    return keras.Model(inputs, layers.Dense(4)(x))


PER_SAMPLE = np.linspace(0.5, 2, len(REAL))
PER_TOKEN = REAL * np.linspace(0.5, 2, REAL.shape[1])
WEIGHTS = {
    "samples": PER_SAMPLE[:, None],
    "tokens": PER_TOKEN,
    "tokens, with an axis more": PER_TOKEN[..., None],
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_samples_and_of_their_tokens(kind):
    """Those of tokens count in both terms of Eq. 2 alike, as Keras takes them.

    With the mask of the inputs on top, λ would grow with the padding.
    """
    teacher, student = token_network(8), token_network(4)
    model = compiled(teacher, student, None)
    x, y = padded_batch(7), np.arange(REAL.size).reshape(REAL.shape) % 4
    logits = [reference.f64(net(x)) for net in (teacher, student)]
    soft = reference.soft_target_crossentropy(*logits, 3.0)
    label = reference.crossentropy(np.eye(4)[y], logits[1])
    if kind.startswith("tokens"):
        expected = np.mean(label * PER_TOKEN), np.mean(soft * PER_TOKEN)
    else:
        weights = PER_SAMPLE[:, None]
        expected = np.mean(label * weights), np.mean((soft * weights)[REAL])
    data = tf.data.Dataset.from_tensors((x, y, WEIGHTS[kind]))
    logs = model.evaluate(data, verbose=0, return_dict=True)
    found = logs["label_loss"], logs["kd_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_of_samples_without_labels():
    teacher, student = token_network(8), token_network(4)
    model = compiled(teacher, student, None, None)
    x = padded_batch(7)
    logits = [reference.f64(net(x)) for net in (teacher, student)]
    soft = reference.soft_target_crossentropy(*logits, 3.0)
    data = tf.data.Dataset.from_tensors((x, None, PER_SAMPLE))
    logs = model.evaluate(data, verbose=0, return_dict=True)
    expected = np.mean((soft * PER_SAMPLE[:, None])[REAL])
    np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)


def test_padding_is_kept_out_of_the_soft_targets_of_tokens_too():
    teacher, student = token_network(8), token_network(4)
    model = compiled(teacher, student, None, None)
    for padding in (0, 7):
        x = padded_batch(padding)
        logits = [reference.f64(net(x))[REAL] for net in (teacher, student)]
        expected = reference.soft_target_crossentropy(*logits, 3.0).mean()
        logs = model.evaluate(x, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["kd_loss"], expected, rtol=1e-5)
    monitor = kf.StudentMonitor(padded_batch(7))
    logs = model.fit(padded_batch(7), callbacks=[monitor], verbose=0).history
    outputs = [reference.f64(net(padded_batch(7))) for net in (teacher, student)]
    chosen = [np.argmax(output, -1) for output in outputs]
    agreement = np.mean((chosen[0] == chosen[1])[REAL])
    np.testing.assert_allclose(logs["agreement"], [agreement])


def test_none_looks_at_no_input():
    teacher, student = padded_network(8), padded_network(4)
    model = compiled(teacher, student, kf.Hint("h", "h", mask=None))
    x = padded_batch(7)
    prediction = np.asarray(model.regressors[0](hidden(student, x)))
    expected = half_squares(hidden(teacher, x), prediction, np.ones_like(REAL)).mean()
    np.testing.assert_allclose(hint_log(model, x, CLASSES), expected, rtol=1e-5)


def test_a_mask_of_another_name_is_named():
    names = ("tokens", "valid")
    nets = padded_network(8, names), padded_network(4, names)
    plain = compiled(*nets, ("h", "h"))
    named = compiled(
        *nets, kf.Hint("h", "h", mask="valid", regressor=plain.regressors[0])
    )
    x = padded_batch(7, names)
    assert hint_log(named, x, CLASSES) < hint_log(plain, x, CLASSES)
    assert repr(named.hints[0]).endswith("mask='valid')")


def test_a_mask_that_does_not_fit_is_refused():
    nets = padded_network(8), padded_network(4)
    with pytest.raises(ValueError, match="received 'valid'.*'padding_mask': "):
        kf.Distiller(*nets, kf.Hint("h", "h", mask="valid"))
    with pytest.raises(TypeError, match='`mask` must be.*received 3.*"padding_mask"'):
        kf.Hint("h", "h", mask=3)


def test_several_padding_masks_must_be_chosen_from():
    def network(width):
        names = ("tokens", "encoder_padding_mask", "decoder_padding_mask")
        inputs = {n: keras.Input((6,), dtype="int32", name=n) for n in names}
        x = layers.Embedding(20, width, name="h")(inputs["tokens"])
        flat = layers.Concatenate()(
            [layers.Flatten()(x), *(ops.cast(inputs[n], "float32") for n in names[1:])]
        )
        return keras.Model(inputs, layers.Dense(4)(flat))

    nets = network(8), network(4)
    with pytest.raises(ValueError, match="Several inputs may say.*mask='decoder_padd"):
        kf.Distiller(*nets, ("h", "h"))
    kf.Distiller(*nets, kf.Hint("h", "h", mask="encoder_padding_mask"))
    kf.Distiller(*nets, kf.Hint("h", "h", mask=None))


# Sizes that are known at run time alone


def image_network(width, stride, size=None, name=None):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(
                width, 3, strides=stride, padding="same", activation="relu", name="h"
            ),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ],
        name=name,
    )


IMAGES = RNG.normal(size=(8, 8, 8, 3)).astype("float32")


def images_of_any_size():
    spec = tf.TensorSpec((None, None, 3))
    data = tf.data.Dataset.from_generator(lambda: iter(IMAGES), output_signature=spec)
    return data.batch(4).apply(tf.data.experimental.assert_cardinality(2))


@pytest.mark.graph
@pytest.mark.parametrize(("stride", "size"), [(8, "1 1"), (4, "2 2")])
@pytest.mark.parametrize("loss", [None, "mean_squared_error"])
def test_maps_of_another_size_are_an_error(stride, size, loss):
    teacher = image_network(8, stride, name="teacher")
    student = image_network(4, 2, name="student")
    model = compiled(teacher, student, kf.Hint("h", "h", loss=loss), None)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as caught:
        model.fit(images_of_any_size(), shuffle=False, verbose=0)
    # In a graph of TensorFlow the sizes are compared, and written, by an operation.
    message = str(caught.value).replace("\\'", "'").replace(",", "")
    for part in (
        "hint layer 'h' of teacher 'teacher'",
        "guided layer 'h'",
        size,
        "4 4",
    ):
        assert part in message
    assert "strides" in message


@pytest.mark.graph
def test_maps_of_one_size_train_and_are_compared():
    model = compiled(image_network(8, 2), image_network(4, 2), ("h", "h"), None)
    logs = model.fit(images_of_any_size(), shuffle=False, verbose=0).history
    assert np.isfinite(logs["hint_loss"]).all()


def test_a_map_is_not_broadcast_by_the_plots_either():
    model = compiled(image_network(8, 8), image_network(4, 2), ("h", "h"), None)
    with pytest.raises(ValueError, match=r"hint of shape \(8, 1, 1, 8\)"):
        kf.plots.hint_maps(model, IMAGES)


def test_a_regressor_that_is_larger_than_the_student_is_told_once(caplog):
    def network(width):
        return keras.Sequential(
            [keras.Input((4,)), layers.Dense(width, name="h"), layers.Dense(3)],
            name="wide",
        )

    _note_large_regressor.cache_clear()
    with caplog.at_level(logging.WARNING, "keras_fitnets"):
        for _ in range(2):
            kf.Distiller(network(64), network(16), ("h", "h"))
        # 64 · 4 + 4 weights of the regressor, fewer than those of the student.
        kf.Distiller(network(4), network(64), ("h", "h"))
    [record] = caplog.records
    message = record.getMessage()
    assert f"has {16 * 64 + 64} weights" in message
    assert f"which has {4 * 16 + 16 + 16 * 3 + 3}" in message


# Pixels that one network alone moves

MOVING = {
    "RandomFlip": lambda: layers.RandomFlip(),
    "RandomCrop": lambda: layers.RandomCrop(8, 8),
    "RandomRotation": lambda: layers.RandomRotation(0.1),
    "RandomTranslation": lambda: layers.RandomTranslation(0.1, 0.1),
    "RandomZoom": lambda: layers.RandomZoom(0.1),
    "RandomShear": lambda: layers.RandomShear(0.1, 0.1),
    "RandomPerspective": lambda: layers.RandomPerspective(),
    "RandomElasticTransform": lambda: layers.RandomElasticTransform(),
    "AugMix": lambda: layers.AugMix(),
    "RandAugment": lambda: layers.RandAugment(),
}
KEEPING = {
    "RandomBrightness": lambda: layers.RandomBrightness(0.1),
    "RandomContrast": lambda: layers.RandomContrast(0.1),
    "GaussianNoise": lambda: layers.GaussianNoise(0.1),
    "Dropout": lambda: layers.Dropout(0.1),
    "Rescaling": lambda: layers.Rescaling(2.0),
    "CenterCrop": lambda: layers.CenterCrop(8, 8),
}


def convolutional(width, front=(), behind=(), maps=False):
    end = [layers.Conv2D(3, 1)] if maps else [layers.Flatten(), layers.Dense(3)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *front,
            layers.Conv2D(width, 3, padding="same", activation="relu", name="h"),
            *behind,
            *end,
        ],
        name="net",
    )


def assert_moved(make, kind):
    with pytest.raises(ValueError, match=f"a {kind}, moves the pixels.*data pipeline"):
        make()


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("stage", ["hint", "joint"])
def test_a_layer_that_moves_pixels_in_front_of_the_hint_is_an_error(kind, stage):
    student = convolutional(4, [MOVING[kind]()])
    assert_moved(
        lambda: kf.Distiller(convolutional(8), student, ("h", "h"), stage=stage), kind
    )
    # The class is the same wherever the pixels are.
    made = kf.Distiller(convolutional(8), student, ("h", "h"), stage="kd")
    assert_moved(lambda: setattr(made, "stage", stage), kind)


@pytest.mark.parametrize("kind", KEEPING)
def test_a_layer_that_keeps_pixels_in_place_is_none(kind):
    front = [KEEPING[kind]()]
    kf.Distiller(convolutional(8), convolutional(4, front), ("h", "h"))


def test_of_the_teacher_it_is_none_since_it_is_not_trained():
    front = [layers.RandomFlip()]
    model = compiled(convolutional(8, front), convolutional(4), ("h", "h"))
    assert np.isfinite(hint_log(model, IMAGES, np.arange(8) % 3))


def test_behind_the_guided_layer_it_is_none():
    behind = [layers.RandomFlip()]
    kf.Distiller(convolutional(8), convolutional(4, behind=behind), ("h", "h"))


@pytest.mark.parametrize("stage", ["kd", "joint"])
@pytest.mark.parametrize("where", ["front", "behind"])
def test_label_maps_are_of_the_pixels_too(where, stage):
    student = convolutional(4, **{where: [layers.RandomFlip()]}, maps=True)
    teacher = convolutional(8, maps=True)
    hints = None if stage == "kd" else ("h", "h")
    assert_moved(
        lambda: kf.Distiller(teacher, student, hints, stage=stage), "RandomFlip"
    )
    if where == "behind":
        # Stage "hint" looks at no output, and None leaves one out.
        kf.Distiller(teacher, student, ("h", "h"), stage="hint")
        kf.Distiller(teacher, student, ("h", "h"), stage="joint", activation=None)


class Augmented(keras.Model):
    """A subclassed network that augments in training alone."""

    def __init__(self, **options):
        super().__init__(**options)
        self.flip = layers.RandomFlip()
        self.conv = layers.Conv2D(4, 3, padding="same", name="h")
        self.tail = [layers.Flatten(), layers.Dense(3)]
        self(np.zeros((1, 8, 8, 3)), training=True)

    def call(self, x, training=None):
        if training:
            x = self.flip(x, training=True)
        x = self.conv(x)
        for layer in self.tail:
            x = layer(x)
        return x


INSIDE = {
    "a Sequential": lambda: convolutional(4, [keras.Sequential([layers.RandomFlip()])]),
    "a pipeline": lambda: convolutional(
        4, [layers.Pipeline([layers.RandomFlip(), layers.RandomBrightness(0.1)])]
    ),
    "a nested network": lambda: keras.Sequential(
        [keras.Input((8, 8, 3)), convolutional(4, [layers.RandomFlip()])]
    ),
    "a subclassed network": Augmented,
}


@pytest.mark.parametrize("inside", INSIDE)
def test_it_is_found_inside_of(inside):
    guided = "net/h" if inside == "a nested network" else "h"
    assert_moved(
        lambda: kf.Distiller(
            convolutional(8), INSIDE[inside](), ("h", guided), from_logits=True
        ),
        "RandomFlip",
    )


def test_what_mixes_images_has_not_even_their_classes():
    class Mixed(layers.MixUp):
        """Mixes images alone."""

        def call(self, images, training=None):
            return images

    student = convolutional(4, [Mixed(name="mixed")])
    assert_moved(lambda: kf.Distiller(convolutional(8), student), "Mixed")


# Outputs as hints


def embedding_network(width, kind="functional", units=5):
    if kind == "sequential":
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(width, "relu", name="h"),
                layers.Dense(units, name="out"),
            ]
        )
    if kind == "subclassed":

        class Network(keras.Model):
            def __init__(self):
                super().__init__()
                self.h = layers.Dense(width, "relu", name="h")
                self.out = layers.Dense(units, name="out")
                self(np.zeros((1, 4)))

            def call(self, x):
                return self.out(self.h(x))

        return Network()
    inputs = keras.Input((4,))
    x = layers.Dense(width, "relu", name="h")(inputs)
    return keras.Model(inputs, layers.Dense(units, name="out")(x))


VECTORS = RNG.normal(size=(8, 4)).astype("float32")


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
@pytest.mark.parametrize("stage", ["hint", "joint"])
def test_an_output_may_be_the_hint(kind, stage):
    teacher, student = embedding_network(16, units=6), embedding_network(4, kind)
    options = {} if stage == "hint" else {"activation": None}
    model = compiled(
        teacher, student, ("out", "out"), None, "adam", stage=stage, **options
    )
    prediction = model.regressors[0](student(VECTORS))
    expected = reference.hint_loss(teacher(VECTORS), prediction).mean()
    np.testing.assert_allclose(hint_log(model, VECTORS), expected, rtol=1e-5)
    before = [w.numpy() for w in student.trainable_weights]
    model.fit(VECTORS, verbose=0)
    for old, new in zip(before, student.trainable_weights, strict=True):
        assert np.any(old != new.numpy())


def test_an_output_may_be_the_hint_beside_the_soft_targets():
    teacher, student = embedding_network(16), embedding_network(4)
    model = compiled(teacher, student, [("out", "out"), ("h", "h")], None)
    logs = model.evaluate(VECTORS, verbose=0, return_dict=True)
    logits = reference.f64(teacher(VECTORS)), reference.f64(student(VECTORS))
    soft = reference.soft_target_crossentropy(*logits, 3.0).mean()
    np.testing.assert_allclose(logs["kd_loss"], soft, rtol=1e-5)


# Losses of the user's own


def attention_transfer(hint, prediction):
    maps = []
    for features in (hint, prediction):
        energy = ops.mean(ops.square(features), axis=-1)
        energy = ops.reshape(energy, (-1, 36))
        maps.append(ops.normalize(energy, axis=-1))
    return ops.sum(ops.square(maps[0] - maps[1]), axis=-1)


def mean_over_batch(hint, prediction):
    return ops.mean(ops.square(hint - prediction))


def sum_over_batch(hint, prediction):
    return ops.sum(ops.square(hint - prediction), axis=0)


@keras.saving.register_keras_serializable("tests")
def distance(hint, prediction):
    return ops.sum(ops.abs(hint - prediction), axis=-1)


LOSSES = {
    "a name": ("mean_absolute_error", lambda u, p: np.abs(u - p).mean(-1)),
    "a loss of Keras": (
        keras.losses.Huber(0.5),
        lambda u, p: np.where(
            np.abs(u - p) <= 0.5, 0.5 * (u - p) ** 2, 0.5 * np.abs(u - p) - 0.125
        ).mean(-1),
    ),
    "a function": (distance, lambda u, p: np.abs(u - p).sum(-1)),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("stage", ["hint", "joint"])
def test_a_loss_of_the_users_own_is_a_mean_over_samples(kind, stage):
    loss, expected = LOSSES[kind]
    teacher, student = embedding_network(6), embedding_network(3)
    hint = kf.Hint("h", "h", weight=0.5, loss=loss)
    model = compiled(teacher, student, hint, None, stage=stage)
    u, p = hidden(teacher, VECTORS), model.regressors[0](hidden(student, VECTORS))
    values = expected(reference.f64(u), reference.f64(p))
    np.testing.assert_allclose(
        hint_log(model, VECTORS, batch_size=3), 0.5 * values.mean(), rtol=1e-5
    )
    weights = np.arange(8.0)
    logged = hint_log(model, VECTORS, np.zeros(8), sample_weight=weights)
    np.testing.assert_allclose(logged, 0.5 * (weights * values).mean(), rtol=1e-5)
    model.fit(VECTORS, verbose=0)


def test_a_mean_is_not_divided_by_the_number_of_features():
    teacher, student = embedding_network(6), embedding_network(3)
    own = kf.Distiller(teacher, student, kf.Hint("h", "h", loss="mean_squared_error"))
    plain = kf.Distiller(teacher, student, kf.Hint("h", "h"))
    assert (own.hint_weight, plain.hint_weight) == (1.0, pytest.approx(1 / 6))


def per_step(hint, prediction):
    return ops.mean(ops.abs(hint - prediction), axis=-1)


def whole_sequence(hint, prediction):
    return ops.sum(ops.abs(hint - prediction), axis=(1, 2))


@pytest.mark.parametrize("loss", ["mean_absolute_error", per_step, whole_sequence])
def test_its_masked_steps_do_not_count(loss):
    teacher, student = text_network(8), text_network(4, 0)
    model = compiled(teacher, student, kf.Hint("h", "h", loss=loss))
    u = reference.f64(hidden(teacher, TOKENS))
    p = reference.f64(model.regressors[0](hidden(student, TOKENS) * REAL[..., None]))
    gaps = np.abs(u - p) * REAL[..., None]
    if loss is whole_sequence:
        expected = gaps.sum((1, 2)).mean()
    else:
        expected = (gaps.mean(-1).sum(1) / REAL.sum(1)).mean()
    y = RNG.integers(0, 4, (8, 6))
    np.testing.assert_allclose(hint_log(model, TOKENS, y), expected, rtol=1e-5)


def test_a_sample_that_is_all_padding_has_no_loss():
    tokens = TOKENS.copy()
    tokens[0] = 0
    teacher, student = text_network(8), text_network(4, 0)
    model = compiled(teacher, student, kf.Hint("h", "h", loss=per_step), stage="hint")
    assert np.isfinite(hint_log(model, tokens))
    assert hint_log(model, tokens[:1]) == 0


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("loss", [keras.losses.Huber(), distance])
def test_on_several_replicas_it_is_the_same(loss):
    def train(strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            teacher, student = embedding_network(6), embedding_network(3)
            hint = kf.Hint("h", "h", loss=loss)
            model = compiled(teacher, student, hint, None, stage="hint")
        logs = model.fit(
            tiny.batches(VECTORS, batch_size=5), epochs=2, shuffle=False, verbose=0
        )
        return logs.history["hint_loss"]

    alone = train(tf.distribute.get_strategy())
    several = train(tiny.two_replicas())
    np.testing.assert_allclose(alone, several, rtol=1e-5)


def test_attention_transfer_needs_no_regressor():
    def network(width):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(width, 3, name="h"),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )

    teacher, student = network(7), network(2)
    hint = kf.Hint("h", "h", loss=attention_transfer, regressor=layers.Identity())
    model = compiled(teacher, student, hint)
    x = RNG.normal(size=(8, 8, 8, 1)).astype("float32")
    maps = []
    for net in (teacher, student):
        energy = np.mean(reference.f64(hidden(net, x)) ** 2, axis=-1).reshape(8, -1)
        maps.append(energy / np.linalg.norm(energy, axis=-1, keepdims=True))
    expected = np.sum((maps[0] - maps[1]) ** 2, axis=-1).mean()
    y = np.arange(8) % 3
    np.testing.assert_allclose(hint_log(model, x, y), expected, rtol=1e-5)
    # Of different shapes there is no R², and nothing to draw side by side.
    logs = model.fit(x, y, callbacks=[kf.StudentMonitor(x)], verbose=0).history
    assert not [name for name in logs if name.startswith("hint_r2")]
    with pytest.raises(ValueError, match="another shape.*Draw another pair"):
        kf.plots.hint_maps(model, x)


BAD_LOSSES = {
    "a mean over the batch": (
        mean_over_batch,
        r"mean_over_batch returns the shape \(\)",
    ),
    "a sum over the batch": (sum_over_batch, "sum_over_batch returns the shape"),
    "a function of one": (lambda hint: hint, "cannot be called with a hint"),
    "no loss": (3, "received 3"),
    "a class": (keras.losses.Huber, r"Pass an instance: Huber\(\)"),
    "an unknown name": ("distance", "received 'distance'.*mean_absolute_error"),
}


@pytest.mark.parametrize("kind", BAD_LOSSES)
def test_what_is_no_loss_of_samples_is_refused(kind):
    loss, message = BAD_LOSSES[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        kf.Distiller(
            embedding_network(6), embedding_network(3), kf.Hint("h", "h", loss=loss)
        )


def test_a_loss_of_keras_compares_nothing_of_another_shape():
    made = embedding_network(6), embedding_network(3)
    for loss in ("mse", keras.losses.Huber(), keras.losses.mean_squared_error):
        hint = kf.Hint("h", "h", loss=loss, regressor=layers.Identity())
        with pytest.raises(ValueError, match=r"The regressor gives \(3,\)"):
            kf.Distiller(*made, hint)


@pytest.mark.parametrize(
    "loss", ["mean_absolute_error", keras.losses.Huber(0.25), distance]
)
def test_a_loss_is_saved_with_the_distiller(loss, tmp_path):
    hint = kf.Hint("h", "h", loss=loss)
    model = compiled(embedding_network(6), embedding_network(3), hint, None)
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert repr(loaded.hints[0]) == repr(hint)
    assert "0.25" in repr(hint) or not isinstance(loss, keras.losses.Huber)
    assert hint_log(loaded, VECTORS) == pytest.approx(hint_log(model, VECTORS))


def test_a_file_of_an_earlier_version_is_read():
    config = kf.Hint("a", "b", weight=2.0).get_config()
    for name in ("loss", "mask", "places"):
        del config[name]
    assert kf.Hint.from_config(config) == kf.Hint("a", "b", weight=2.0)


# What mutants of the objective have shown to be unseen


def test_a_hint_has_the_mean_of_each_samples_weights():
    """Of weights for time steps; some of one sample may be zero, of another all."""
    teacher, student = text_network(8), text_network(4)
    model = compiled(teacher, student, ("h", "h"), stage="hint")
    tokens = np.where(TOKENS == 0, 1, TOKENS)
    weights = RNG.uniform(size=tokens.shape)
    weights[0], weights[1, 2:] = 0, 0
    u, v = hidden(teacher, tokens), hidden(student, tokens)
    prediction = np.asarray(model.regressors[0](v))
    values = half_squares(u, prediction, np.ones(tokens.shape, bool))
    y = np.zeros(tokens.shape, int)
    logs = model.evaluate(
        tokens, y, sample_weight=weights, batch_size=8, verbose=0, return_dict=True
    )
    expected = np.mean(values * weights.mean(axis=1))
    np.testing.assert_allclose(logs["hint_loss"], expected, rtol=1e-5)


def test_hints_of_known_and_unknown_sizes_share_one_factor():
    def network(width):
        inputs = keras.Input((None, None, 3))
        maps = layers.Conv2D(width, 3, padding="same", name="h")(inputs)
        pooled = layers.GlobalAveragePooling2D(name="pooled")(maps)
        return keras.Model(inputs, layers.Dense(3)(pooled))

    model = compiled(network(8), network(4), [("h", "h"), ("pooled", "pooled")], None)
    assert model.hint_weight == pytest.approx(1 / (8 + 8))
    logs = model.evaluate(IMAGES, batch_size=8, verbose=0, return_dict=True)
    # One of the two hints has 64 places, the other is one itself.
    factor = model.hint_weight / np.mean([IMAGES.shape[1] * IMAGES.shape[2], 1])
    expected = 4.0 * logs["kd_loss"] + factor * logs["hint_loss"]
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


class Pooled(layers.Layer):
    """A regressor of one's own that has no steps."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build((shape[0], shape[-1]))

    def call(self, x):
        return self.dense(ops.mean(x, axis=1))


@pytest.mark.parametrize("keeps_steps", [True, False])
def test_a_regressor_of_ones_own_keeps_the_mask_if_it_keeps_the_steps(keeps_steps):
    teacher, student = text_network(8), text_network(4, 0)
    if not keeps_steps:
        inputs = keras.Input((6,))
        x = layers.Embedding(20, 8)(inputs)
        x = layers.GlobalAveragePooling1D(name="h")(x)
        teacher = keras.Model(inputs, layers.RepeatVector(6)(layers.Dense(4)(x)))
    regressor = layers.Dense(8) if keeps_steps else Pooled(8)
    hint = kf.Hint("h", "h", regressor=regressor)
    model = compiled(teacher, student, hint, stage="hint")
    u, v = hidden(teacher, TOKENS), hidden(student, TOKENS) * REAL[..., None]
    prediction = np.asarray(model.regressors[0](v))
    if keeps_steps:
        expected = half_squares(u, prediction, REAL).mean()
    else:
        expected = reference.hint_loss(u, prediction).mean()
    y = RNG.integers(0, 4, (8, 6))
    np.testing.assert_allclose(hint_log(model, TOKENS, y), expected, rtol=1e-5)


def test_outputs_in_a_row_are_of_the_pixels_too():
    """A label map of one axis, as behind a Reshape."""

    def network(width, *front):
        convolution = layers.Conv2D(width, 3, padding="same", name="h")
        head = [layers.Conv2D(3, 1), layers.Reshape((64, 3))]
        return keras.Sequential([keras.Input((8, 8, 3)), *front, convolution, *head])

    student = network(4, layers.RandomFlip())
    assert_moved(lambda: kf.Distiller(network(8), student), "RandomFlip")


def test_networks_of_one_fixed_size_of_batch_are_taken():
    def network(width):
        inputs = keras.Input((4,), batch_size=4)
        return keras.Model(inputs, layers.Dense(3)(layers.Dense(width)(inputs)))

    model = compiled(network(8), network(4), None, None)
    logs = model.fit(np.ones((8, 4)), batch_size=4, verbose=0).history
    assert logs["kd_loss"][0] > 0
