"""Every test: four CPUs, a fresh seed, and an own folder of datasets."""

import os
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

FAKE_DEVICES = 4
# Programs that a test starts find the modules that tests share, as tests do.
HERE = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [HERE, os.environ.get("PYTHONPATH")])
)


def pytest_configure(config):
    datasets = tempfile.TemporaryDirectory(prefix="keras_fitnets_")
    # tensorflow-datasets reads it when it is imported, which no test may do earlier.
    os.environ["TFDS_DATA_DIR"] = datasets.name
    config.add_cleanup(datasets.cleanup)
    # The tensors are tiny: threads of one operation would only wait for each other.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * FAKE_DEVICES
    )


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def pytest_collection_modifyitems(items):
    # Slow tests run first: started last, one of them would keep a worker busy while the
    # other has nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
