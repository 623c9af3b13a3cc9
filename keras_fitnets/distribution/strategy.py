"""From a word to the `tf.distribute` strategy that it names."""

import functools
import json
import os
import re
import socket
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import tensorflow as tf

NAMES = ("auto", "none", "mirrored", "multi_worker", "tpu")

_PROBE_SECONDS = 5.0
_TF_CONFIG = (
    'TF_CONFIG={"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}, with the index of each worker its own'
)


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The `tf.distribute` strategy under which networks are made and trained.

    Teacher, student and `Distiller` are to be made, and compiled, inside its `scope()`.
    Asked twice for the same devices it returns the same object.

    - `"auto"`: `"multi_worker"` if the environment variable `TF_CONFIG` lists several
      workers; else `"tpu"` if there is one, or the environment names one; else
      `"mirrored"` if there are several GPUs; else `"none"`.
    - `"none"`: TensorFlow's default, which puts everything on one device.
    - `"mirrored"`: all GPUs of this machine, or its logical CPUs where it has no GPU.
    - `"multi_worker"`: all GPUs of all the workers in `TF_CONFIG`. It has to come
      before TensorFlow computes anything.
    - `"tpu"`: the TPU that is attached, or that `KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS`,
      `TPU_NAME` or `TPU_CONFIG` names.

    Args:
        name: one of these words.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        TypeError: if `name` is no string.
        ValueError: for another word, inside the scope of a strategy, and where the
            machine or its environment has not what the word asks for.

    Example:

    >>> import keras
    >>> with strategy("none").scope():
    ...     student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> strategy("none").num_replicas_in_sync
    1
    """
    if not isinstance(name, str):
        raise TypeError(
            f"`name` must be a string, one of {NAMES}; received {name!r}. For example "
            'strategy("auto").'
        )
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {NAMES}; received {name!r}.")
    if tf.distribute.has_strategy():
        raise ValueError(
            f"strategy({name!r}) was called inside the scope of "
            f"{type(tf.distribute.get_strategy()).__name__}, and strategies do not "
            "nest. Call it before the `with` statement."
        )
    if name == "auto":
        name = _auto()
    if name == "multi_worker":
        config = _tf_config()
        _check_cluster(config)
        return _multi_worker(json.dumps(config, sort_keys=True))
    if name == "tpu":
        place = _tpu_place()
        if place is None:
            raise ValueError(
                'strategy("tpu") found no TPU: none is attached to this machine, and '
                "none of the environment variables KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS, "
                "TPU_NAME and TPU_CONFIG names one. On a Cloud TPU VM set "
                "TPU_NAME=local; for a TPU in the network, "
                'TPU_NAME=grpc://<address>:<port>. Or use strategy("auto").'
            )
        return _tpu(place)
    if name == "mirrored":
        devices = _names("GPU") or _names("CPU")
        return _mirrored(devices)
    return tf.distribute.get_strategy()


def _auto() -> str:
    config = _tf_config()
    # A cluster of one is what some platforms describe to every program they run.
    if sum(_counts(config.get("cluster")).values()) > 1:
        return "multi_worker"
    if _tpu_place() is not None:
        return "tpu"
    return "mirrored" if len(_names("GPU")) > 1 else "none"


# Each of these strategies is made once. Two of them count the keys of their collective
# operations from the same number, and TensorFlow takes one's for the other's: it fails
# on their shapes, and with it every later step. A second server would want the first
# one's port; a TPU made ready twice loses its variables. And networks that are made
# under two strategies cannot meet in one step.


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # The CPUs are one: collectives would gain nothing there, and meet those of others.
    on_cpu = tf.DeviceSpec.from_string(devices[0]).device_type == "CPU"
    reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
    return tf.distribute.MirroredStrategy(devices, reduction)


@functools.cache
def _multi_worker(config: str) -> tf.distribute.Strategy:
    try:
        return _start_worker()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            'strategy("multi_worker") was called after TensorFlow had computed '
            "something, or listed its logical devices: it can join other workers only "
            "before that. Make it the first call of the program, ahead of every "
            f"tensor, network and dataset. TensorFlow says: {error}"
        ) from error
    except tf.errors.OpError as error:
        task = json.loads(config)["task"]
        raise ValueError(
            f"The worker with TF_CONFIG's task {task} did not start. Its own address "
            "in TF_CONFIG must be of this machine, with a free port, and the other "
            f"workers must be running. TensorFlow says: {error.message}"
        ) from error


def _start_worker() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


class _Place(NamedTuple):
    """Where a TPU is: "local", addresses, or a name that Google's API knows."""

    name: str
    zone: str | None = None
    project: str | None = None


@functools.cache
def _tpu(place: _Place) -> tf.distribute.Strategy:
    try:
        for address in _addresses(place):
            _spot_check_teacher(address)
        return _connect(place)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"The TPU '{place.name}' cannot be used. TPU_NAME=local means one attached "
            "to this machine, TPU_NAME=grpc://<address>:<port> one in the network; any "
            "other name is looked up by Google's API, from a machine of Google Cloud "
            f"with cloud-tpu-client installed. {type(error).__name__}: {error}"
        ) from error


def _connect(place: _Place) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    return tf.distribute.TPUStrategy(resolver.connect(*place))


def _tpu_place() -> _Place | None:
    """The TPU that the resolver would take, in its order; it too reads no others."""
    # TensorFlow would ask the network about an empty name.
    for variable in ("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "TPU_NAME"):
        if name := os.environ.get(variable):
            return _Place(name)
    if os.environ.get("TPU_CONFIG"):
        config = _json("TPU_CONFIG", "TPU_CONFIG={...}, with a tpu_node_name")
        if not isinstance(config.get("tpu_node_name"), str):
            raise ValueError(
                f'TPU_CONFIG has no name in "tpu_node_name": {config!r}. Set it there, '
                "or set TPU_NAME."
            )
        name = config["tpu_node_name"]
        return _Place(name, config.get("zone"), config.get("project"))
    return _Place("local") if tf.config.list_physical_devices("TPU") else None


def _addresses(place: _Place) -> list[tuple[str, int]]:
    """What must answer before TensorFlow is let near it: it would wait for good."""
    if place.name == "local":
        return []
    if place.name.startswith("grpc://"):
        hosts = [part.removeprefix("grpc://") for part in place.name.split(",")]
        return [_host_and_port(host, 8470) for host in hosts]
    if not re.fullmatch(r"[A-Za-z][-\w]*", place.name):
        raise ValueError(f"'{place.name}' is neither a name nor grpc://<address>.")
    if place.zone and place.project:
        return []
    # What else would tell zone and project.
    metadata = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP")
    return [_host_and_port(metadata or "metadata.google.internal", 80)]


def _host_and_port(address: str, port: int) -> tuple[str, int]:
    host, _, given = address.partition(":")
    return host, int(given or port)


def _spot_check_teacher(address: tuple[str, int]) -> None:
    try:
        socket.create_connection(address, timeout=_PROBE_SECONDS).close()
    except OSError as error:
        host, port = address
        raise OSError(f"{host}:{port} does not answer ({error})") from error


def _names(kind: str) -> tuple[str, ...]:
    return tuple(device.name for device in tf.config.list_logical_devices(kind))


def _json(variable: str, example: str) -> dict[str, Any]:
    """The object that an environment variable holds; an empty one without it."""
    text = os.environ.get(variable, "")
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The environment variable {variable} is not JSON ({error}): {text!r}. Set "
            f"it to {example}."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"The environment variable {variable} must hold a JSON object; it holds "
            f"{text!r}. Set it to {example}."
        )
    return value


def _tf_config() -> dict[str, Any]:
    return _json("TF_CONFIG", _TF_CONFIG)


def _counts(cluster: Any) -> dict[str, int]:
    """How many tasks each role of a cluster has."""
    roles = cluster.items() if isinstance(cluster, dict) else ()
    return {role: len(tasks) for role, tasks in roles if isinstance(tasks, list)}


def _check_cluster(config: dict[str, Any]) -> None:
    """Refuse a cluster in which TensorFlow would fail later, or wait for good."""

    def refuse(what: str, remedy: str = f"Set {_TF_CONFIG}.") -> NoReturn:
        raise ValueError(f'strategy("multi_worker"): {what} {remedy}')

    if not config:
        refuse("the environment variable TF_CONFIG, which lists the workers, is empty.")
    cluster = config.get("cluster")
    if not isinstance(cluster, dict) or not cluster:
        refuse(f'TF_CONFIG has no "cluster" that lists the workers: {config!r}.')
    others = sorted(cluster.keys() - {"chief", "worker"})
    if others:
        refuse(
            f"it trains on workers, and TF_CONFIG's cluster also has {others}.",
            "Leave in only the roles 'worker' and, at most once, 'chief'.",
        )
    everyone = []
    for role, addresses in cluster.items():
        if not isinstance(addresses, list):
            refuse(f"the {role}s in TF_CONFIG must be in a list, not {addresses!r}.")
        everyone += addresses
    for address in everyone:
        if not _is_address(address):
            refuse(
                f"{address!r} in TF_CONFIG is not a worker's address.",
                'Write it as "host:port", with a port from 1 to 65535.',
            )
    twice = sorted({address for address in everyone if everyone.count(address) > 1})
    if twice:
        refuse(
            f"{twice} is in TF_CONFIG's cluster more than once.",
            "Every worker needs an address, or at least a port, of its own.",
        )
    if len(cluster.get("chief", [])) > 1:
        refuse(
            f"TF_CONFIG lists {len(cluster['chief'])} chiefs.",
            "Leave one, and make the others workers.",
        )
    if len(everyone) < 2:
        refuse(
            f"TF_CONFIG lists {len(everyone)} worker(s), and it needs two or more.",
            'On one machine use strategy("mirrored"), or "none".',
        )
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        refuse(
            f'TF_CONFIG has no "task" with "type" and "index": {config!r}.',
            "They tell this worker which it is: for example "
            '"task": {"type": "worker", "index": 0}.',
        )
    role, index = task["type"], task["index"]
    if not isinstance(role, str) or role not in cluster:
        refuse(
            f"this task is of type {role!r} in TF_CONFIG, and the cluster has "
            f"{sorted(cluster)}.",
            "Give every task one of its cluster's roles.",
        )
    # TensorFlow takes a numeral, too.
    if not re.fullmatch("[0-9]+", str(index)) or int(index) >= len(cluster[role]):
        refuse(
            f"this task has index {index!r} in TF_CONFIG, and the cluster lists "
            f"{len(cluster[role])} of type {role!r}.",
            f"Use an index from 0 to {len(cluster[role]) - 1}.",
        )


def _is_address(address: Any) -> bool:
    match = re.fullmatch(r"[^\s/]+:(\d{1,5})", address if type(address) is str else "")
    return match is not None and 0 < int(match[1]) < 65536
