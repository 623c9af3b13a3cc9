"""The network that ships: the student, with what goes before and behind it."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets import activations
from keras_fitnets import structure


def shipped(
    student: keras.Model, preprocessing: Any = None, activation: str | None = None
) -> keras.Model:
    """A student that takes raw inputs, or gives probabilities; float32 throughout.

    Args:
        student: the network.
        preprocessing: a layer, or a list of them, in front of it.
        activation: `"softmax"` or `"sigmoid"`, behind each output.

    Raises:
        TypeError: for what is no layer.
        ValueError: if the student already ends in probabilities, or has several inputs
            for one `preprocessing`.
    """
    layers = _layers(preprocessing)
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(
            '`activation` must be "softmax", "sigmoid" or None; received '
            f"{activation!r}."
        )
    ends = activations.output_activations(student)
    if activation and {"softmax", "sigmoid"} & set(ends):
        raise ValueError(
            f"Student '{student.name}' ends in {', '.join(map(str, ends))} already, so "
            f"activation={activation!r} would see probabilities. Leave it out."
        )
    student = _in_float32(student)
    inputs = structure.inputs_of(student)
    if inputs is None and not layers and activation is None:
        return student
    if inputs is None:
        raise ValueError(
            f"The inputs of student '{student.name}', a {type(student).__name__}, "
            "cannot be seen, so nothing can be put before or behind it. Wrap it in a "
            "Functional network first."
        )
    if layers and keras.tree.is_nested(inputs):
        raise ValueError(
            f"Student '{student.name}' has several inputs, and `preprocessing` is for "
            "one. Build a Functional network of both and export that."
        )
    first = structure.inputs_of(layers[0]) if _is_network(layers[:1]) else inputs
    inputs = x = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name), first
    )
    for layer in layers:
        x = layer(x)
    # Said here: Keras' export to ONNX does not, and behind a layer such as Resizing a
    # network inside would then be run as in training.
    outputs = structure.run(student, x, training=False)
    if activation is not None:
        outputs = keras.tree.map_structure(keras.layers.Activation(activation), outputs)
    return keras.Model(inputs, outputs, name=student.name)


def _layers(preprocessing: Any) -> list[keras.layers.Layer]:
    if preprocessing is None:
        return []
    several = isinstance(preprocessing, Sequence)
    layers = list(preprocessing) if several else [preprocessing]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "`preprocessing` must be a Keras layer or a list of them; received "
                f"{layer!r}. A function can go into a `keras.layers.Lambda`."
            )
    return layers


def _is_network(layers: list[keras.layers.Layer]) -> bool:
    return any(isinstance(layer, keras.Model) for layer in layers)


def _in_float32(student: keras.Model) -> keras.Model:
    """The same network, or a copy of one in a mixed precision, computing in float32."""
    layers = [student, *structure.descendants(student)]
    if {layer.compute_dtype for layer in layers} <= {"float32"}:
        return student
    if not structure.is_symbolic(student):
        raise ValueError(
            f"Student '{student.name}', a {type(student).__name__}, does not compute "
            "in float32, and its code cannot be copied into that. Build it anew with "
            'dtype="float32" and give it the weights.'
        )

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(student, clone_function=copy, recursive=True)
    clone.set_weights(student.get_weights())
    return clone
