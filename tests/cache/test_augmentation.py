"""An augmentation moves labels and weights with the pixels, or is refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_fitnets as kf
from keras_fitnets.cache.augmentation import Augmentation

SIZE, SAMPLES, VIEWS = 4, 12, 3
pytestmark = pytest.mark.usefixtures("eager")


def segmenter(width, shape=(SIZE, SIZE, 1)):
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(width, 3, padding="same", name="hidden"),
            layers.Conv2D(2, 1, name="out"),
        ]
    )


def flip(x, seed):
    return tf.image.stateless_random_flip_left_right(x, seed)


def flip_with_map(x, y, seed):
    both = flip(tf.concat([x, tf.cast(y, x.dtype)[..., None]], -1), seed)
    return both[..., :-1], tf.cast(both[..., -1], y.dtype)


def flip_all(x, y, weights, seed):
    x, moved = flip_with_map(x, weights, seed)
    return x, flip(y[..., None], seed)[..., 0], moved


def images(dtype="float32"):
    return np.random.default_rng(0).random((SAMPLES, SIZE, SIZE, 1)).astype(dtype)


def maps(x):
    """Labels that can be read off their image: whether a pixel is bright."""
    return (x[..., 0] > 0.5).astype("int32")


def cached(folder, *arrays, augment, network=segmenter, **options):
    distiller = kf.Distiller(network(5), network(3), ("hidden", "hidden"))
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(5)
    return kf.cache_teacher(
        distiller, dataset, folder, augment=augment, verbose=0, **options
    )


def test_label_maps_move_with_their_pixels(tmp_path):
    x = images()
    dataset = cached(tmp_path, x, maps(x), augment=flip_with_map, views=VIEWS)
    is_moved = []
    for view in range(VIEWS):
        parts = [(batch.inputs.numpy(), y.numpy()) for batch, y in dataset]
        inputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        np.testing.assert_array_equal(maps(inputs), labels)
        expected = np.stack([flip(x[i], [view, i]) for i in range(SAMPLES)])
        np.testing.assert_array_equal(inputs, expected)
        is_moved.append((inputs != x).any((1, 2, 3)))
    assert 0 < np.mean(is_moved) < 1


def test_weights_of_each_pixel_move_with_it(tmp_path):
    x = images()
    dataset = cached(tmp_path, x, maps(x), x[..., 0], augment=flip_all)
    for batch, y, weights in dataset:
        np.testing.assert_array_equal(maps(batch.inputs.numpy()), y)
        np.testing.assert_array_equal(batch.inputs[..., 0], weights)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: maps(x),
        lambda x: maps(x)[..., None],
        lambda x: np.eye(2, dtype="float32")[maps(x)],
        lambda x: np.moveaxis(np.eye(5)[maps(x)], -1, 1),
        lambda x: maps(x)[:, ::2, ::2],
        lambda x: {"map": maps(x), "class": maps(x)[:, 0, 0]},
    ],
    ids=["map", "one channel", "one-hot", "channels first", "half size", "dictionary"],
)
def test_label_maps_are_not_left_behind(tmp_path, make):
    x = images()
    with pytest.raises(ValueError, match=r"labels of `dataset` have the shape \(.*f\("):
        cached(tmp_path, x, make(x), augment=flip)
    # A function that says that they do not move is believed.
    keep = lambda x, y, seed: (flip(x, seed), y)  # noqa: E731
    cached(tmp_path, x, make(x), augment=keep)


@pytest.mark.parametrize("augment", [flip, flip_with_map])
def test_weights_of_each_pixel_are_not_left_behind(tmp_path, augment):
    x = images()
    y = maps(x) if augment is flip_with_map else maps(x)[:, 0, 0]
    with pytest.raises(ValueError, match="sample weights of `dataset`"):
        cached(tmp_path, x, y, x[..., 0], augment=augment)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(SAMPLES) % 2,
        np.eye(SIZE)[np.arange(SAMPLES) % SIZE],
        np.zeros((SAMPLES, 7, 2)),
        np.zeros((SAMPLES, SIZE)),
    ],
    ids=["classes", "one-hot", "another shape", "as many as pixels in a row"],
)
def test_labels_that_are_no_maps_stay(tmp_path, labels):
    dataset = cached(tmp_path, images(), labels, augment=flip)
    found = np.concatenate([y for _, y in dataset])
    np.testing.assert_array_equal(found, labels)


def test_images_without_channels_have_maps_too(tmp_path):
    def network(width):
        inputs = keras.Input((SIZE, SIZE))
        x = layers.Conv2D(width, 3, padding="same", name="hidden")(inputs[..., None])
        return keras.Model(inputs, layers.Conv2D(2, 1)(x))

    x = images()[..., 0]
    mirror = lambda x, seed: x[:, ::-1]  # noqa: E731
    with pytest.raises(ValueError, match="labels of `dataset`"):
        cached(tmp_path, x, (x > 0.5) * 1, augment=mirror, network=network)


def options_after(x, seed, strength=1.0):
    return x


def labels_by_default(x, y=None, seed=None):
    return x, y


class Flip:
    def __call__(self, x, y, seed):
        return x, y


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (flip, 1),
        (lambda image, numbers: image, 1),
        (options_after, 1),
        (tf.image.stateless_random_flip_left_right, 1),
        (functools.partial(options_after, strength=2.0), 1),
        (lambda *parts: parts[0], 1),
        (flip_with_map, 2),
        (labels_by_default, 2),
        (Flip(), 2),
        (flip_all, 3),
    ],
)
def test_the_signature_says_what_is_augmented(function, count):
    assert Augmentation(function).num_parts == count


@pytest.mark.parametrize(
    "function",
    [3, layers.RandomFlip(), lambda x: x, lambda: 1, lambda a, b, c, d, e: a],
)
def test_other_functions_are_refused(function):
    with pytest.raises(TypeError, match="`augment` must be"):
        Augmentation(function)


def test_what_an_augmentation_returns_is_checked(tmp_path):
    x = images()
    with pytest.raises(ValueError, match="must return a tuple of 2"):
        cached(tmp_path, x, maps(x), augment=lambda x, y, seed: x)
    with pytest.raises(ValueError, match=r"examples of `dataset` have 1 part"):
        cached(tmp_path, x, augment=flip_with_map)


def test_labels_that_are_moved_without_the_seed_are_noticed(tmp_path):
    x = images()
    draw = np.random.default_rng(0)

    def unseeded(x, y, seed):
        noise = tf.numpy_function(lambda: draw.random(), [], "float64")
        return x, y + tf.cast(noise * 100, y.dtype)

    with pytest.raises(ValueError, match="do not depend on the seed"):
        cached(tmp_path, x, maps(x), augment=unseeded)
