"""How a train step averages over replicas, and how it handles an empty one.

A replica is one device's copy of the networks under a `tf.distribute` strategy. Each
gets a part of the global batch, and the parts may differ in size. Every mean that a
replica computes over its n_r samples is scaled by n_r / Σ n, so that the sum over the
replicas is the mean over the global batch:

    Σ_r (n_r / Σ n) · mean_r = (1 / Σ n) · Σ of all samples

On one device every function here returns what it was given, and adds no operation.

How an empty replica is handled
-------------------------------
The last batch of an epoch may leave a replica without samples. It must still run the
step, because the other replicas wait for it in every collective operation. Its means
are 0 / 0 = NaN, so they are replaced rather than multiplied by zero (0 · NaN is NaN):

- `replica_share` returns 0 for its losses and metrics;
- `reduce_gradients` makes its gradients zero;
- `sync_state_updates` gives its updates of moving statistics the weight 0.

Keras 3.15 does none of this: https://github.com/tensorflow/tensorflow/issues/41657.
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
    """Return how many replicas run the step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_scope(student: keras.Model, teachers: Sequence[keras.Model]) -> None:
    """Raise if a network was created under a different `tf.distribute` strategy.

    Args:
        student: the network whose variables the step updates.
        teachers: the networks that the step only reads.

    Raises:
        ValueError: naming the network, and the scope to create it in.
    """
    strategy = tf.distribute.get_strategy()
    # Variables can be read from any device, so a teacher may be created anywhere. A TPU
    # is the exception: its step can only read what is in the TPU's own memory.
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    for network in [student, *(teachers if on_tpu else ())]:
        is_created_here = strategy.extended.variable_created_in_scope
        if not all(is_created_here(variable.value) for variable in network.variables):
            raise ValueError(
                f"Network '{network.name}' was not made in the scope of the strategy "
                f"in which the Distiller is made, {type(strategy).__name__}. Make, or "
                "load, both inside one `with strategy.scope():`."
            )


def all_reduce_sum(values: Any) -> Any:
    """Return the sums over the replicas of a structure of tensors."""
    if num_replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    # One by one, because a single call takes tensors of one dtype only.
    return tf.nest.map_structure(lambda v: context.all_reduce("SUM", v), values)


def replica_share(mean: Any, items: Any) -> Any:
    """Scale this replica's mean so that the sum over replicas is the global mean.

    Args:
        mean: this replica's mean, a scalar; NaN if the replica is empty.
        items: how many items the mean is over, a scalar.

    Returns:
        mean · items / Σ items, or 0 if the replica is empty.
    """
    if num_replicas() == 1:
        return mean
    items = tf.cast(items, mean.dtype)
    share = tf.math.divide_no_nan(items, all_reduce_sum(items))
    # An empty replica's mean is NaN, and a product of NaN with its share of 0 too.
    return tf.where(items > 0, mean * share, tf.zeros_like(mean))


def per_replica_loss(
    compiled_loss: Callable[..., Any], losses: Any
) -> Callable[..., Any]:
    """Return a compiled loss as the mean over this replica's samples alone.

    Keras divides a loss that is a mean by the number of replicas; this undoes it. It
    does not divide a sum, whose parts on the replicas have no defined total.

    Args:
        compiled_loss: the loss as `compile` made it.
        losses: what was passed to `compile`, to see how each loss is reduced.

    Raises:
        ValueError: on several replicas, for a loss that is not a mean.
    """
    if num_replicas() == 1:
        return compiled_loss
    for one in keras.tree.flatten(losses):
        reduction = getattr(one, "reduction", "mean")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                f"On {num_replicas()} replicas a label loss must be a mean over the "
                f"samples; {one!r} has reduction={reduction!r}. Leave `reduction` at "
                "its default, and scale the loss by `loss_weights` if it should be "
                "larger."
            )

    def loss(y: Any, y_pred: Any, sample_weight: Any) -> Any:
        outputs = keras.tree.flatten(y_pred)
        masks = [get_mask(output) for output in outputs]
        # With masks each output has a number of steps of its own, and the one sum that
        # Keras returns cannot be divided into shares any more.
        if len(masks) > 1 and any(mask is not None for mask in masks):
            raise ValueError(
                f"The label loss of {len(outputs)} outputs with masks cannot be shared "
                f"by {num_replicas()} replicas, which hold different numbers of time "
                "steps: Keras returns one mean for all outputs. Train on one device, "
                "or compile without a label loss."
            )
        return compiled_loss(y, y_pred, sample_weight) * num_replicas()

    return loss


@contextlib.contextmanager
def sync_state_updates(variables: Sequence[Any], samples: Any) -> Iterator[None]:
    """Average variable updates over replicas, weighted by their numbers of samples.

    Layers such as BatchNormalization assign to variables during a forward pass. Keras
    3.15 leaves every replica the moving statistics of its own samples, saves those of
    the first replica, and makes them NaN on an empty one.

    Args:
        variables: all variables that layers may read or assign inside the block.
        samples: how many samples this replica has, a scalar.
    """
    if num_replicas() == 1:
        yield
        return
    # In a stateless scope an assignment only notes the new value, so that it can still
    # be averaged before it reaches the variable.
    before = [(variable, variable.value) for variable in variables]
    with keras.StatelessScope(before, collect_losses=True) as scope:
        initial = {id(v): scope.get_current_value(v) for v in variables}
        yield
    for variable, old in before:
        new = scope.get_current_value(variable)
        if new is initial[id(variable)]:
            continue
        # old + Σ_r (n_r / Σ n) · (new_r - old): an empty replica's NaN gets no weight.
        # Integers, such as a seed, and sums are no averages: they stay as they are.
        if variable.aggregation != "sum" and new.dtype.is_floating:
            new = old + all_reduce_sum(replica_share(new - old, samples))
        variable.assign(new)


def reduce_gradients(own: Sequence[Any], samples: Any, optimizer: Any) -> list[Any]:
    """Return gradients that an optimizer may sum over the replicas.

    An empty replica's gradients become zero. An optimizer that clips, or that scales
    the loss, looks at each replica's gradients before it sums them, and would clip
    parts of the gradient instead of the whole. It therefore gets the sum on the first
    replica and zeros on all others; where the sum is not finite the zeros become NaN
    (0 · NaN), so that all replicas agree to skip the step.

    Args:
        own: this replica's gradients, each already scaled to its share; None where a
            variable has none.
        samples: how many samples this replica has, a scalar.
        optimizer: the optimizer that will apply them.
    """
    if num_replicas() == 1:
        return list(own)

    def zero_if_empty(gradient: tf.Tensor) -> tf.Tensor:
        return tf.where(samples > 0, gradient, tf.zeros_like(gradient))

    own = _map_floats(zero_if_empty, own)
    if not _has_clipping_or_scaling(optimizer):
        return own
    context = tf.distribute.get_replica_context()
    # One collective for all of them, rather than one for each variable.
    present = [gradient for gradient in own if gradient is not None]
    sums = iter(context.all_reduce("SUM", present))
    totals = [None if gradient is None else next(sums) for gradient in own]
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    return _map_floats(
        lambda gradient: gradient * tf.cast(is_first, gradient.dtype), totals
    )


def update_variables(
    variables: Sequence[Any],
    before: Sequence[Any],
    get_value: Callable[..., Any],
    *args: Any,
) -> None:
    """Set variables to `get_value(old, new, *args)`, on all replicas.

    Args:
        variables: the variables, which hold their new values.
        before: for each variable a tensor with its old value.
        get_value: returns the value that a variable should have.
        *args: further tensors, the same on every replica.
    """

    def update_on_all(strategy: Any, before: Sequence[Any], *args: Any) -> None:
        for variable, old in zip(variables, before, strict=True):
            strategy.extended.update(
                variable.value,
                lambda new, old, *args: new.assign(get_value(old, new, *args)),
                args=(old, *args),
                group=False,
            )

    # A mirrored variable can only be assigned in the cross-replica context, which the
    # replicas enter together by a merge call.
    context = tf.distribute.get_replica_context()
    context.merge_call(update_on_all, args=(before, *args))


@contextlib.contextmanager
def scale_updates(variables: Sequence[Any], factor: float) -> Iterator[None]:
    """Scale the updates made inside this block by `factor`.

    Args:
        variables: the variables that the block updates.
        factor: 1 leaves the updates as they are, 0 takes them back.
    """
    before = [tf.identity(variable.value) for variable in variables]
    yield
    if variables:
        update_variables(variables, before, lambda old, new: old + factor * (new - old))


def _has_clipping_or_scaling(optimizer: Any) -> bool:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return True
    limits = (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue)
    return any(limit is not None for limit in limits)


def _map_floats(function: Any, tensors: Sequence[Any]) -> list[Any]:
    """Apply a function to each tensor of floats, and leave None as it is."""

    def apply(tensor: tf.Tensor) -> tf.Tensor:
        is_float = tensor is not None and tensor.dtype.is_floating
        return function(tensor) if is_float else tensor

    # A sparse gradient is opened into its values and its indices, which are integers.
    return tf.nest.map_structure(apply, list(tensors), expand_composites=True)
