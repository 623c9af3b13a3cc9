"""From a name to the `tf.distribute` strategy that it stands for.

What TensorFlow itself reports about a wrong TF_CONFIG is passed on. Checked here is
only what it would not report: where it would wait for ever, or train alone in silence.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from typing import Any
from typing import NamedTuple

from keras_fitnets import backend
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.errors import shorten
from keras_fitnets.utils.lazy import tf

NAMES = ("auto", "none", "mirrored", "multi_worker", "tpu")

_PROBE_SECONDS = 5.0
_TF_CONFIG_EXAMPLE = (
    'TF_CONFIG={"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}, with the index of each worker its own'
)


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Return the `tf.distribute` strategy under which networks are made and trained.

    Make teacher, student and `Distiller`, and compile it, inside the strategy's
    `scope()`. Two calls for the same devices return the same object.

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
        name: one of these names.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: for another name, inside the scope of a strategy, on another backend
            of Keras than TensorFlow, and if the machine or its environment does not
            have what the name stands for.

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
    check_choice("name", name, NAMES)
    backend.check_tensorflow(
        "kf.strategy",
        "On JAX call keras.distribution.set_distribution(keras.distribution."
        "DataParallel()) before the networks are made.",
    )
    if tf.distribute.has_strategy():
        raise ValueError(
            f"strategy({name!r}) was called inside the scope of "
            f"{type(tf.distribute.get_strategy()).__name__}, and strategies do not "
            "nest. Call it before the `with` statement."
        )
    if name == "auto":
        name = _choose_name()
    if name == "multi_worker":
        config = _read_json("TF_CONFIG", _TF_CONFIG_EXAMPLE)
        _check_cluster(config.get("cluster"))
        return _multi_worker(json.dumps(config, sort_keys=True))
    if name == "tpu":
        location = _find_tpu()
        if location is None:
            raise ValueError(
                'strategy("tpu") found no TPU: none is attached to this machine, and '
                "none of the environment variables KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS, "
                "TPU_NAME and TPU_CONFIG names one. On a Cloud TPU VM set "
                "TPU_NAME=local; for a TPU in the network, "
                'TPU_NAME=grpc://<address>:<port>. Or use strategy("auto").'
            )
        return _tpu(location)
    if name == "mirrored":
        return _mirrored(_device_names("GPU") or _device_names("CPU"))
    return tf.distribute.get_strategy()


def _choose_name() -> str:
    """Return the name that "auto" stands for on this machine."""
    config = _read_json("TF_CONFIG", _TF_CONFIG_EXAMPLE)
    # Some platforms describe a cluster of one to every program that they run.
    if len(_list_tasks(config.get("cluster"))) > 1:
        return "multi_worker"
    if _find_tpu() is not None:
        return "tpu"
    return "mirrored" if len(_device_names("GPU")) > 1 else "none"


# Each of these strategies is made only once in a process. Two of them number the keys
# of their collective operations from the same start, and TensorFlow mistakes one's for
# the other's: it fails on their shapes, and so does every later step. A second server
# would need the port of the first, and a TPU that is initialised twice loses its
# variables. Besides, networks that are made under two strategies cannot be used in one
# step.


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # Logical CPUs share one processor, so collective operations between them gain
    # nothing over a sum on the first.
    is_cpu = tf.DeviceSpec.from_string(devices[0]).device_type == "CPU"
    reduction = tf.distribute.ReductionToOneDevice() if is_cpu else None
    return tf.distribute.MirroredStrategy(devices, reduction)


@functools.cache
def _multi_worker(config: str) -> tf.distribute.Strategy:
    try:
        return _start_worker()
    except RuntimeError as error:
        raise ValueError(
            'strategy("multi_worker") was called after TensorFlow had computed '
            "something, or listed its logical devices: it can join other workers only "
            "before that. Make it the first call of the program, ahead of every "
            f"tensor, network and dataset. TensorFlow says: {error}"
        ) from error
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"The worker with TF_CONFIG={config} did not start. TensorFlow says: "
            f"{shorten(error)}. Set {_TF_CONFIG_EXAMPLE}. A worker's own address must "
            "be of this machine, with a free port, and the others must be running."
        ) from error


def _start_worker() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


class _TpuLocation(NamedTuple):
    """Where a TPU is: "local", addresses, or a name for Google's API to look up."""

    name: str
    zone: str | None = None
    project: str | None = None


@functools.cache
def _tpu(location: _TpuLocation) -> tf.distribute.Strategy:
    try:
        for address in _list_addresses(location):
            _check_reachable(address)
        return _connect(location)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"The TPU '{location.name}' cannot be used. TPU_NAME=local means one that "
            "is attached to this machine, TPU_NAME=grpc://<address>:<port> one in the "
            "network; any "
            "other name is looked up by Google's API, from a machine of Google Cloud "
            f"with cloud-tpu-client installed. {type(error).__name__}: {error}"
        ) from error


def _connect(location: _TpuLocation) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    return tf.distribute.TPUStrategy(resolver.connect(*location))


def _find_tpu() -> _TpuLocation | None:
    """Return the TPU that TensorFlow's resolver would take, if there is one.

    It looks at the same environment variables in the same order.
    """
    # An empty variable counts as none: TensorFlow would look the empty name up.
    for variable in ("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "TPU_NAME"):
        if name := os.environ.get(variable):
            return _TpuLocation(name)
    if os.environ.get("TPU_CONFIG"):
        config = _read_json("TPU_CONFIG", "TPU_CONFIG={...}, with a tpu_node_name")
        if not isinstance(config.get("tpu_node_name"), str):
            raise ValueError(
                f'TPU_CONFIG has no name in "tpu_node_name": {config!r}. Set it there, '
                "or set TPU_NAME."
            )
        name = config["tpu_node_name"]
        return _TpuLocation(name, config.get("zone"), config.get("project"))
    return _TpuLocation("local") if tf.config.list_physical_devices("TPU") else None


def _list_addresses(location: _TpuLocation) -> list[tuple[str, int]]:
    """Return the addresses that must answer first: TensorFlow would wait for ever."""
    if location.name == "local":
        return []
    if location.name.startswith("grpc://"):
        hosts = [part.removeprefix("grpc://") for part in location.name.split(",")]
        return [_host_and_port(host, 8470) for host in hosts]
    if not re.fullmatch(r"[A-Za-z][-\w]*", location.name):
        raise ValueError(f"'{location.name}' is neither a name nor grpc://<address>.")
    if location.zone and location.project:
        return []
    # TensorFlow asks the metadata server of Google Cloud for the zone and the project.
    metadata = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP")
    return [_host_and_port(metadata or "metadata.google.internal", 80)]


def _host_and_port(address: str, port: int) -> tuple[str, int]:
    host, _, given = address.partition(":")
    return host, int(given or port)


def _check_reachable(address: tuple[str, int]) -> None:
    try:
        socket.create_connection(address, timeout=_PROBE_SECONDS).close()
    except OSError as error:
        host, port = address
        raise OSError(f"{host}:{port} does not answer ({error})") from error


def _device_names(kind: str) -> tuple[str, ...]:
    return tuple(device.name for device in tf.config.list_logical_devices(kind))


def _read_json(variable: str, example: str) -> dict[str, Any]:
    """Return the JSON object in an environment variable, or an empty one without it."""
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


def _list_tasks(cluster: Any) -> list[Any]:
    """Return the addresses of all tasks of TF_CONFIG's cluster, of whatever role."""
    roles = cluster.values() if isinstance(cluster, dict) else ()
    return [task for tasks in roles if isinstance(tasks, list) for task in tasks]


def _check_cluster(cluster: Any) -> None:
    """Raise where TensorFlow would wait for ever, or train alone in silence.

    Observed with TensorFlow 2.21, for each case in a process of its own. Whatever else
    can be wrong in TF_CONFIG it reports itself, and `_multi_worker` passes that on.
    """
    tasks = _list_tasks(cluster)
    # Alone: TensorFlow ignores a cluster of fewer than two, or one that is none.
    if len(tasks) < 2:
        raise ValueError(
            f'strategy("multi_worker") needs two or more workers; the environment '
            f"variable TF_CONFIG lists {len(tasks)}. Set {_TF_CONFIG_EXAMPLE}. On one "
            'machine use strategy("mirrored"), or "none".'
        )
    # For ever: it waits for a parameter server, which never joins it. And alone: a task
    # of type "evaluator" starts without the workers.
    others = sorted(cluster.keys() - {"chief", "worker"})
    if others:
        raise ValueError(
            'strategy("multi_worker") trains on workers; the cluster in TF_CONFIG also '
            f"has {others}. Leave in only the roles 'worker' and, at most once, "
            "'chief'."
        )
    # For ever: only one of two tasks can listen at an address, and it waits for the
    # other.
    twice = sorted({str(task) for task in tasks if tasks.count(task) > 1})
    if twice:
        raise ValueError(
            f"{twice} is in TF_CONFIG's cluster more than once. Every worker needs an "
            "address, or at least a port, of its own."
        )
    # For ever: such a port is parsed, and no worker can ever listen on it.
    for task in tasks:
        port = str(task).rpartition(":")[2]
        if port.isdecimal() and not 0 < int(port) < 65536:
            raise ValueError(
                f"{task!r} in TF_CONFIG is not a worker's address. Write it as "
                '"host:port", with a port from 1 to 65535.'
            )
