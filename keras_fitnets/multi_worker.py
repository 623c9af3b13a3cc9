"""What Keras needs to run `fit` in several processes; keras issue 20585.

Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 fails twice. Before the
first step it reduces a whole batch, a structure, as if it were one tensor. After each
step it averages the logs along an axis that scalars do not have. (The first also
fails under MirroredStrategy when the first batch is shared out unevenly.) When Keras
mends both, `tests/test_multi_worker.py` says so, and this module can go.
"""

from typing import Any

import keras
import tensorflow as tf


class FitsOnWorkers(keras.Model):
    """A `keras.Model` whose `fit` runs in several processes."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build on the part of a batch that is here, rather than on a mean of parts."""
        if iterator is not None and self._distribute_strategy is not None:
            local = self.distribute_strategy.experimental_local_results
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda value: local(value)[0], next(batches)
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)


def step_results(logs: dict[str, Any]) -> dict[str, Any]:
    """A step's logs, with the axis along which Keras averages them over the workers."""
    strategy = tf.distribute.get_strategy()
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not (several and strategy.extended._in_multi_worker_mode()):
        return logs
    return keras.tree.map_structure(lambda log: tf.expand_dims(log, 0), logs)
