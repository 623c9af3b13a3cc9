"""Finds NaN and infinity in a training step, and undoes the step.

The guard is off unless `CheckNumerics` switches it on: looking at every tensor costs
time, and undoing a step costs a copy of all variables.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets import backend
from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distribution import replicas

# In the order in which a step computes them. The first place that is not finite is
# the cause, since NaN and infinity spread to all that is computed from them.
PLACES = (
    "data",
    "teacher's outputs",
    "hints",
    "student's outputs",
    *TERMS,
    "gradients",
    "weights",
)


# Where a class may be ruled out by a logit of minus infinity.
_LOGITS = ("teacher's outputs", "student's outputs")


class FiniteGuard:
    """Remembers the first step with NaN or infinity, and undoes every such step.

    It holds a variable of its own, which is in no weight file and no checkpoint. It is
    no Keras object, so that Keras does not track the variable.

    Attributes:
        is_on: whether steps are looked at. A step must be traced again after a change.
    """

    def __init__(self) -> None:
        self.is_on = False
        # The number of the step, counted from 1, or 0 if none was found; then a flag
        # for each of PLACES. One tensor, so that a step assigns it at once. All
        # replicas write the same values, and the first one's are kept.
        self._found = keras.Variable(
            np.zeros(1 + len(PLACES)),
            trainable=False,
            dtype="float32",
            aggregation="only_first_replica",
            name="not_finite",
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that a step reads or assigns."""
        return [self._found]

    def first_failure(self) -> tuple[int, list[str]] | None:
        """Return the first step since `reset` that was not finite, and the places."""
        step, *flags = keras.ops.convert_to_numpy(self._found)
        if step == 0:
            return None
        return int(step), [
            place for place, flag in zip(PLACES, flags, strict=True) if flag
        ]

    def reset(self) -> None:
        """Forget what was found."""
        self._found.assign(ops.zeros(self._found.shape))

    def snapshot(self, variables: Sequence[Any]) -> list[Any]:
        """Copy the values of variables before a step; nothing where it is off."""
        return [ops.copy(v.value) for v in variables] if self.is_on else []

    def check_and_rollback(
        self, step: Any, places: dict[str, Any], variables: Any, before: list[Any]
    ) -> None:
        """Look at what a step has computed, and undo the step if it is not finite.

        Args:
            step: a variable, the number of the step, counted from 1.
            places: structures of tensors to look at, by their name in `PLACES`. Names
                that are missing are skipped, and so are integers, masks and None.
            variables: the variables that the step may have changed.
            before: what `snapshot` returned for these variables.
        """
        if not self.is_on:
            return
        places = {**places, "weights": [variable.value for variable in variables]}
        found = {place: _has_not_finite(places.get(place)) for place in PLACES}
        # A logit of minus infinity rules a class out, which the losses understand. It
        # is a fault only where a loss is not finite either.
        is_loss_bad = ops.max(ops.stack([found[term] for term in TERMS]))
        for place in _LOGITS:
            is_nan = _has_not_finite(places.get(place), ops.isnan)
            found[place] = ops.maximum(is_nan, found[place] * is_loss_bad)
        # A replica sees its own part of the batch. All must decide alike, or their
        # copies of the weights would part: the flags are added up over the replicas.
        flags = replicas.all_reduce_sum([found[place] for place in PLACES])
        is_bad = sum(flags) > 0
        record = ops.stack([ops.cast(step.value, "float32"), *flags])
        # Only the first bad step is kept; later ones are often its consequence.
        is_first = ops.logical_and(is_bad, ops.equal(self._found.value[0], 0))
        self._found.assign(ops.where(is_first, record, self._found.value))
        # A selection and not a condition: in a traced step a branch would make every
        # variable an input and an output of it, and XLA compiles a selection well.
        replicas.update_variables(
            variables, before, lambda old, new, bad: ops.where(bad, old, new), is_bad
        )


def find_not_finite_weights(network: keras.Model) -> list[Any]:
    """Return the weights of a network that hold a NaN or an infinity."""
    return [
        weight
        for weight in network.weights
        if "float" in weight.dtype
        and not keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(weight)))
    ]


def _is_not_finite(tensor: Any) -> Any:
    return ops.logical_not(ops.isfinite(tensor))


def _has_not_finite(tensors: Any, is_bad: Callable[[Any], Any] = _is_not_finite) -> Any:
    """Return 1 if a float among the tensors is not finite, or bad otherwise, else 0."""
    flags = [
        ops.any(is_bad(tensor))
        # A sparse gradient is expanded: its values are looked at.
        for tensor in backend.flatten_tensors(tensors)
        if "float" in str(getattr(tensor, "dtype", ""))
    ]
    if not flags:
        return ops.zeros((), "float32")
    return ops.cast(ops.any(ops.stack(flags)), "float32")
