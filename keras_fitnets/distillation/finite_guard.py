"""NaN and infinity in a step: where they first are, and no weight with them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distribution import replicas

# In the order in which a step computes them: the first that is bad is the cause.
PLACES = (
    *("data", "teacher's outputs", "hints", "student's outputs"),
    *(*TERMS, "gradients", "weights"),
)


class FiniteGuard:
    """Remembers the first step with a number that is not finite, and undoes it.

    It holds a variable of its own, which is in no weight file and no checkpoint.
    """

    def __init__(self) -> None:
        self.is_on = False
        # The number of the step, counted from 1, and a flag for each place.
        self._found = keras.Variable(
            np.zeros(1 + len(PLACES)),
            trainable=False,
            dtype="float32",
            aggregation="only_first_replica",
            name="not_finite",
        )

    def first_failure(self) -> tuple[int, list[str]] | None:
        """The first step since `reset` with such numbers, and where they were."""
        step, *flags = keras.ops.convert_to_numpy(self._found)
        bad = [place for place, flag in zip(PLACES, flags, strict=True) if flag]
        return (int(step), bad) if step else None

    def reset(self) -> None:
        """Start anew."""
        self._found.assign(keras.ops.zeros_like(self._found))

    def snapshot(self, variables: Sequence[Any]) -> list[Any]:
        """What the step may have to be undone to."""
        return [tf.identity(v.value) for v in variables] if self.is_on else []

    def check_and_rollback(
        self, step: Any, places: dict[str, Any], variables: Any, before: list[Any]
    ) -> None:
        """Look at what a step has computed; undo it if it is not finite.

        Args:
            step: a variable, the number of the step, counted from 1.
            places: what there is to look at, by its place.
            variables: what the step may have changed.
            before: what `snapshot` returned for these variables.
        """
        if not self.is_on:
            return
        places = {**places, "weights": [variable.value for variable in variables]}
        flags = replicas.all_reduce_sum(
            [_has_not_finite(places.get(place)) for place in PLACES]
        )
        bad = tf.add_n(flags) > 0
        now = tf.stack([tf.cast(step.value, "float32"), *flags])
        new = tf.logical_and(bad, tf.equal(self._found.value[0], 0))
        self._found.assign(tf.where(new, now, self._found.value))
        replicas.update_variables(
            variables, before, lambda old, new, bad: tf.where(bad, old, new), bad
        )


def find_not_finite_weights(network: keras.Model) -> list[Any]:
    """The weights of a network in which there is a NaN or an infinity."""
    return [
        weight
        for weight in network.weights
        if "float" in weight.dtype
        and not keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(weight)))
    ]


def _has_not_finite(tensors: Any) -> tf.Tensor:
    """1 if a float among the tensors is not finite, else 0."""
    flags = [
        tf.reduce_any(tf.logical_not(tf.math.is_finite(tensor)))
        for tensor in tf.nest.flatten(tensors, expand_composites=True)
        if "float" in str(getattr(tensor, "dtype", ""))
    ]
    return tf.cast(tf.reduce_any(flags), "float32") if flags else tf.constant(0.0)
