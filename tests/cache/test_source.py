"""Checksums find the first batch that differs, however the examples are batched."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_fitnets as kf
from keras_fitnets.cache.source import ExamplesDiffer
from keras_fitnets.cache.source import ExampleSource

SAMPLES = 22
X, Y = tiny.data(samples=SAMPLES)


def source(x=X, y=Y, size=8):
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
    distiller = kf.Distiller(tiny.network(), tiny.network(seed=1))
    return ExampleSource(distiller, dataset, None, 1)


CHECKSUMS = source().compute_checksums()


def test_checksums_are_running_and_their_last_does_not_depend_on_the_batches():
    assert [end for end, *_ in CHECKSUMS] == [8, 16, 22]
    other = source(size=5).compute_checksums()
    assert [end for end, *_ in other] == [5, 10, 15, 20, 22]
    assert other[-1] == CHECKSUMS[-1]


@pytest.mark.parametrize("size", [1, 5, 8, 16, 22, 30])
def test_batches_are_those_of_the_checksums(size):
    batches = list(source(size=size).iterate_and_verify(CHECKSUMS))
    assert [len(batch["inputs 0"]) for batch in batches] == [8, 8, 6]
    for name, array in {"inputs 0": X, "labels 0": Y}.items():
        whole = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(whole, array)


def changed(array, row):
    array = array.copy()
    array[row, -1] = np.nextafter(array[row, -1], np.float32(np.inf))
    return array


DIFFERENT = {
    "the first input": (changed(X, 0), Y, ["inputs 0"], 0, 0),
    "an input": (changed(X, 9), Y, ["inputs 0"], 8, 1),
    "a label": (X, changed(Y, 21), ["labels 0"], 16, 2),
    "both": (changed(X, 16), changed(Y, 16), ["inputs 0", "labels 0"], 16, 2),
    "the order": (X[::-1], Y[::-1], ["inputs 0", "labels 0"], 0, 0),
    "fewer": (X[:16], Y[:16], [], 16, 2),
    "fewer, within a batch": (X[:19], Y[:19], [], 19, 2),
    "more": (np.vstack([X, X]), np.vstack([Y, Y]), [], 22, 3),
}


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("kind", DIFFERENT)
def test_the_first_batch_that_differs_is_named(kind, size):
    x, y, columns, row, good = DIFFERENT[kind]
    batches = source(x, y, size).iterate_and_verify(CHECKSUMS)
    # Nothing of the batch that differs is given to the caller.
    for _ in range(good):
        next(batches)
    with pytest.raises(ExamplesDiffer, match="differ between two passes") as error:
        next(batches)
    assert error.value.columns == columns and error.value.row == row
