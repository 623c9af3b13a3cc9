"""The backends of Keras beside each other, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
# How far apart the numbers of two backends may be, as a part of the largest of them.
# Convolutions add up in other orders, of which half precision keeps three digits.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "mixed_float16": 2e-2}

pytestmark = pytest.mark.slow


def run(backend, *command, **environment):
    """What a program prints on a backend."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# The same numbers


def read_numbers(folder, backend, precision):
    """Of every scenario."""
    path = folder / f"{backend}.npz"
    needs_x64 = "1" if precision == "float64" else "0"
    run(
        *(backend, HERE / "scenarios.py", precision, path),
        JAX_ENABLE_X64=needs_x64,
    )
    return dict(np.load(path))


@pytest.mark.parametrize("precision", TOLERANCES)
def test_logs_and_weights_are_those_of_tensorflow(tmp_path, precision):
    expected = read_numbers(tmp_path, "tensorflow", precision)
    assert len(expected) > 100
    wrong = {}
    for backend in BACKENDS[1:]:
        actual = read_numbers(tmp_path, backend, precision)
        assert expected.keys() == actual.keys()
        for name, values in expected.items():
            # In half precision a sample may change its class by a rounding.
            if "accuracy" in name and precision == "mixed_float16":
                continue
            scale = np.max(np.abs(values)) + 1e-9
            error = np.max(np.abs(actual[name] - values)) / scale
            if not error <= TOLERANCES[precision]:
                wrong[backend, name] = error
    assert not wrong


# Files


FILES = """
import sys
import keras, numpy as np, scenarios
import keras_fitnets as kf
folder, action = sys.argv[1:]
x, y = scenarios.data()
x = x.astype("float32")
path = folder + "/distiller.keras"
if action == "write":
    distiller = scenarios.distil(kf, scenarios.network)
    distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    distiller.save(path)
    distiller.student.save_weights(folder + "/student.weights.h5")
else:
    distiller = keras.saving.load_model(path)
    student = scenarios.network(4, 9)
    student.load_weights(folder + "/student.weights.h5")
    for one, other in zip(student.get_weights(), distiller.student.get_weights()):
        np.testing.assert_array_equal(one, other)
import tensorflow as tf
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
cached = kf.cache_teacher(
    distiller, dataset, folder + "/cache", hint_dtype="float32", verbose=0
)
for data in (dataset, cached):
    logs = distiller.evaluate(data, verbose=0, return_dict=True)
    print(*[repr(float(logs[name])) for name in sorted(logs)])
distiller.fit(cached, shuffle=False, verbose=0)
"""


def read_logs(text):
    return [[float(number) for number in line.split()] for line in text.splitlines()]


@pytest.mark.parametrize("writer", BACKENDS)
def test_files_of_one_backend_are_read_by_the_others(tmp_path, writer):
    """A Distiller, the student's weights, and a cache of the teacher."""
    expected = read_logs(run(writer, "-c", FILES, tmp_path, "write"))
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*.npy")}
    assert shards
    for reader in set(BACKENDS) - {writer}:
        logs = read_logs(run(reader, "-c", FILES, tmp_path, "read"))
        np.testing.assert_allclose(logs, expected, rtol=1e-5)
    # Nothing was written anew.
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


# Without TensorFlow


ALONE = """
import sys
sys.modules["tensorflow"] = None
import numpy as np, keras, scenarios
import keras_fitnets as kf
distiller = scenarios.distil(kf, scenarios.network)
x, y = scenarios.data()
x = x.astype("float32")
monitor = kf.StudentMonitor(x)
history = kf.fit_stagewise(
    distiller, x, y, 2, 2, validation_data=(x, y), callbacks=[monitor],
    checkpoint_dir=sys.argv[1], batch_size=8, verbose=0,
)
distiller.save(sys.argv[1] + "/distiller.keras")
keras.saving.load_model(sys.argv[1] + "/distiller.keras").evaluate(x, y, verbose=0)
print(len(history.kd.history["agreement"]))
"""


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_tensorflow_is_not_needed_to_train_on_arrays(tmp_path, backend):
    assert run(backend, "-c", ALONE, tmp_path) == "2\n"


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_the_import_needs_no_tensorflow(backend):
    program = "import sys, keras_fitnets; print('tensorflow' in sys.modules)"
    assert run(backend, "-c", program) == "False\n"


# Many devices


MANY = """
import sys
import keras, numpy as np, scenarios
devices, path = sys.argv[1:]
if int(devices) > 1:
    chosen = keras.distribution.list_devices()[: int(devices)]
    parallel = keras.distribution.DataParallel(devices=chosen)
    keras.distribution.set_distribution(parallel)
import keras_fitnets as kf
found = {}
for stage in ("hint", "kd", "joint"):
    distiller = scenarios.distil(kf, scenarios.images, stage=stage)
    x, y = scenarios.data((8, 8, 3))
    history = distiller.fit(
        x.astype("float32"), y, batch_size=8, epochs=3, shuffle=False, verbose=0
    )
    found |= {f"{stage} {name}": log for name, log in history.history.items()}
    weights = enumerate(distiller.get_weights())
    found |= {f"{stage} weight {i}": weight for i, weight in weights}
np.savez(path, **found)
"""


def test_jax_trains_on_many_devices_as_on_one(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    found = {}
    for devices in (1, 2, 4):
        path = tmp_path / f"{devices}.npz"
        run("jax", "-c", MANY, devices, path, **flags)
        found[devices] = dict(np.load(path))
    for devices in (2, 4):
        for name, values in found[1].items():
            np.testing.assert_allclose(
                found[devices][name], values, rtol=1e-5, atol=1e-6, err_msg=name
            )
