"""Checks that labels, label loss and outputs fit together, before anything is trained.

Most of these faults are silent in Keras: a crossentropy that takes logits for
probabilities, or a class number out of range, gives a loss and gradients all the same.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fitnets.distillation.label_losses import LossSpec
from keras_fitnets.distillation.label_losses import describe_loss
from keras_fitnets.distillation.output_names import align_losses
from keras_fitnets.distillation.output_names import align_to_outputs
from keras_fitnets.distillation.output_names import get_output_names
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.output_specs import check_decided
from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import has_compiled_metrics


def check_labels(distiller: Any, y: Any) -> None:
    """Check that a Distiller's stage has the labels, and the label loss, it needs.

    Args:
        distiller: the compiled Distiller.
        y: the labels, or None.

    Raises:
        ValueError: if labels are missing, or the label loss contradicts the outputs.
    """
    if distiller.stage == "hint":
        return
    check_decided(distiller.output_pairs)
    # A stage without label loss and metrics needs no labels.
    are_labels_used = distiller.loss is not None or has_compiled_metrics(distiller)
    if not are_labels_used:
        return
    if y is None:
        raise ValueError(
            f'Stage "{distiller.stage}" needs labels, and none were passed. Pass `y`, '
            'or a dataset of (x, y); or use stage="hint", which needs none; or, '
            "for the soft targets alone, a new Distiller compiled without loss and "
            "metrics."
        )
    if distiller.loss is not None:
        check_label_loss(
            distiller.loss,
            distiller.output_pairs,
            distiller.student,
            distiller.output_names,
        )


def check_label_loss(
    loss: Any,
    output_pairs: Sequence[OutputPair | None],
    student: keras.Model,
    names: Sequence[str] | None,
) -> None:
    """Check that the crossentropies among the label losses fit the outputs.

    Args:
        loss: what `compile` was given.
        output_pairs: how each of the student's outputs is read; None if it is not.
        student: the student.
        names: the names of the student's outputs, None if they have none.

    Raises:
        ValueError: if one takes probabilities where the student returns logits or the
            other way round, or one class of several where its units are independent.
    """
    losses = align_losses(loss, names, len(output_pairs))
    for one, output_pair in zip(losses, output_pairs, strict=True):
        if output_pair is None:
            continue
        name, activation, from_logits = describe_loss(one, output_pair.units)
        # Outputs that are compared as numbers may be logits to the label loss.
        is_read = output_pair.activation in ("softmax", "sigmoid")
        if activation not in ("softmax", "sigmoid") or not is_read:
            continue
        if from_logits != output_pair.student.from_logits:
            returns = "probabilities" if from_logits else "logits"
            raise ValueError(
                f"Student '{student.name}' returns {returns}, but the label loss "
                f"'{name}' has from_logits={from_logits}. Compile with "
                f"{_to_class_name(name)}(from_logits={not from_logits})."
            )
        if activation != output_pair.activation:
            raise ValueError(
                f"The label loss '{name}' is for {activation} outputs, but the soft "
                f"targets of student '{student.name}' are read as "
                f"{output_pair.activation}. Pass "
                f'activation="{activation}" to the Distiller, or change the loss.'
            )


def check_label_arrays(y: Any, loss: Any, network: keras.Model, argument: str) -> None:
    """Check that labels fit a network's outputs and the losses that take them.

    Args:
        y: arrays; or specifications of tensors, which have shapes but no values.
        loss: what `compile` was given.
        network: a network that shows its outputs.
        argument: what a message calls the labels.

    Raises:
        ValueError: for another number of labels than outputs, for shapes that the
            losses do not take, and for class numbers out of range.
    """
    outputs = graph.get_outputs(network, None)
    flat_outputs = keras.tree.flatten(outputs)
    names = get_output_names(network, outputs)
    losses = align_losses(loss, names, len(flat_outputs))
    labels_of_outputs = align_labels(y, losses, names)
    # Every output with a loss needs labels; others may have none, as in Keras.
    if labels_of_outputs is None or any(
        one is not None and labels is None
        for one, labels in zip(losses, labels_of_outputs, strict=True)
    ):
        raise ValueError(
            f"Network '{network.name}' gives {format_array_shapes(outputs)}; received "
            f"{argument} as {format_array_shapes(y)}. Pass one array for each output "
            "with a loss, in that structure or by the names of the outputs."
        )
    for one, labels, output in zip(
        losses, labels_of_outputs, flat_outputs, strict=True
    ):
        shape = tuple(output.shape)
        spec = describe_loss(one, shape[-1])
        if labels is None or spec.activation is None:
            continue
        _check_shape(labels, shape, spec, argument)
        if spec.name.startswith("sparse"):
            ignored = getattr(one, "ignore_class", None)
            _check_classes(labels, shape[-1], ignored, spec.name, network, argument)


def check_class_weight(class_weight: Any, network: keras.Model | None) -> None:
    """Check that class weights are numbers for classes that a network has.

    Args:
        class_weight: what `fit` was given.
        network: a network that shows its outputs, or None.

    Raises:
        TypeError: if it is not a dictionary.
        ValueError: for classes that do not exist, and for weights that are no numbers.
    """
    if not isinstance(class_weight, dict):
        raise TypeError(
            "`class_weight` must be a dictionary from the number of a class to its "
            f"weight; received {class_weight!r}. For example {{0: 1.0, 1: 2.0}}."
        )
    if network is None:
        return
    outputs = keras.tree.flatten(graph.get_outputs(network, None))
    if len(outputs) != 1:
        return
    # A single unit tells two classes apart.
    classes = max(outputs[0].shape[-1], 2)
    unknown = [key for key in class_weight if key not in range(classes)]
    if unknown:
        raise ValueError(
            f"Network '{network.name}' has {classes} classes, from 0 to "
            f"{classes - 1}; received `class_weight` with {unknown}. Leave these out, "
            "or number the classes from 0."
        )
    wrong = [v for v in class_weight.values() if not isinstance(v, numbers.Real)]
    if wrong:
        raise ValueError(
            f"`class_weight` must hold a number for each class; received {wrong}. For "
            "example {0: 1.0, 1: 2.0}."
        )


def align_labels(
    y: Any, losses: Sequence[Any], names: Sequence[str] | None
) -> list[Any] | None:
    """Return the labels of each output, None if they do not fit the outputs."""
    flat = keras.tree.flatten(y)
    if isinstance(y, dict):
        try:
            return align_to_outputs(y, names, len(losses), "y")
        except ValueError:
            return None
    if len(flat) == len(losses):
        return flat
    # Keras also takes labels for those outputs alone that have a loss.
    if len(flat) != sum(loss is not None for loss in losses):
        return None
    remaining = iter(flat)
    return [None if loss is None else next(remaining) for loss in losses]


def get_shape(array: Any) -> tuple[Any, ...] | None:
    """Return the shape of an array or its specification; None if it has no rank."""
    rank = getattr(array.shape, "rank", len(tuple(array.shape or ())))
    return None if rank is None else tuple(array.shape)


def format_array_shapes(arrays: Any) -> Any:
    """Return a structure of arrays as one of shapes, to be read in a message."""
    return keras.tree.map_structure(
        lambda a: str(get_shape(a)) if hasattr(a, "shape") else repr(a), arrays
    )


def _check_shape(
    labels: Any, output: tuple[Any, ...], spec: LossSpec, argument: str
) -> None:
    shape, name, from_logits = get_shape(labels), spec.name, spec.from_logits
    is_sparse = name.startswith("sparse")
    # Keras takes any number of samples, also where an input has a fixed batch size.
    output = (None, *output[1:])
    expected = output[:-1] if is_sparse else output
    # Keras adds or drops a last dimension of 1 by itself.
    allowed = [expected, (*expected, 1)]
    if expected[-1:] == (1,):
        allowed.append(expected[:-1])
    if shape is None or any(graph.has_same_shapes([shape], [a]) for a in allowed):
        return
    if spec.activation == "linear":
        remedy = (
            "Keras would broadcast them in silence. Let the labels have the shape of "
            "the outputs."
        )
    elif is_sparse:
        one_hot = _to_class_name(name.removeprefix("sparse_"))
        remedy = (
            "For one-hot labels compile with "
            f"{one_hot}(from_logits={from_logits}), or pass y.argmax(-1)."
        )
    # Numbers of classes have one dimension fewer than one-hot labels.
    elif len(shape) < len(output) and name.startswith("categorical"):
        remedy = (
            "For numbers of classes compile with "
            f"{_to_class_name('sparse_' + name)}(from_logits={from_logits}), or pass "
            f"keras.utils.to_categorical(y, {output[-1]})."
        )
    else:
        remedy = (
            "Let the labels, and the last layers of teacher and student, have the same "
            "number of classes."
        )
    takes = "the number of a class" if is_sparse else "a number for each unit"
    raise ValueError(
        f"The label loss '{name}' takes for each sample {takes}, in the shape "
        f"{expected}; received {argument} of shape {shape}. {remedy}"
    )


def _check_classes(
    labels: Any, classes: Any, ignored: Any, name: str, network: Any, argument: str
) -> None:
    # A specification has no values: of a dataset only the first batch is looked at,
    # when `fit_stagewise` tries a step.
    if classes is None or not hasattr(labels, "__array__"):
        return
    values = np.asarray(labels)
    if ignored is not None:
        values = values[values != ignored]
    if values.dtype.kind == "f":
        # Keras would round them towards zero in silence.
        fractions = values[values != np.floor(values)]
        if fractions.size:
            raise ValueError(
                f"The label loss '{name}' takes whole numbers, those of the classes; "
                f"received {argument} with {fractions.flat[0]}. Round the labels, or "
                "compile with a loss for what they are."
            )
    # On a CPU such a class stops the step with an error, on a GPU its loss is NaN.
    if values.size and (values.min() < 0 or values.max() >= classes):
        raise ValueError(
            f"Network '{network.name}' has {classes} classes, which the label loss "
            f"'{name}' numbers from 0 to {classes - 1}; received {argument} from "
            f"{values.min()} to {values.max()}. Number the classes from 0, or give the "
            "last layers of teacher and student as many units as there are classes."
        )


def _to_class_name(name: str) -> str:
    return f"keras.losses.{name.title().replace('_', '')}"
