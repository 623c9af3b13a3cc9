"""What a train step must know of `tf.distribute`: shares, and updates of variables."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def count() -> int:
    """How many replicas run the step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def share(loss: tf.Tensor, penalty: Any, samples: tf.Tensor) -> tf.Tensor:
    """This replica's part of the global batch's loss; tf.distribute adds them up.

    Args:
        loss: a mean over this replica's samples, a scalar.
        penalty: what does not depend on the samples, a scalar.
        samples: how many there are on this replica, a scalar.
    """
    if count() == 1:
        return loss + penalty
    samples = tf.cast(samples, loss.dtype)
    everywhere = tf.distribute.get_replica_context().all_reduce("SUM", samples)
    return loss * tf.math.divide_no_nan(samples, everywhere) + penalty / count()


def step_back(variables: Sequence[Any], before: Sequence[Any], factor: float) -> None:
    """Leave of the step that the variables have made only its `factor` part.

    This scales the step of any optimizer; scaled gradients would not, since Adam and
    RMSprop divide them by their own size.
    """

    def on_all_replicas(strategy: Any, before: Sequence[Any]) -> None:
        for variable, old in zip(variables, before, strict=True):
            strategy.extended.update(
                variable.value,
                lambda new, old: new.assign(old + factor * (new - old)),
                args=(old,),
                group=False,
            )

    context = tf.distribute.get_replica_context()
    context.merge_call(on_all_replicas, args=(before,))
