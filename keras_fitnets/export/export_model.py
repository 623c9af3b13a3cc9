"""Build the network that is exported: preprocessing, student and last activation."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.runtimes.arrays import name_inputs
from keras_fitnets.utils.keras_private import get_dtype_policy_name
from keras_fitnets.utils.network_state import load_state
from keras_fitnets.utils.network_state import save_state


def build_export_model(
    student: keras.Model,
    preprocessing: Any = None,
    activation: str | None = None,
    x: Any = None,
) -> keras.Model:
    """Return a network of preprocessing, student and last activation, in float32.

    Args:
        student: the network.
        preprocessing: a layer, or a list of them, in front of it.
        activation: `"softmax"` or `"sigmoid"`, behind each output.
        x: arrays `(samples, ...)` of the inputs, for a student that does not declare
            them.

    Raises:
        TypeError: if `preprocessing` is no layer.
        ValueError: if the student already ends in probabilities, if its inputs are not
            known, if there are several of them for one `preprocessing`, or if it does
            not compute in float32 and cannot be copied.
    """
    layers = _list_layers(preprocessing)
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(
            '`activation` must be "softmax", "sigmoid" or None; received '
            f"{activation!r}. Other activations belong into the student."
        )
    endings = activations.output_activations(student)
    if activation and {"softmax", "sigmoid"} & set(endings):
        raise ValueError(
            f"Student '{student.name}' already ends in "
            f"{', '.join(map(str, endings))}; received activation={activation!r}, "
            "which would be applied to probabilities. Leave it out."
        )
    student = _to_float32(student)
    inputs = _make_inputs(student, layers, x)
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    if layers:
        # Preprocessing layers may be in another precision than the student, and some,
        # such as Dropout or a random flip, act in training mode only.
        front = _to_float32(keras.Model(inputs, outputs))
        outputs = graph.call_network(front, inputs, training=False)
    # Record `training=False` in the graph. Keras' export to ONNX traces the network
    # without that argument, and behind a layer such as Resizing a network inside it
    # would then run in training mode.
    outputs = graph.call_network(student, outputs, training=False)
    if activation is not None:
        last = keras.layers.Activation(activation, dtype="float32")
        outputs = keras.tree.map_structure(last, outputs)
    return keras.Model(inputs, outputs, name=student.name)


def _make_inputs(student: keras.Model, layers: list[keras.layers.Layer], x: Any) -> Any:
    """Return new symbolic inputs in the structure that the exported network takes."""
    inputs = graph.get_inputs(student)
    if inputs is None and x is None:
        raise ValueError(
            f"Student '{student.name}', a {type(student).__name__}, does not declare "
            "its inputs. Pass `data`, whose inputs it takes."
        )
    inputs = _make_inputs_like(x) if inputs is None else inputs
    if layers and keras.tree.is_nested(inputs):
        raise ValueError(
            f"Student '{student.name}' has several inputs, and `preprocessing` is for "
            "one. Build a Functional network of both and export that."
        )
    # A network in front may take inputs of another shape or dtype than the student.
    if layers and isinstance(layers[0], keras.Model) and layers[0].built:
        front_inputs = graph.get_inputs(layers[0])
        inputs = inputs if front_inputs is None else front_inputs
    return keras.tree.map_structure(
        lambda tensor: keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name
        ),
        inputs,
    )


def _make_inputs_like(x: Any) -> Any:
    """Return symbolic inputs in the structure, shapes and dtypes of arrays."""
    names = iter(name_inputs(x))

    def make_input(array: Any) -> Any:
        # NumPy's default is float64, in which networks do not compute.
        dtype = "float32" if array.dtype.kind == "f" else str(array.dtype)
        return keras.Input(array.shape[1:], dtype=dtype, name=next(names))

    return keras.tree.map_structure(make_input, x)


def _list_layers(preprocessing: Any) -> list[keras.layers.Layer]:
    if preprocessing is None:
        return []
    is_list = isinstance(preprocessing, Sequence)
    layers = list(preprocessing) if is_list else [preprocessing]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "`preprocessing` must be a Keras layer or a list of them; received "
                f"{layer!r}. A function can go into a `keras.layers.Lambda`."
            )
    return layers


def _to_float32(network: keras.Model) -> keras.Model:
    """Return the network, or a copy in float32 if a layer computes in another float.

    LiteRT and ONNX Runtime have no float16 or bfloat16 form of many operations. What is
    to be in float16 there is a matter of `quantize`.
    """
    layers = [network, *graph.get_descendants(network)]
    other_floats = {"float16", "bfloat16", "float64"}
    if not other_floats & {layer.compute_dtype for layer in layers}:
        return network
    if not graph.is_symbolic(network):
        raise ValueError(
            f"Student '{network.name}', a {type(network).__name__}, does not compute "
            "in float32, and its code cannot be copied into that. Build it anew with "
            'dtype="float32" and give it the weights.'
        )

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(_set_float32(layer.get_config()))

    copy = keras.models.clone_model(network, clone_function=copy_layer, recursive=True)
    # Copy the state by a file. `set_weights` would leave what a layer computes from its
    # weights when they are loaded, as `Normalization` does, at its initial value, and
    # would leave out vocabularies, which are no weights.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "student.keras"
        save_state(network, file)
        load_state(copy, file)
    return copy


def _set_float32(config: Any) -> Any:
    """Return a layer's configuration with float32 in place of other floats.

    A wrapper such as `Bidirectional` has the configuration of its layer inside its own,
    hence the recursion. Policies of integers stay as they are.
    """
    if isinstance(config, list):
        return [_set_float32(value) for value in config]
    if not isinstance(config, dict):
        return config
    policy = get_dtype_policy_name(config)
    if policy is not None:
        return "float32" if "float" in policy else config
    return {key: _set_float32(value) for key, value in config.items()}
