"""The network that ships: the student, with what goes before and behind it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.runtimes import arrays as samples
from keras_fitnets.utils.keras_private import get_dtype_policy_name


def build_export_model(
    student: keras.Model,
    preprocessing: Any = None,
    activation: str | None = None,
    x: Any = None,
) -> keras.Model:
    """A student that takes raw inputs, or gives probabilities; float32 throughout.

    Args:
        student: the network.
        preprocessing: a layer, or a list of them, in front of it.
        activation: `"softmax"` or `"sigmoid"`, behind each output.
        x: arrays of the inputs, for a student that does not show what it takes.

    Raises:
        TypeError: for what is no layer.
        ValueError: if the student already ends in probabilities, has several inputs
            for one `preprocessing`, or inputs that are not known.
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
    student = _to_float32(student)
    inputs = graph.get_inputs(student)
    if inputs is None and x is None:
        raise ValueError(
            f"Student '{student.name}', a {type(student).__name__}, does not show what "
            "inputs it takes. Pass `data`, whose inputs show it."
        )
    inputs = _inputs_like(x) if inputs is None else inputs
    if layers and keras.tree.is_nested(inputs):
        raise ValueError(
            f"Student '{student.name}' has several inputs, and `preprocessing` is for "
            "one. Build a Functional network of both and export that."
        )
    if layers and isinstance(layers[0], keras.Model):
        own = graph.get_inputs(layers[0]) if layers[0].built else None
        inputs = inputs if own is None else own
    inputs = outputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name), inputs
    )
    for layer in layers:
        outputs = layer(outputs)
    if layers:
        front = _to_float32(keras.Model(inputs, outputs))
        outputs = graph.call_network(front, inputs, training=False)
    # Said here: Keras' export to ONNX does not, and behind a layer such as Resizing a
    # network inside would then be run as in training.
    outputs = graph.call_network(student, outputs, training=False)
    if activation is not None:
        last = keras.layers.Activation(activation, dtype="float32")
        outputs = keras.tree.map_structure(last, outputs)
    return keras.Model(inputs, outputs, name=student.name)


def _inputs_like(x: Any) -> Any:
    """Symbolic inputs in the form of arrays."""
    names = iter(samples.name_inputs(x))

    def like(array: Any) -> Any:
        dtype = "float32" if array.dtype.kind == "f" else str(array.dtype)
        return keras.Input(array.shape[1:], dtype=dtype, name=next(names))

    return keras.tree.map_structure(like, x)


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


def _to_float32(student: keras.Model) -> keras.Model:
    """The same network, or a copy of one in a mixed precision, computing in float32."""
    layers = [student, *graph.get_descendants(student)]
    others = {"float16", "bfloat16", "float64"}
    if not others & {layer.compute_dtype for layer in layers}:
        return student
    if not graph.is_symbolic(student):
        raise ValueError(
            f"Student '{student.name}', a {type(student).__name__}, does not compute "
            "in float32, and its code cannot be copied into that. Build it anew with "
            'dtype="float32" and give it the weights.'
        )

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(_set_float32(layer.get_config()))

    clone = keras.models.clone_model(student, clone_function=copy, recursive=True)
    # By a file, since what a layer works out from its weights, as Normalization does,
    # would stay as it was with `set_weights`.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "student.weights.h5"
        student.save_weights(file)
        clone.load_weights(file)
    return clone


def _set_float32(config: Any) -> Any:
    """A layer's configuration with float32 for other floats, layers within included."""
    if isinstance(config, list):
        return [_set_float32(value) for value in config]
    if not isinstance(config, dict):
        return config
    policy = get_dtype_policy_name(config)
    if policy is not None:
        return "float32" if "float" in policy else config
    return {key: _set_float32(value) for key, value in config.items()}
