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
step, because the other replicas wait for it in every collective operation.
TensorFlow's convolutions refuse an empty batch, so that its networks run on one sample
of zeros, whose outputs are dropped (`run_on_samples`). Nothing else sees that sample.
The means over no samples are 0 / 0 = NaN, so they are replaced rather than multiplied
by zero (0 · NaN is NaN):

- `replica_share` returns 0 for its losses and metrics;
- `reduce_gradients` makes its gradients zero;
- `sync_state_updates` gives its updates of moving statistics the weight 0.

Keras 3.15 does none of this: https://github.com/tensorflow/tensorflow/issues/41657.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.utils.keras_private import get_logits
from keras_fitnets.utils.keras_private import get_mask
from keras_fitnets.utils.keras_private import set_mask_and_logits
from keras_fitnets.utils.keras_private import wrap_layers
from keras_fitnets.utils.lazy import tf


def enter_scope(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Make variables in this block on the devices that a model is trained on."""
    strategy = backend.get_strategy(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def check_scope(student: keras.Model, teachers: Sequence[keras.Model]) -> None:
    """Raise if a network was created under a different `tf.distribute` strategy.

    Args:
        student: the network whose variables the step updates.
        teachers: the networks that the step only reads.

    Raises:
        ValueError: naming the network, and the scope to create it in.
    """
    strategy = backend.get_strategy()
    if strategy is None:
        return
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
    if backend.num_replicas() == 1:
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
    if backend.num_replicas() == 1:
        return mean
    items = tf.cast(items, mean.dtype)
    share = tf.math.divide_no_nan(items, all_reduce_sum(items))
    # An empty replica's mean is NaN, and a product of NaN with its share of 0 too.
    return tf.where(items > 0, mean * share, tf.zeros_like(mean))


def gather(tensors: Any) -> Any:
    """Return the samples of all replicas, with their masks and logits, on each of them.

    Gradients find their way back to the replica whose sample it is.

    Args:
        tensors: a structure of tensors, `(samples, ...)`; None stays None.
    """
    context = tf.distribute.get_replica_context()

    def gather_one(tensor: tf.Tensor) -> tf.Tensor:
        # Collective operations know few types: booleans and short integers are not
        # among them.
        is_carried = tensor.dtype.is_floating or tensor.dtype in (tf.int32, tf.int64)
        carried = tensor if is_carried else tf.cast(tensor, tf.int32)
        return tf.cast(context.all_gather(carried, axis=0), tensor.dtype)

    return _map_samples(gather_one, tensors)


def take_own(values: Any, samples: Any) -> Any:
    """Return the values of this replica's samples out of those of all replicas.

    Args:
        values: a tensor, in the order in which `gather` returns samples.
        samples: how many samples this replica has, a scalar.
    """
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.cast(samples, tf.int32)[None], axis=0)
    start = tf.reduce_sum(counts[: context.replica_id_in_sync_group])
    return values[start : start + tf.cast(samples, tf.int32)]


def run_on_samples(
    run: Callable[[Any], Any], x: Any, layers: Sequence[keras.layers.Layer] = ()
) -> Any:
    """Run networks on this replica's batch, or on a sample of zeros if it has none.

    Args:
        run: a function of a batch of inputs.
        x: the inputs of this replica.
        layers: all layers that `run` calls. Those that look at the samples of all
            replicas must not see the zeros.

    Returns:
        The outputs of `run` for the samples in `x`: of an empty batch, empty ones.
    """
    if backend.num_replicas() == 1:
        return run(x)
    dense = [t for t in keras.tree.flatten(x) if isinstance(t, tf.Tensor)]
    # A batch of a size that is known when the step is traced is not empty.
    if not dense or dense[0].shape[0] is not None:
        return run(x)
    samples = tf.shape(dense[0])[0]

    def drop(tensor: Any) -> Any:
        return tensor[:samples] if isinstance(tensor, tf.Tensor) else tensor

    def fill(tensor: tf.Tensor) -> tf.Tensor:
        if not isinstance(tensor, tf.Tensor):
            return tensor
        # Sizes that are unknown until a batch comes are 0 in an empty one. A step has
        # given them the sizes that other replicas have: see `match_sizes`.
        one = tf.concat([[1], tf.shape(tensor)[1:]], axis=0)
        filled = tf.cond(
            samples > 0, lambda: tensor, lambda: tf.zeros(one, tensor.dtype)
        )
        return tf.ensure_shape(filled, tensor.shape)

    def call_on_own(call: Any, *args: Any, **options: Any) -> Any:
        args, options = _map_samples(drop, (args, options))
        return _map_samples(fill, call(*args, **options))

    # A synchronized BatchNormalization counts the samples of all replicas.
    synchronized = [one for one in layers if getattr(one, "synchronized", False)]
    with wrap_layers(synchronized, call_on_own):
        outputs = run(_map_samples(fill, x))
    return _map_samples(drop, outputs)


def match_sizes(data: Any) -> Any:
    """Return a batch; an empty one in the sizes of the other replicas' batches.

    Of an image size that is unknown until a batch comes, `(None, None, None, 3)`,
    TensorFlow makes an empty batch of shape `(0, 0, 0, 3)`.
    """
    if backend.num_replicas() == 1:
        return data
    context = tf.distribute.get_replica_context()

    def match(tensor: Any) -> Any:
        is_known = not isinstance(tensor, tf.Tensor) or tensor.shape.rank is None
        if is_known or None not in tensor.shape[1:] or tensor.shape[0] is not None:
            return tensor
        sizes = context.all_gather(tf.shape(tensor)[None, 1:], axis=0)
        shape = tf.concat([[0], tf.reduce_max(sizes, axis=0)], axis=0)
        matched = tf.cond(
            tf.shape(tensor)[0] > 0,
            lambda: tensor,
            lambda: tf.zeros(shape, tensor.dtype),
        )
        return tf.ensure_shape(matched, tensor.shape)

    return keras.tree.map_structure(match, data)


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
    if backend.num_replicas() == 1:
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
        if variable.aggregation == "sum":
            # An empty replica has nothing to add but the sample that stood in.
            new = tf.where(samples > 0, new, tf.zeros_like(new))
        elif new.dtype.is_floating:
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
    if backend.num_replicas() == 1:
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

    if backend.get_strategy() is None:
        for variable, old in zip(variables, before, strict=True):
            variable.assign(get_value(old, variable.value, *args))
        return
    # A mirrored variable can only be assigned in the cross-replica context, which the
    # replicas enter together by a merge call.
    context = tf.distribute.get_replica_context()
    context.merge_call(update_on_all, args=(before, *args))


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


def _map_samples(function: Callable[[Any], Any], tensors: Any) -> Any:
    """Apply a function to each tensor, and to the mask and logits attached to it."""

    def apply(tensor: Any) -> Any:
        if tensor is None:
            return None
        mask, logits = get_mask(tensor), get_logits(tensor)
        result = function(tensor)
        if result is not tensor:
            set_mask_and_logits(
                result,
                None if mask is None else function(mask),
                None if logits is None else function(logits),
            )
        return result

    return keras.tree.map_structure(apply, tensors)
