"""Contrast normalisation and whitening are those of a float64 reference, and ship."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fitnets as kf
from keras_fitnets.datasets import GlobalContrastNormalization
from keras_fitnets.datasets import ZCAWhitening

SHAPE = (5, 4, 3)


def images(samples=300, seed=0):
    """With correlated pixels, as photographs have them."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(samples, 60)) @ rng.normal(size=(60, 60)) / 60
    return (0.5 + mixed).reshape(samples, *SHAPE).astype("float32")


def normalized(x, scale, bias):
    flat = x.astype("float64").reshape(len(x), -1)
    flat -= flat.mean(1, keepdims=True)
    length = np.sqrt(bias + (flat**2).sum(1, keepdims=True))
    return (scale * flat / length).reshape(x.shape)


def whitened(x, training, bias):
    """By a symmetric square root, found in another way: Newton's iteration."""
    flat, known = (a.astype("float64").reshape(len(a), -1) for a in (x, training))
    mean = known.mean(0)
    matrix = np.cov(known.T, ddof=0) + bias * np.eye(known.shape[1])
    norm = np.linalg.norm(matrix)
    root, inverse = matrix / norm, np.eye(len(matrix))
    for _ in range(60):
        step = (3 * np.eye(len(matrix)) - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return ((flat - mean) @ inverse / np.sqrt(norm)).reshape(x.shape)


@pytest.mark.parametrize(("scale", "bias"), [(55.0, 0.0), (1.0, 0.3)])
def test_contrast_is_that_of_the_reference(scale, bias):
    x = images()
    found = GlobalContrastNormalization(scale, bias)(x)
    np.testing.assert_allclose(found, normalized(x, scale, bias), atol=2e-6 * scale)


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0, 255.0])
def test_an_image_of_one_grey_becomes_nothing(grey):
    x = np.full((2, 32, 32, 3), grey, "float32")
    assert not np.asarray(GlobalContrastNormalization()(x)).any()


def test_a_faint_image_does_not():
    x = np.full((1, 32, 32, 3), 0.5, "float32")
    x[0, 0, 0, 0] += 1 / 255
    found = np.asarray(GlobalContrastNormalization()(x))
    np.testing.assert_allclose(found, normalized(x, 55.0, 0.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    x = images(20)
    layer = GlobalContrastNormalization(dtype=policy)
    found = layer(x)
    assert found.dtype == layer.compute_dtype
    off = {"mixed_float16": 1e-2, "mixed_bfloat16": 1e-1, "float64": 1e-9}[policy]
    error = np.asarray(found, "float64") - normalized(x, 55.0, 0.0)
    assert np.abs(error).max() < 55 * off


def test_bytes_are_images_too():
    x = np.random.default_rng(0).integers(256, size=(4, *SHAPE), dtype="uint8")
    found = GlobalContrastNormalization()(x)
    np.testing.assert_allclose(found, normalized(x, 55.0, 0.0), atol=1e-4)


@pytest.mark.parametrize("bias", [0.1, 1e-3])
def test_whitening_is_that_of_the_reference(bias):
    training, x = images(), images(7, seed=1)
    layer = ZCAWhitening(bias)
    layer.adapt(training)
    expected = whitened(x, training, bias)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5 * np.abs(expected).max())


def test_whitened_pixels_have_no_correlation():
    layer = ZCAWhitening(1e-9)
    layer.adapt(images(1000))
    flat = np.asarray(layer(images(1000)), "float64").reshape(1000, -1)
    np.testing.assert_allclose(np.cov(flat.T, ddof=0), np.eye(60), atol=2e-3)


@pytest.mark.parametrize("labels", [False, True])
def test_it_adapts_to_arrays_and_datasets_alike(labels):
    x = images(50)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(50)) if labels else x)
    first, second = ZCAWhitening(), ZCAWhitening()
    first.adapt(x, batch_size=7)
    second.adapt(data.batch(16))
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_before_it_is_adapted_nothing_comes_out_that_could_be_taken_for_an_image():
    assert np.isnan(np.asarray(ZCAWhitening()(images(2)))).all()


@pytest.mark.slow
def test_they_ship_inside_the_student_and_are_not_trained(tmp_path):
    x, y = images(64), np.arange(64) % 3
    whiten = ZCAWhitening()
    contrast = GlobalContrastNormalization(5.0)
    whiten.adapt(contrast(x))
    before = whiten.get_weights()
    student = keras.Sequential(
        [keras.Input(SHAPE), contrast, whiten, keras.layers.Flatten()]
    )
    student.add(keras.layers.Dense(3, name="logits"))
    teacher = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    teacher.add(keras.layers.Dense(3))
    distiller = kf.Distiller(teacher, student)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss)
    distiller.fit(x, y, verbose=0)
    for left, right in zip(before, whiten.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert len(student.trainable_variables) == 2
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(loaded(x), student(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GlobalContrastNormalization(0.0),
            "`scale` must be one finite, positive.*0.0",
        ),
        (
            lambda: GlobalContrastNormalization(bias=-1),
            "`bias` must be one finite, non-negative",
        ),
        (
            lambda: ZCAWhitening("0.1"),
            "`bias` must be one finite, non-negative number; received",
        ),
        (lambda: ZCAWhitening()(keras.Input((None, 4, 3))), "images of a fixed shape"),
        (lambda: ZCAWhitening().adapt(np.zeros((0, 2, 2, 1))), "received none"),
        (
            lambda: ZCAWhitening().adapt(np.full((3, 2, 2, 1), np.nan)),
            "NaN or infin",
        ),
        (lambda: ZCAWhitening(0.0).adapt(images(10)), "never vary.*Pass a positive"),
    ],
)
def test_what_cannot_be_done_is_reported(make, message):
    with pytest.raises(ValueError, match=message):
        make()
