"""Every test: four CPUs, a fresh seed, and an own folder of datasets."""

import gc
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Tests in float64 need it; the default types of Keras stay as they are.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of the programs that tests start; for the tests themselves see below.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# TensorFlow's convolutions with channels first need oneDNN, which it switches off by
# itself on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import processes
import pytest
from left_out import is_left_out

FAKE_DEVICES = 4
# `make test-jax` and `make test-torch` install what these run on.
HAS_BACKENDS = all(importlib.util.find_spec(name) for name in ("jax", "torch"))
collect_ignore = [] if HAS_BACKENDS else ["backends/test_across.py"]
# Programs that a test starts find the modules that tests share, as tests do.
HERE = str(Path(__file__).parent)
PACKAGE = Path(HERE).parent / "keras_fitnets"
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [HERE, os.environ.get("PYTHONPATH")])
)


def pytest_configure(config):
    # The process that only hands the tests to others need not wait for TensorFlow.
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import tensorflow as tf

    datasets = tempfile.TemporaryDirectory(prefix="keras_fitnets_")
    # tensorflow-datasets reads it when it is imported, which no test may do earlier.
    os.environ["TFDS_DATA_DIR"] = datasets.name
    config.add_cleanup(datasets.cleanup)
    # The tensors are tiny: threads of one operation would only wait for each other, and
    # to hand an operation to another thread takes several times as long as to run it.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * FAKE_DEVICES
    )
    processes.hurry()
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        prepare_other_backends()


def prepare_other_backends():
    """Let the tests, which compare with float64 of NumPy, run on JAX and PyTorch."""
    from keras.src.backend.common import dtypes

    # On these backends Keras takes float32 for the result of float64, and with it the
    # digits by which a test tells our own roundings.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        # Tests hand tensors to NumPy as they are, which PyTorch refuses where a tensor
        # remembers the operations that made it.
        to_array = torch.Tensor.__array__

        def to_array_in_tests(self, *args, **options):
            # The package itself must not.
            place = sys._getframe(1).f_code.co_filename
            is_package = place.startswith(f"{PACKAGE}{os.sep}")
            tensor = self if is_package else self.detach()
            return to_array(tensor, *args, **options)

        torch.Tensor.__array__ = to_array_in_tests


@pytest.fixture(autouse=True)
def seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def eager(request, monkeypatch):
    """Let models run their steps eagerly, unless the test is marked `graph`.

    Tracing a step takes ten times longer than running it once. A module whose tests are
    about something else than the trace uses this fixture.
    """
    if request.node.get_closest_marker("graph"):
        return
    import keras

    # Keras warns of a class that overrides `compile`: the patch is where it is defined.
    # PyTorch's modules, further down, have a `compile` of another meaning.
    trainer = next(kind for kind in keras.Model.__mro__ if "compile" in vars(kind))
    compile_model = trainer.compile

    def compile_eagerly(self, *args, **options):
        if options.get("jit_compile") is not True:
            options.setdefault("run_eagerly", True)
        return compile_model(self, *args, **options)

    monkeypatch.setattr(trainer, "compile", compile_eagerly)


def pytest_collection_finish():
    # What was imported stays: the garbage collector need not look at it each time. Nor
    # need it look as often as by default, which is made for programs of few objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    backend = os.environ["KERAS_BACKEND"]
    left_out = [item for item in items if is_left_out(item.nodeid, backend)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    # Slow tests run first: started last, one of them would keep a worker busy while the
    # other has nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
