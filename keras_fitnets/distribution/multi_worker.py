"""What a Distiller needs to train in several processes.

Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 fails twice: before the
first step, which
`keras_private.FitsOnWorkers` mends, and after each step, where it averages the logs
along an axis that scalars do not have, which `step_results` mends. Both belong to
https://github.com/keras-team/keras/issues/20585; when Keras has mended them,
`tests/distribution/test_multi_worker.py` fails and says what to delete.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.utils.lazy import tf


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one of several that writes to disk."""
    if not _is_multi_process(strategy):
        return True
    resolver = strategy.cluster_resolver
    # Without a task of type "chief" TensorFlow gives its part to the first worker.
    is_first_worker = resolver.task_type == "worker" and resolver.task_id == 0
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" if has_chief else is_first_worker


def check_agreement(strategy: Any, seen: Any, directory: str) -> None:
    """Compare what the processes have found on disk.

    Args:
        strategy: the strategy that all of them train under.
        seen: what this process has found; its text is compared.
        directory: where it looked, for the message.

    Raises:
        ValueError: in each of them, if they have not found the same.
    """
    if not _is_multi_process(strategy):
        return
    # Only numbers can be gathered, so the processes exchange checksums of the text.
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
            "that they share, and restart all of them after one was killed."
        )


def step_results(logs: dict[str, Any]) -> dict[str, Any]:
    """Return a step's logs with the axis over which Keras averages over workers."""
    # Keras averages over axis 0, and a scalar has none: see the top of this module.
    if not _is_multi_process(backend.get_strategy()):
        return logs
    return keras.tree.map_structure(lambda log: tf.expand_dims(log, 0), logs)


def _is_multi_process(strategy: Any) -> bool:
    if strategy is None:
        return False
    # Without TF_CONFIG this strategy runs in one process, with an empty cluster.
    is_multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return is_multi_worker and bool(strategy.cluster_resolver.cluster_spec().as_dict())
