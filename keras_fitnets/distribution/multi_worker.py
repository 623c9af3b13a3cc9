"""What Keras needs to run `fit` in several processes; keras issue 20585.

Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 fails twice. Before the
first step it reduces a whole batch, a structure, as if it were one tensor. After each
step it averages the logs along an axis that scalars do not have. (The first also
fails under MirroredStrategy when the first batch is shared out unevenly.) When Keras
mends both, `tests/test_multi_worker.py` says so, and this module can go.
"""

import zlib
from typing import Any

import keras
import tensorflow as tf

from keras_fitnets.utils.keras_private import FitsOnWorkers as FitsOnWorkers


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one of several that writes to disk."""
    if not _is_multi_process(strategy):
        return True
    resolver = strategy.cluster_resolver
    first_worker = resolver.task_type == "worker" and resolver.task_id == 0
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" if has_chief else first_worker


def check_agreement(
    strategy: tf.distribute.Strategy, seen: Any, directory: str
) -> None:
    """Compare what the processes have found on disk.

    Raises:
        ValueError: in each of them, if they have not found the same.
    """
    if not _is_multi_process(strategy):
        return
    digest = zlib.crc32(str(seen).encode())
    found = strategy.gather(
        strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([digest], "int64")
        ),
        axis=0,
    )
    if len(set(found.numpy())) > 1:
        raise ValueError(
            f"The workers do not see the same checkpoints; this one sees {seen} in "
            f"'{directory}'. Give all of them one `checkpoint_dir` on a file system "
            "that they share, and start all of them anew after one was killed."
        )


def step_results(logs: dict[str, Any]) -> dict[str, Any]:
    """A step's logs, with the axis along which Keras averages them over the workers."""
    if not _is_multi_process(tf.distribute.get_strategy()):
        return logs
    return keras.tree.map_structure(lambda log: tf.expand_dims(log, 0), logs)


def _is_multi_process(strategy: tf.distribute.Strategy) -> bool:
    multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return multi_worker and len(strategy.cluster_resolver.cluster_spec().as_dict()) > 0
