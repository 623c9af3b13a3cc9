"""What a train step must know of `tf.distribute`: shares of means, and variables.

Every replica holds a part of the global batch, which may be smaller than another's,
or empty. What a replica contributes is its share of the mean over the whole batch, so
that the sums over the replicas are what one device would have.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_fitnets.utils.keras_private import get_mask


def num_replicas() -> int:
    """How many replicas run the step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_scope(student: keras.Model, teachers: Sequence[keras.Model]) -> None:
    """Refuse networks whose variables another strategy holds than runs the step.

    Raises:
        ValueError: naming the network and the scope that it should be made in.
    """
    strategy = tf.distribute.get_strategy()
    # Elsewhere a teacher is only read, and may lie anywhere.
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    for network in [student, *(teachers if on_tpu else ())]:
        made_here = strategy.extended.variable_created_in_scope
        if not all(made_here(variable.value) for variable in network.variables):
            raise ValueError(
                f"Network '{network.name}' was not made in the scope in which the "
                f"Distiller is made, that of {type(strategy).__name__}. Make, or load, "
                "both inside one `with strategy.scope():`."
            )


def all_reduce_sum(values: Any) -> Any:
    """The sums over the replicas of a structure of tensors."""
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    # One by one: several would have to be of one dtype.
    return tf.nest.map_structure(lambda v: context.all_reduce("SUM", v), values)


def replica_share(mean: Any, items: Any) -> Any:
    """What a mean over some items here adds to the mean over those of all replicas.

    Args:
        mean: a scalar; anything, even NaN, where there are no items.
        items: how many there are on this replica, a scalar.
    """
    if num_replicas() == 1:
        return mean
    items = tf.cast(items, mean.dtype)
    part = tf.math.divide_no_nan(items, all_reduce_sum(items))
    return tf.where(items > 0, mean * part, tf.zeros_like(mean))


def per_replica_loss(
    compiled_loss: Callable[..., Any], losses: Any
) -> Callable[..., Any]:
    """A compiled loss as the mean over this replica's samples alone.

    Keras divides a loss that is a mean by the number of replicas; one that is no mean
    it does not, and what its parts should add up to cannot be told.

    Raises:
        ValueError: if one of several replicas has a loss that is no mean.
    """
    if num_replicas() == 1:
        return compiled_loss
    for one in keras.tree.flatten(losses):
        reduction = getattr(one, "reduction", "mean")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                f"On {num_replicas()} replicas a label loss must be a mean over the "
                "samples; "
                f"{one!r} has reduction={reduction!r}. Leave `reduction` at its "
                "default, and scale the loss by `loss_weights` if it should be larger."
            )

    def loss(y: Any, y_pred: Any, sample_weight: Any) -> Any:
        outputs = keras.tree.flatten(y_pred)
        masks = [get_mask(output) for output in outputs]
        if len(masks) > 1 and any(mask is not None for mask in masks):
            raise ValueError(
                f"The label loss of {len(outputs)} outputs with masks cannot be shared "
                f"by {num_replicas()} replicas, which hold different numbers of time "
                "steps: "
                "Keras gives one mean for all outputs. Train on one device, or "
                "compile without a label loss."
            )
        return compiled_loss(y, y_pred, sample_weight) * num_replicas()

    return loss


@contextlib.contextmanager
def sync_state_updates(variables: Sequence[Any], samples: Any) -> Iterator[None]:
    """Give what layers assign to their variables inside the weight of its samples.

    Keras 3.15 leaves each replica the moving statistics of its own samples, saves those
    of the first, and makes them NaN where a replica is empty.

    Args:
        variables: all that layers may read or assign.
        samples: how many there are on this replica, a scalar.
    """
    if num_replicas() == 1:
        yield
        return
    before = [(variable, variable.value) for variable in variables]
    with keras.StatelessScope(before, collect_losses=True) as scope:
        given = {id(v): scope.get_current_value(v) for v in variables}
        yield
    for variable, old in before:
        new = scope.get_current_value(variable)
        if new is given[id(variable)]:
            continue
        if variable.aggregation != "sum" and new.dtype.is_floating:
            new = old + all_reduce_sum(replica_share(new - old, samples))
        variable.assign(new)


def reduce_gradients(own: Sequence[Any], samples: Any, optimizer: Any) -> list[Any]:
    """Gradients as an optimizer can take them that adds up those of all replicas.

    Those of an empty replica are zero. An optimizer that clips or scales looks at each
    replica's gradients before it adds them up: it is given their sum on the first one,
    and zeros on the others (NaN where the sum is not finite, so that all agree on it).
    """
    if num_replicas() == 1:
        return list(own)

    def if_any(gradient: tf.Tensor) -> tf.Tensor:
        return tf.where(samples > 0, gradient, tf.zeros_like(gradient))

    own = _map_floats(if_any, own)
    if not _clips_or_scales(optimizer):
        return own
    context = tf.distribute.get_replica_context()
    reached = [gradient for gradient in own if gradient is not None]
    sums = iter(context.all_reduce("SUM", reached))
    whole = [None if gradient is None else next(sums) for gradient in own]
    first = tf.equal(context.replica_id_in_sync_group, 0)
    return _map_floats(
        lambda gradient: gradient * tf.cast(first, gradient.dtype), whole
    )


def update_variables(
    variables: Sequence[Any],
    before: Sequence[Any],
    revised: Callable[..., Any],
    *args: Any,
) -> None:
    """Set variables to `revised(old, new, *args)`, on all replicas.

    Args:
        variables: the variables, with their new values.
        before: a tensor for each, its old value.
        revised: gives the value that each should have.
        *args: tensors that are the same on every replica.
    """

    def everywhere(strategy: Any, before: Sequence[Any], *args: Any) -> None:
        for variable, old in zip(variables, before, strict=True):
            strategy.extended.update(
                variable.value,
                lambda new, old, *args: new.assign(revised(old, new, *args)),
                args=(old, *args),
                group=False,
            )

    tf.distribute.get_replica_context().merge_call(everywhere, args=(before, *args))


@contextlib.contextmanager
def scale_updates(variables: Sequence[Any], factor: float) -> Iterator[None]:
    """Leave of what the block changes these variables by only so much."""
    before = [tf.identity(variable.value) for variable in variables]
    yield
    if variables:
        update_variables(variables, before, lambda old, new: old + factor * (new - old))


def _clips_or_scales(optimizer: Any) -> bool:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return True
    limits = (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue)
    return any(limit is not None for limit in limits)


def _map_floats(function: Any, tensors: Sequence[Any]) -> list[Any]:
    """A function on each tensor, and on the values alone of sparse gradients."""

    def apply(tensor: tf.Tensor) -> tf.Tensor:
        known = tensor is not None and tensor.dtype.is_floating
        return function(tensor) if known else tensor

    return tf.nest.map_structure(apply, list(tensors), expand_composites=True)
