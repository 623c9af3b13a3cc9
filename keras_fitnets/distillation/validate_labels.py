"""Checks that labels, label loss and outputs fit together, before anything is trained.

Most of these faults are silent in Keras: a crossentropy that takes logits for
probabilities, or a class number out of range, gives a loss and gradients all the same.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import has_compiled_metrics

# What the outputs mean to each of Keras' crossentropies, by its name.
_ACTIVATION_OF_LOSS = {
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
}


def check_labels(distiller: Any, y: Any) -> None:
    """Check that a Distiller's stage has the labels, and the label loss, it needs.

    Args:
        distiller: the compiled Distiller.
        y: the labels, or None.

    Raises:
        ValueError: if labels are missing, or the label loss contradicts the outputs.
    """
    # Stage "hint" needs no labels, nor does one without label loss and metrics.
    are_labels_used = distiller.loss is not None or has_compiled_metrics(distiller)
    if distiller.stage == "hint" or not are_labels_used:
        return
    if y is None:
        raise ValueError(
            f'Stage "{distiller.stage}" needs labels, and none were passed. Pass `y`, '
            'or a dataset of (x, y); or use stage="hint", which needs none; or, '
            "for the soft targets alone, a new Distiller compiled without loss and "
            "metrics."
        )
    if distiller.loss is not None:
        check_label_loss(distiller.loss, distiller.output_pairs, distiller.student)


def check_label_loss(
    loss: Any, output_pairs: Sequence[OutputPair | None], student: keras.Model
) -> None:
    """Check that the crossentropies among the label losses fit the outputs.

    Args:
        loss: what `compile` was given.
        output_pairs: how each of the student's outputs is read; None if it is not.
        student: the student.

    Raises:
        ValueError: if one takes probabilities where the student returns logits or the
            other way round, or one class of several where its units are independent.
    """
    # A subclassed student has no `output`; its losses are matched by their order.
    losses = _loss_per_output(loss, getattr(student, "output", None), len(output_pairs))
    for one, output_pair in zip(losses, output_pairs, strict=False):
        name, from_logits = _describe_loss(one)
        if output_pair is None or name not in _ACTIVATION_OF_LOSS:
            continue
        if from_logits != output_pair.student.from_logits:
            returns = "probabilities" if from_logits else "logits"
            raise ValueError(
                f"Student '{student.name}' returns {returns}, but the label loss "
                f"'{name}' has from_logits={from_logits}. Compile with "
                f"{_to_class_name(name)}(from_logits={not from_logits})."
            )
        if _ACTIVATION_OF_LOSS[name] != output_pair.activation:
            raise ValueError(
                f"The label loss '{name}' is for {_ACTIVATION_OF_LOSS[name]} outputs, "
                f"but the soft targets of student '{student.name}' are read as "
                f"{output_pair.activation}. Pass "
                f'activation="{_ACTIVATION_OF_LOSS[name]}" to the Distiller, or change '
                "the loss."
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
    flat, flat_outputs = keras.tree.flatten(y), keras.tree.flatten(outputs)
    if isinstance(y, dict) and isinstance(outputs, dict):
        has_other_names = y.keys() != outputs.keys()
    else:
        # Keras finds the outputs of a list by the names of their layers.
        has_other_names = isinstance(y, dict) and not isinstance(outputs, list)
    if len(flat) != len(flat_outputs) or has_other_names:
        raise ValueError(
            f"Network '{network.name}' gives {format_array_shapes(outputs)}; received "
            f"{argument} as {format_array_shapes(y)}. Pass one array for each output, "
            "in that structure."
        )
    losses = _loss_per_output(loss, outputs, len(flat_outputs))
    for one, labels, output in zip(losses, flat, flat_outputs, strict=False):
        name, from_logits = _describe_loss(one)
        if labels is None or name not in _ACTIVATION_OF_LOSS:
            continue
        _check_shape(labels, tuple(output.shape), name, from_logits, argument)
        if name.startswith("sparse"):
            ignored = getattr(one, "ignore_class", None)
            _check_classes(labels, output.shape[-1], ignored, name, network, argument)


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
    labels: Any, output: tuple[Any, ...], name: str, from_logits: bool, argument: str
) -> None:
    shape = get_shape(labels)
    is_sparse = name.startswith("sparse")
    expected = output[:-1] if is_sparse else output
    # Keras adds or drops a last dimension of 1 by itself.
    allowed = [expected, (*expected, 1)]
    if expected[-1:] == (1,):
        allowed.append(expected[:-1])
    if shape is None or any(graph.has_same_shapes([shape], [a]) for a in allowed):
        return
    if is_sparse:
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
    takes = "the number of a class" if is_sparse else "a number for each class"
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


def _loss_per_output(loss: Any, outputs: Any, count: int) -> list[Any]:
    """Return the loss of each output, or [] where it cannot be told which is whose."""
    if not keras.tree.is_nested(loss):
        return [loss] * count
    # Keras may find an output by the name of its layer: nothing is checked then.
    if isinstance(loss, dict) != isinstance(outputs, dict):
        return []
    if isinstance(loss, dict):
        loss = {name: loss.get(name) for name in outputs}
    losses = keras.tree.flatten(loss)
    return losses if len(losses) == count else []


def _to_class_name(name: str) -> str:
    return f"keras.losses.{name.title().replace('_', '')}"


def _describe_loss(loss: Any) -> tuple[str, bool]:
    """Return a loss's name in snake case, and whether it takes logits."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    # A class is named in camel case, a function in snake case: the table has the
    # latter.
    if isinstance(loss, keras.losses.Loss):
        name = type(loss).__name__
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
        return snake.lstrip("_"), bool(getattr(loss, "from_logits", False))
    return getattr(loss, "__name__", ""), False
