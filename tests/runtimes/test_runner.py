"""A runner gives what its network gives, in any number of samples and outputs."""

import gc

import keras
import numpy as np
import pytest
from keras import layers

from keras_fitnets.runtimes import arrays
from keras_fitnets.runtimes.runner import load_runner


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


@pytest.mark.slow
def test_a_saved_model_keeps_its_variables_and_the_order_of_its_outputs(x, tmp_path):
    inputs = keras.Input((4,))
    # Eleven outputs: in the order of the text, `output_10` stands before `output_2`.
    outputs = [layers.Dense(1)(inputs) for _ in range(11)]
    network = keras.Model(inputs, outputs)
    expected = network.predict(x, verbose=0)
    network.export(tmp_path / "saved", verbose=False)
    runner = load_runner(tmp_path / "saved")
    gc.collect()
    found = runner.predict(x, batch_size=2)
    assert len(found) == 11
    for output, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(output, reference, atol=1e-6)


def test_a_network_in_memory_runs_in_batches(x):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    runner = load_runner(network)
    assert runner.inputs == [(runner.inputs[0].name, (None, 4), "float32")]
    assert runner.bytes == 4 * network.count_params()
    [output] = runner.predict(x, batch_size=2)
    np.testing.assert_allclose(output, network.predict(x, verbose=0), atol=1e-6)


def test_only_a_tuple_separates_labels_from_inputs(x):
    y = np.arange(5)
    found_x, found_y = arrays.to_arrays((x, y))
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y)
    for data in (x, (x,)):
        found_x, found_y = arrays.to_arrays(data)
        np.testing.assert_array_equal(found_x, x)
        assert found_y is None
    found_x, found_y = arrays.to_arrays([x, x])
    assert len(found_x) == 2 and found_y is None
