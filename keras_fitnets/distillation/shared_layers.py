"""Layers that the student has in common with its teacher.

A student may be built on the teacher's own layers, with a head of its own. Their
weights are the teacher's, so that a step must not train them; frozen, they stay as they
are, whatever the layers do in training mode.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.inspection import graph


def check_shared_layers(
    teachers: Sequence[keras.Model], layers: Sequence[keras.layers.Layer]
) -> list[Any]:
    """Return the weights that the teacher shares with what is trained.

    Seeds, as those of Dropout, are no weights: the teacher, which is run in inference
    mode, draws no random numbers.

    Args:
        teachers: the teacher's networks.
        layers: the student and the regressors.

    Raises:
        ValueError: if a shared layer is trainable, naming it.
    """
    theirs = {id(weight) for teacher in teachers for weight in teacher.weights}
    shared = {
        id(weight): weight
        for layer in layers
        for weight in layer.weights
        if id(weight) in theirs
    }
    names = [name for layer in layers for name in _list_trained(layer, shared.keys())]
    if names:
        raise ValueError(
            f"Layers {names} are the teacher's own, and trainable: training them in "
            f"'{layers[0].name}' would train the teacher. Either give the student "
            "copies, `keras.models.clone_model(...)` and `set_weights(...)`, or freeze "
            "the layers before making the Distiller: `layer.trainable = False`."
        )
    return list(shared.values())


def _list_trained(layer: keras.layers.Layer, shared: Any) -> list[str]:
    """Return the names of the innermost layers that would change shared weights."""
    trained = {id(weight) for weight in layer.trainable_variables} & set(shared)
    names = []
    for inner in [*graph.get_descendants(layer), layer]:
        own = {id(weight) for weight in inner.weights}
        # Statistics are moved by a layer that is not frozen, also where it has no
        # weights to train, or these are frozen one by one.
        is_moving = (
            isinstance(inner, keras.layers.BatchNormalization)
            and inner.trainable
            and own & set(shared)
        )
        if own & trained or is_moving:
            names.append(inner.name)
            trained -= own
    return names


def find_assigned_weights(
    student: keras.Model, inputs: Any, weights: Sequence[Any]
) -> list[Any]:
    """Return those of some frozen weights that a training pass assigns all the same.

    Spectral normalisation, or a layer of the user's own, may do so.

    Args:
        student: the student.
        inputs: its symbolic inputs.
        weights: the weights.
    """
    if not weights:
        return []
    assigned: list[Any] = []

    def run(x: Any) -> Any:
        # Within the scope assignments are noted, and none is made.
        with keras.StatelessScope() as scope:
            outputs = graph.call_network(student, x, training=True)
        assigned.extend(w for w in weights if scope.get_current_value(w) is not None)
        return outputs

    keras.layers.Lambda(run)(inputs)
    return list({id(weight): weight for weight in assigned}.values())
