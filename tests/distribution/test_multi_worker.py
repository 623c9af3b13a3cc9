"""Two real processes train what one does; killed, they go on; and why Keras cannot."""

import json
import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
from loopback import addresses
from processes import Program

# Each test trains in several processes.
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SECONDS = 240


def start(folder, workers, index, **config):
    config = {"workers": workers, "index": index, "folder": str(folder), **config}
    return Program(
        [HERE / "worker.py", json.dumps(config)],
        environment={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        log=folder / f"log{index}",
    )


def finish(folder, processes):
    """The outcome of each worker, once all have ended well."""
    codes = [process.wait(SECONDS) for process in processes]
    logs = [(folder / f"log{i}").read_text()[-2000:] for i in range(len(processes))]
    assert codes == [0] * len(codes), logs
    return [np.load(folder / f"outcome{i}.npz") for i in range(len(processes))]


def train(folder, count, **config):
    folder.mkdir(exist_ok=True)
    workers = addresses(count)
    return finish(folder, [start(folder, workers, i, **config) for i in range(count)])


def assert_same(outcome, expected):
    assert outcome.files == expected.files
    for name in expected.files:
        np.testing.assert_allclose(
            outcome[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_two_workers_train_what_one_process_does(tmp_path):
    """All terms at once; the test below has the stages "hint" and "kd".

    The last batch, of one sample, leaves the second worker with nothing.
    """
    (alone,) = train(tmp_path / "one", 1, train="joint")
    losses = {name for name in alone.files if name.endswith("_loss")}
    assert {"joint hint_loss", "joint kd_loss", "joint val_label_loss"} <= losses
    for outcome in train(tmp_path / "two", 2, train="joint"):
        assert_same(outcome, alone)


def test_a_killed_worker_started_again_ends_with_the_same_weights(tmp_path):
    """It is killed in stage 2; the other stops with an error, to be started again."""
    (alone,) = train(tmp_path / "one", 1, train="both")
    folder, workers = tmp_path / "two", addresses(2)
    folder.mkdir()
    first = start(folder, workers, 0, train="both")
    second = start(folder, workers, 1, train="both", stop_at=["kd", 1])
    assert second.wait(SECONDS) == -9
    assert first.wait(SECONDS) == 1
    assert "The tasks have crashed" in (folder / "log0").read_text()
    assert (folder / "marks0").read_text().splitlines()[:4] == [
        *(f"hint {epoch}" for epoch in range(3)),
        "kd 0",
    ]
    assert not list(folder.glob("outcome*"))
    (folder / "marks1").unlink()
    for outcome in train(folder, 2, train="both"):
        assert_same(outcome, alone)
    # Only what was not done before: stage 1 and an epoch of stage 2 were.
    assert (folder / "marks1").read_text().splitlines() == ["kd 1", "kd 2"]


KERAS_ALONE = """
    import json, os, sys
    cluster = {"worker": sys.argv[1:3]}
    task = {"type": "worker", "index": int(sys.argv[3])}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    import keras, numpy as np, tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
    model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, verbose=0)
"""


def test_keras_still_needs_our_help(tmp_path):
    """When this fails, https://github.com/keras-team/keras/issues/20585 is mended.

    Then delete `keras_private.FitsOnWorkers` and `multi_worker.step_results`, with
    their two uses in `distiller.py`, once the lowest Keras that we support has it.
    """
    workers, program = addresses(2), tmp_path / "alone.py"
    program.write_text(textwrap.dedent(KERAS_ALONE))
    processes = [
        Program(
            [program, *workers, i],
            environment={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert all("unsupported type" in error for error in errors), errors
