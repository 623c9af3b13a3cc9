"""A loss of the user's on a batch that several replicas share.

A mean over the samples is the same on any number of replicas if each scales its own
mean by its share of what is counted. Most of Keras' losses count samples; with masks,
or `ignore_class`, they count those time steps and pixels that are not left out, and two
replicas may hold very different numbers of them.

Any other loss may do with its batch what it likes: weigh classes by their frequency in
it, compare its samples with each other, or take a mean of its own. It is given the
batch of all replicas, as on one device.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.distribution import replicas
from keras_fitnets.utils.keras_private import get_mask
from keras_fitnets.utils.lazy import tf
from keras_fitnets.utils.tensors import combine_masks

_MEANS = ("sum_over_batch_size", "mean")
# Keras' losses whose value for a sample depends on the others of its batch.
_OF_BATCHES = {"dice", "tversky", "circle"}


def compute_label_loss(
    loss: keras.losses.Loss, y: Any, y_pred: Any, sample_weight: Any
) -> Any:
    """Return a label loss, such that the mean over all samples is right.

    On one device that is the loss as it is. On several replicas it is a number for each
    of them. Their mean, weighted by the samples of each, is the loss of all samples;
    `replicas.replica_share` takes it.

    Args:
        loss: the loss of one output.
        y: its labels.
        y_pred: the output.
        sample_weight: None, or weights as `fit` takes them.

    Raises:
        ValueError: on several replicas, for a loss that is no mean, or that Keras
            cannot divide into the values of its samples.
    """
    if backend.num_replicas() == 1:
        return loss(y, y_pred, sample_weight)
    _check_loss(loss)
    if not _is_by_sample(loss):
        everything = replicas.gather([y, y_pred, sample_weight])
        return _call_unscaled(loss, *everything)[0]
    value, mask = _call_unscaled(loss, y, y_pred, sample_weight)
    samples = tf.shape(y_pred)[0]
    if mask is None:
        return value
    share = replicas.replica_share(value, tf.math.count_nonzero(mask))
    # The caller takes the share of the samples; this takes its factor out again.
    factor = replicas.replica_share(tf.ones_like(value), samples)
    return tf.math.divide_no_nan(share, factor)


def compute_sample_values(
    loss: Any, call: Callable[..., Any], tensors: list[Any]
) -> Any:
    """Return a loss's values of this replica's samples, which may depend on all others.

    Args:
        loss: the user's loss or function.
        call: calls it with tensors, and returns a value for each of their samples.
        tensors: what it compares, `(samples, ...)`.
    """
    if backend.num_replicas() == 1 or _is_of_samples(loss):
        return call(*tensors)
    values = call(*replicas.gather(tensors))
    return replicas.take_own(values, tf.shape(tensors[0])[0])


def _check_loss(loss: Any) -> None:
    """Raise if a loss has no defined value on several replicas."""
    if loss.reduction in ("sum", "none", None):
        raise ValueError(
            f"On {backend.num_replicas()} replicas a label loss must be a mean over "
            f"the samples; {loss!r} has reduction={loss.reduction!r}. Leave "
            "`reduction` at its default, and scale the loss by `loss_weights` if it "
            "should be larger."
        )
    # Keras divides a mean by the number of replicas inside of `__call__`, where it
    # could not be seen what the class has made of it.
    if not _is_known(type(loss).__call__):
        raise ValueError(
            f"On {backend.num_replicas()} replicas a label loss must leave the mean "
            f"to Keras, or take it in `call`; {type(loss).__name__} defines "
            "`__call__`. Rename it to `call`."
        )


def _is_by_sample(loss: Any) -> bool:
    """Whether a loss has a value for each sample that depends on that sample alone."""
    return (
        loss.reduction in _MEANS
        and type(loss).__call__ is keras.losses.Loss.__call__
        and _is_of_samples(loss)
    )


def _is_of_samples(loss: Any) -> bool:
    """Whether a loss, or a function, is known to look at each sample by itself."""
    if isinstance(loss, keras.losses.Loss):
        functions = [type(loss).call, getattr(loss, "fn", loss.call)]
    else:
        functions = [loss]
    return all(
        _is_known(function) and getattr(function, "__name__", "") not in _OF_BATCHES
        for function in functions
    )


def _is_known(function: Any) -> bool:
    """Whether a function is one of Keras' or of this package."""
    package = getattr(function, "__module__", "").partition(".")[0]
    return package in ("keras", "keras_fitnets")


def _call_unscaled(
    loss: Any, y: Any, y_pred: Any, sample_weight: Any
) -> tuple[Any, Any]:
    """Call a loss; return its mean and the mask of the values in it, or None.

    Keras divides the mean by the number of replicas, but not a number that `call`
    returns; this undoes it.
    """
    values: Any = None

    def call(*args: Any) -> Any:
        nonlocal values
        values = loss.call(*args)
        return values

    # A copy, because the replicas call the loss in threads that take turns. Keras'
    # own way to copy would save the loss and load it again.
    listener = object.__new__(type(loss))
    vars(listener).update(vars(loss), call=call)
    value = listener(y, y_pred, sample_weight)
    mask = combine_masks(get_mask(y_pred), get_mask(values))
    if len(values.shape) > 0 or mask is not None or sample_weight is not None:
        value *= backend.num_replicas()
    return value, mask
