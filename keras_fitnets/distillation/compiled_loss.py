"""The label loss that `compile` was given, output by output.

Keras evaluates the losses of all outputs together and returns their sum. Here each is
evaluated by itself: on several replicas each has its own number of steps that a mask
leaves, and each is logged as the mean over the samples of all batches.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.output_names import align_losses
from keras_fitnets.distillation.output_names import align_to_outputs
from keras_fitnets.distillation.validate_labels import align_labels
from keras_fitnets.distribution import replicas
from keras_fitnets.distribution.label_loss import compute_label_loss
from keras_fitnets.utils.keras_private import list_output_losses


def evaluate_compiled_loss(
    model: keras.Model,
    names: Sequence[str] | None,
    y: Any,
    y_pred: Any,
    sample_weight: Any,
) -> Any:
    """Return the weighted sum of the outputs' label losses, and log each of them.

    Args:
        model: the compiled model.
        names: the names of its outputs, None if they have none.
        y: the labels, in the structure of the outputs or by their names.
        y_pred: the model's outputs.
        sample_weight: None, or weights as `fit` takes them.

    Returns:
        A mean over the samples. On several replicas it is a number for each; their
        mean, weighted by the samples of each, is the loss of all samples.

    Raises:
        ValueError: if labels or losses do not fit the outputs.
    """
    outputs = keras.tree.flatten(y_pred)
    labels = align_labels(y, align_losses(model.loss, names, len(outputs)), names)
    if labels is None:
        raise ValueError(
            f"There are {len(outputs)} output(s); received labels as "
            f"{keras.tree.map_structure(type, y)}. Pass one array for each output with "
            "a loss, in the structure of the outputs or by their names."
        )
    output_losses = list_output_losses(model, labels, y_pred)
    if len(output_losses) > len(outputs) == 1:
        raise ValueError(
            f"There is one output, and {len(output_losses)} label losses were given, "
            "of which Keras would take the first in silence. Pass one loss: a function "
            "that adds them up."
        )
    weights = align_to_outputs(sample_weight, names, len(outputs), "sample_weight")
    samples = ops.shape(outputs[0])[0]
    losses = []
    for output, loss, weight, tracker in output_losses:
        value = compute_label_loss(
            loss, labels[output], outputs[output], weights[output]
        )
        value = ops.cast(value, keras.config.floatx())
        # Keras' own update would give every batch the same weight, and divide by the
        # number of replicas: see https://github.com/keras-team/keras/pull/19363.
        if tracker is not None:
            mean = replicas.all_reduce_sum(replicas.replica_share(value, samples))
            tracker.update_state(mean, sample_weight=samples)
        losses.append(value if weight is None else value * weight)
    return sum(losses[1:], losses[0]) if losses else ops.zeros(())
