"""A word becomes a strategy, or says what is missing; networks train under it."""

import importlib
import json
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_fitnets as kf
from keras_fitnets.distillation.validate_data import check_data

# The package `keras_fitnets` has a function of this name.
module = importlib.import_module("keras_fitnets.distribution.strategy")

VARIABLES = (
    "TF_CONFIG",
    "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS",
    "TPU_NAME",
    "TPU_CONFIG",
    "GCE_METADATA_HOST",
    "GCE_METADATA_IP",
)
WORKERS = ["host0:12345", "host1:12345"]
TASK = {"type": "worker", "index": 0}
TWO_WORKERS = json.dumps({"cluster": {"worker": WORKERS}, "task": TASK})
ONE_WORKER = json.dumps({"cluster": {"worker": WORKERS[:1]}, "task": TASK})


class Machine:
    """What a test says there is, and what was reached for."""

    def __init__(self, monkeypatch):
        self._set = monkeypatch.setenv
        self.gpus, self.tpus, self.reached, self.probed = 0, 0, [], []
        self.replacement = {}

    def environment(self, **variables):
        for name, value in variables.items():
            self._set(name, value)

    def reach(self, what):
        def reached(*arguments):
            self.reached.append((what, *arguments))
            return self.replacement.get(what, f"{what} {len(self.reached)}")

        return reached

    def probe(self, address, timeout):
        self.probed.append((*address, timeout))
        return socket.socket()


def forget():
    for made in (module._mirrored, module._multi_worker, module._tpu):
        made.cache_clear()


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with four CPUs, an empty environment and no network."""
    made = Machine(monkeypatch)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    physical, logical = tf.config.list_physical_devices, tf.config.list_logical_devices
    monkeypatch.setattr(
        *(tf.config, "list_physical_devices"),
        lambda kind=None: ["TPU"] * made.tpus if kind == "TPU" else physical(kind),
    )
    gpu = tf.config.LogicalDevice
    monkeypatch.setattr(
        *(tf.config, "list_logical_devices"),
        lambda kind=None: (
            [gpu(f"/device:GPU:{i}", "GPU") for i in range(made.gpus)]
            if kind == "GPU"
            else logical(kind)
        ),
    )
    monkeypatch.setattr(module, "_start_worker", made.reach("multi_worker"))
    monkeypatch.setattr(module, "_connect", made.reach("tpu"))
    monkeypatch.setattr(socket, "create_connection", made.probe)
    forget()
    yield made
    forget()


@pytest.fixture
def no_mirrors(machine, monkeypatch):
    """Nothing is mirrored in truth: these GPUs are not there."""
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", machine.reach("mirrored"))


# Words


@pytest.mark.parametrize("name", [None, 3, ["auto"], tf.distribute.get_strategy()])
def test_what_is_no_word_is_refused(name):
    with pytest.raises(TypeError, match=r"must be a string, one of .*'mirrored'.*rec"):
        kf.strategy(name)


@pytest.mark.parametrize("name", ["", "Mirrored", "gpu", "multi-worker"])
def test_an_unknown_word_is_refused(name):
    with pytest.raises(ValueError, match=f"one of .*'multi_worker'.*{name!r}"):
        kf.strategy(name)


@pytest.mark.parametrize("name", module.NAMES)
def test_strategies_do_not_nest(name):
    with (
        kf.strategy("mirrored").scope(),
        pytest.raises(ValueError, match="scope of MirroredStrategy.*before the `with`"),
    ):
        kf.strategy(name)


def test_auto_is_the_default():
    assert kf.strategy() is kf.strategy("auto")


def test_none_is_the_default_of_tensorflow():
    assert kf.strategy("none") is tf.distribute.get_strategy()
    assert kf.strategy("none").num_replicas_in_sync == 1


# The choices of "auto"

LOCAL = ("local", None, None)
TPU = "grpc://10.0.0.2:8470"
CHOICES = {
    "nothing": ({}, 0, 0, None),
    "one GPU": ({}, 1, 0, None),
    "several GPUs": ({}, 2, 0, "mirrored"),
    "a TPU attached": ({}, 0, 4, "tpu", LOCAL),
    "a TPU before GPUs": ({"TPU_NAME": "local"}, 2, 0, "tpu", LOCAL),
    "a TPU of no name": ({"TPU_NAME": ""}, 0, 0, None),
    "a TPU in the network": ({"TPU_NAME": TPU}, 0, 0, "tpu", (TPU, None, None)),
    "Kubernetes": (
        {"KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS": TPU, "TPU_NAME": "local"},
        *(0, 0, "tpu", (TPU, None, None)),
    ),
    "a TPU with its place": (
        {"TPU_CONFIG": '{"tpu_node_name": "a", "zone": "b", "project": "c"}'},
        *(0, 0, "tpu", ("a", "b", "c")),
    ),
    "several workers": ({"TF_CONFIG": TWO_WORKERS, "TPU_NAME": "local"}, *(2, 4), "mw"),
    "one worker": ({"TF_CONFIG": ONE_WORKER}, 0, 0, None),
    "one worker, several GPUs": ({"TF_CONFIG": ONE_WORKER}, 2, 0, "mirrored"),
    "no cluster": ({"TF_CONFIG": '{"environment": "cloud"}'}, 0, 0, None),
    "an empty cluster": ({"TF_CONFIG": '{"cluster": {}}'}, 0, 0, None),
    "an empty variable": ({"TF_CONFIG": " "}, 0, 0, None),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_auto_takes_the_most_that_there_is(choice, machine, no_mirrors):
    environment, machine.gpus, machine.tpus, *expected = choice
    machine.environment(**environment)
    chosen = kf.strategy("auto")
    if expected == [None]:
        assert chosen is tf.distribute.get_strategy()
        assert not machine.reached and not machine.probed
    elif expected == ["mw"]:
        assert machine.reached == [("multi_worker",)]
    elif expected == ["mirrored"]:
        devices = tuple(f"/device:GPU:{i}" for i in range(machine.gpus))
        assert machine.reached == [("mirrored", devices, None)]
    else:
        assert machine.reached == [tuple(expected)]


def test_auto_does_not_pass_over_a_wrong_environment(machine):
    machine.environment(TF_CONFIG='{"cluster"')
    with pytest.raises(ValueError, match="TF_CONFIG is not JSON"):
        kf.strategy("auto")


# "mirrored"


def test_mirrored_takes_all_cpus_where_there_is_no_gpu():
    chosen = kf.strategy("mirrored")
    assert isinstance(chosen, tf.distribute.MirroredStrategy)
    cpus = tf.config.list_logical_devices("CPU")
    assert chosen.num_replicas_in_sync == len(cpus) == 4


def test_mirrored_takes_one_gpu_rather_than_all_cpus(machine, no_mirrors):
    machine.gpus = 1
    kf.strategy("mirrored")
    assert machine.reached == [("mirrored", ("/device:GPU:0",), None)]


@pytest.mark.parametrize("name", ["none", "mirrored", "multi_worker", "tpu"])
def test_called_twice_it_is_the_same_object(name, machine):
    machine.environment(TF_CONFIG=TWO_WORKERS, TPU_NAME="local")
    assert kf.strategy(name) is kf.strategy(name)


# "multi_worker"


def cluster(task=TASK, **roles):
    return {"cluster": roles, **({} if task is None else {"task": task})}


THREE = [f"host{i}:12345" for i in range(3)]
# TensorFlow does not report these: it trains alone, in silence, or waits for ever.
UNREPORTED = {
    "missing": (None, "TF_CONFIG lists 0", "Set TF_CONFIG="),
    "empty": ("", "TF_CONFIG lists 0", "Set TF_CONFIG="),
    "no JSON": ("{'cluster': 1}", r"TF_CONFIG is not JSON.*'cluster'", "Set it to"),
    "no object": ('["host0:1"]', r"must hold a JSON object.*host0", "Set it to"),
    "no cluster": ({"task": TASK}, "TF_CONFIG lists 0", "Set TF_CONFIG="),
    "cluster no object": ({"cluster": WORKERS}, "lists 0", "Set TF_CONFIG="),
    "one worker": (cluster(worker=["host0:1"]), "lists 1", r'strategy\("mirrored"\)'),
    "ps": (cluster(worker=WORKERS, ps=["p:1"]), r"also has \['ps'\]", "Leave in only"),
    "evaluator": (
        cluster({"type": "evaluator", "index": 0}, worker=WORKERS, evaluator=["e:1"]),
        *(r"also has \['evaluator'\]", "Leave in only the roles 'worker'"),
    ),
    "port 0": (cluster(worker=[*WORKERS, "h:0"]), "'h:0' .* is not", "from 1 to 65535"),
    "port too high": (
        cluster(worker=[*WORKERS, "h:65536"]),
        *("'h:65536' .* is not a worker's address", "from 1 to 65535"),
    ),
    "same address": (
        cluster(worker=[*WORKERS, "host0:12345"]),
        *(r"\['host0:12345'\] is in .* more than once", "of its own"),
    ),
    "same address in two roles": (
        cluster(worker=WORKERS, chief=["host0:12345"]),
        *(r"\['host0:12345'\] is in .* more than once", "of its own"),
    ),
}


@pytest.mark.parametrize("case", UNREPORTED.values(), ids=UNREPORTED)
def test_what_tensorflow_does_not_report_is_refused_before_it_starts(case, machine):
    config, what, remedy = case
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        machine.environment(TF_CONFIG=text)
    with pytest.raises(ValueError, match=f"{what}(?s:.*){remedy}"):
        kf.strategy("multi_worker")
    assert not machine.reached


REPORTED = {
    "two chiefs": (
        cluster({"type": "chief", "index": 0}, chief=WORKERS),
        "at most one 'chief'",
    ),
    "no task": (cluster(None, worker=WORKERS), "must also specify `task_type`"),
    "no index": (cluster({"type": "worker"}, worker=WORKERS), "specify .* `task_id`"),
    "task no object": (cluster(3, worker=WORKERS), "'int' is not iterable"),
    "type no word": (
        cluster({"type": ["worker"], "index": 0}, worker=WORKERS),
        r"Unrecognized task_type: \['worker'\]",
    ),
    "type not in cluster": (
        cluster({"type": "chief", "index": 0}, worker=WORKERS),
        "'chief' not found",
    ),
    "index too high": (
        cluster({"type": "worker", "index": 2}, worker=WORKERS),
        "`task_id` 2 exceeds",
    ),
    "index in words": (
        cluster({"type": "worker", "index": "one"}, worker=WORKERS),
        "invalid literal .*'one'",
    ),
    "address no text": (cluster(worker=[*WORKERS, 7]), "Task address 7 must be"),
}


@pytest.mark.parametrize("case", REPORTED.values(), ids=REPORTED)
def test_what_tensorflow_reports_is_passed_on(case, machine, monkeypatch):
    config, message = case
    start = tf.distribute.MultiWorkerMirroredStrategy
    monkeypatch.setattr(module, "_start_worker", start)
    machine.environment(TF_CONFIG=json.dumps(config))
    match = f"TF_CONFIG=(?s:.*)did not start.*{message}(?s:.*)Set TF_CONFIG="
    with pytest.raises(ValueError, match=match):
        kf.strategy("multi_worker")


@pytest.mark.parametrize(
    "config",
    [
        cluster(worker=THREE),
        cluster({"type": "worker", "index": "1"}, worker=WORKERS),
        cluster({"type": "chief", "index": 0}, chief=["c:1"], worker=["[::1]:2"]),
        {**cluster(worker=THREE), "rpc_layer": "grpc", "environment": "cloud"},
    ],
    ids=["three", "numeral", "chief", "more keys"],
)
def test_a_right_cluster_starts_a_worker(config, machine):
    machine.environment(TF_CONFIG=json.dumps(config))
    assert kf.strategy("multi_worker") == "multi_worker 1"


def test_workers_that_come_too_late_are_reported(machine, monkeypatch):
    """TensorFlow refuses this one itself, before it starts a server."""
    tf.constant(0)
    start = tf.distribute.MultiWorkerMirroredStrategy
    monkeypatch.setattr(module, "_start_worker", start)
    machine.environment(TF_CONFIG=TWO_WORKERS)
    with pytest.raises(ValueError, match="after TensorFlow.*first call.*says: Coll"):
        kf.strategy("multi_worker")


def test_a_worker_that_does_not_start_is_reported(machine, monkeypatch):
    def busy():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

    monkeypatch.setattr(module, "_start_worker", busy)
    machine.environment(TF_CONFIG=TWO_WORKERS)
    with pytest.raises(ValueError, match='"index": 0.*start gRPC server.*free port'):
        kf.strategy("multi_worker")


# "tpu"


def test_without_a_tpu_it_says_what_to_set(machine):
    with pytest.raises(ValueError, match="found no TPU.*TPU_NAME=local.*grpc://"):
        kf.strategy("tpu")
    assert not machine.reached and not machine.probed


@pytest.mark.slow
def test_a_tpu_that_is_named_and_not_there_is_reported(machine, monkeypatch):
    monkeypatch.undo()
    if tf.config.list_physical_devices("TPU"):
        pytest.skip("it is there")
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(ValueError, match="'local' cannot be used.*NotFoundError: TPUs"):
        kf.strategy("tpu")
    assert float(tf.reduce_sum(tf.ones(3))) == 3.0


ADDRESSES = {
    "local": {},
    "grpc://10.0.0.2": {("10.0.0.2", 8470)},
    "grpc://10.0.0.2:1,grpc://10.0.0.3:2": {("10.0.0.2", 1), ("10.0.0.3", 2)},
    "my-tpu": {("metadata.google.internal", 80)},
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_tensorflow_reaches_only_for_what_has_answered(name, machine, monkeypatch):
    machine.environment(TPU_NAME=name)
    assert kf.strategy("tpu") == "tpu 1"
    expected = [(*address, module._PROBE_SECONDS) for address in ADDRESSES[name]]
    assert sorted(machine.probed) == sorted(expected)

    def silent(address, timeout):
        raise TimeoutError("timed out")

    if expected:
        forget()
        monkeypatch.setattr(socket, "create_connection", silent)
        match = f"'{name}' cannot be used.*cloud-tpu-client.*does not answer .timed out"
        with pytest.raises(ValueError, match=match):
            kf.strategy("tpu")
        assert len(machine.reached) == 1


@pytest.mark.parametrize("variable", ["GCE_METADATA_HOST", "GCE_METADATA_IP"])
def test_the_metadata_server_is_where_tensorflow_looks_for_it(variable, machine):
    machine.environment(**{variable: "169.254.169.254:8080", "TPU_NAME": "my-tpu"})
    kf.strategy("tpu")
    assert machine.probed[0][:2] == ("169.254.169.254", 8080)


@pytest.mark.parametrize("answers", [True, False])
def test_an_address_is_really_contacted(answers, machine, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(module, "_connect", machine.reach("tpu"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("TPU_NAME", f"grpc://127.0.0.1:{port}")
        if answers:
            assert kf.strategy("tpu") == "tpu 1"
    if not answers:
        with pytest.raises(ValueError, match=f"127.0.0.1:{port} does not answer"):
            kf.strategy("tpu")


WRONG_TPUS = {
    "address without grpc": (
        {"TPU_NAME": "10.0.0.2:8470"},
        "'10.0.0.2:8470' cannot be used.*TPU_NAME=grpc://",
    ),
    "port no number": (
        {"TPU_NAME": "grpc://10.0.0.2:x"},
        "'grpc://10.0.0.2:x' cannot be used.*grpc://<address>:<port>",
    ),
    "no JSON": ({"TPU_CONFIG": "{"}, "TPU_CONFIG is not JSON.*Set it to"),
    "no node": ({"TPU_CONFIG": '{"zone": "a"}'}, "tpu_node_name.*or set TPU_NAME"),
}


@pytest.mark.parametrize("case", WRONG_TPUS.values(), ids=WRONG_TPUS)
def test_a_wrong_name_of_a_tpu_is_refused(case, machine):
    environment, match = case
    machine.environment(**environment)
    with pytest.raises(ValueError, match=match):
        kf.strategy("tpu")
    assert not machine.reached


# Training

SAMPLES = 16


def distiller(**options):
    return tiny.make_distiller(
        [tiny.network(hidden=7, seed=1), tiny.network(hidden=4, seed=2)],
        tiny.network(seed=5),
        keras.optimizers.SGD(0.1),
        compile_options={"metrics": ["accuracy"]},
        regressor_seed=6,
        hints=kf.Hint("hidden", "hidden", member=1),
        **options,
    )


def same_logs(actual, expected):
    assert set(actual) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_four_replicas_train_as_one_does():
    x, y = tiny.data(samples=SAMPLES)
    logs, ends = [], []
    for name in ("none", "mirrored"):
        with kf.strategy(name).scope():
            made = distiller(stage="joint")
        before = tiny.weights(made)
        logs.append(tiny.fit(made, x, y, batch_size=SAMPLES // 2))
        ends.append(tiny.weights(made))
        moved = [np.any(old != new) for old, new in zip(before, ends[-1], strict=True)]
        assert any(moved)
    same_logs(logs[1], logs[0])
    for one, four in zip(*ends, strict=True):
        tiny.assert_close(four, one)


@pytest.mark.slow
def test_both_stages_run_on_four_replicas_as_on_one(tmp_path):
    x, y = tiny.data(samples=SAMPLES)
    histories = []
    for name in ("none", "mirrored"):
        with kf.strategy(name).scope():
            made = distiller()
        path = tmp_path / f"{name}.keras"
        history = kf.fit_stagewise(
            *(made, tiny.batches(x, y)),
            stages=[
                kf.Stage("hint", 1),
                kf.Stage("kd", 2, callbacks=[kf.StudentCheckpoint(path)]),
            ],
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=2)],
            shuffle=False,
            verbose=0,
        )
        histories.append(history)
        assert history.kd.history["lambda"] == [4.0, 1.0]
        saved = keras.models.load_model(path)
        np.testing.assert_allclose(
            saved.predict(x, verbose=0), made.predict(x, verbose=0), rtol=1e-5
        )
    one, four = histories
    same_logs(four.hint.history, one.hint.history)
    same_logs(four.kd.history, one.kd.history)


@pytest.mark.slow
def test_networks_of_two_scopes_meet_in_one_distiller():
    x, y = tiny.data(samples=SAMPLES)
    with kf.strategy("mirrored").scope():
        teacher = tiny.network(hidden=7, seed=1)
    with kf.strategy("mirrored").scope():
        student = tiny.network(seed=5)
    with kf.strategy("mirrored").scope():
        made = kf.Distiller(teacher, student)
        made.compile("sgd")
    assert np.isfinite(tiny.fit(made, x)["kd_loss"]).all()


@pytest.mark.slow
def test_training_goes_through_the_scope_of_a_tpu(machine):
    machine.replacement["tpu"] = tf.distribute.OneDeviceStrategy("/device:CPU:1")
    machine.environment(TPU_NAME="local")
    x, y = tiny.data(samples=SAMPLES)
    logs = []
    for name in ("none", "auto"):
        with kf.strategy(name).scope():
            made = distiller()
        logs.append(tiny.fit(made, x, y))
    assert made.distribute_strategy is machine.replacement["tpu"]
    assert all("CPU:1" in weight.value.device for weight in made.weights)
    same_logs(logs[1], logs[0])


# A TPU wants batches of one size


X, Y = tiny.data(samples=SAMPLES)
SIZES = {
    "arrays that a batch does not divide": (lambda: (X, Y), {"batch_size": 6}),
    "a batch that replicas cannot share": (lambda: (X, Y), {"batch_size": 1}),
    "a dataset of unknown batches": (lambda: (tiny.batches(X, Y), None), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SIZES)
def test_batches_of_unknown_size_are_refused_on_a_tpu(case, monkeypatch):
    with kf.strategy("mirrored").scope():
        made = distiller()
    monkeypatch.setattr(tf.distribute, "TPUStrategy", tf.distribute.MirroredStrategy)
    before = made.get_weights()
    (x, y), options = SIZES[case][0](), SIZES[case][1]
    with pytest.raises(ValueError, match="A TPU compiles.*multiple of the 4 replicas"):
        made.fit(x, y, verbose=0, shuffle=False, **options)
    for old, new in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.slow
def test_full_batches_are_taken_on_a_tpu(monkeypatch):
    with kf.strategy("mirrored").scope():
        made = distiller()
    whole = tiny.batches(X, Y).unbatch().batch(8, drop_remainder=True)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", tf.distribute.MirroredStrategy)
    check_data(made, whole, training=True)
    check_data(made, X, Y, batch_size=8, training=True)


# Networks that were made elsewhere


def test_a_student_of_another_scope_is_refused():
    outside, mirrored = tiny.network(), kf.strategy("mirrored")
    with mirrored.scope():
        teacher, inside = tiny.network(seed=1), tiny.network(seed=2)
        with pytest.raises(ValueError, match="was not made in the scope.*Mirrored"):
            kf.Distiller(teacher, outside)
    with pytest.raises(ValueError, match=r"was not made in the scope.*scope\(\):"):
        kf.Distiller(tiny.network(seed=1), inside)
