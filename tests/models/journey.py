"""The way of a network through the package, and what must hold at each station."""

import keras
import networks
import numpy as np
import pytest
import reference
import tensorflow as tf

import keras_fitnets as kf

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LAMBDA, HINT_WEIGHT = 4.0, 0.01
SAMPLES, BATCH = 4, 4


def create_distiller(teacher, student, hints):
    distiller = kf.Distiller(
        teacher, student, hints, lambda_=LAMBDA, hint_weight=HINT_WEIGHT
    )
    compile_distiller(distiller)
    return distiller


def compile_distiller(distiller):
    # Other optimizers take longer than the networks, whose weights are many and small.
    distiller.compile(keras.optimizers.SGD(1e-4), LABEL_LOSS)


def evaluate(distiller, data):
    return distiller.evaluate(data, verbose=0, return_dict=True)


def fit(distiller, data):
    # Keras warns of a dataset that it was not told not to shuffle.
    distiller.fit(data, shuffle=False, verbose=0)


def to_dataset(x, y, sample_weight=None):
    columns = (x, y) if sample_weight is None else (x, y, sample_weight)
    return tf.data.Dataset.from_tensor_slices(columns).batch(BATCH)


def predict(network, x):
    # Not by `predict`, which would trace the network for this one batch.
    return np.array(network(x, training=False))


# What a step computes


def read_layer(network, path, x):
    """The outputs of the layer at a path, by a plain Keras model."""
    *owners, name = path.split("/")
    for owner in owners:
        network = network.get_layer(owner)
    inputs = network.inputs[0]
    if isinstance(x, dict):
        inputs = {tensor.name: tensor for tensor in network.inputs}
    return predict(keras.Model(inputs, network.get_layer(name).output), x)


def reference_logs(distiller, x, y, sample_weight=None, padding=None):
    """What `evaluate` must log in stage "joint", in float64.

    Labels and logits are those of samples, of steps or of pixels. `padding`, `(batch,
    steps)`, is 0 for the steps that do not count in the hint.
    """
    [teacher], student = distiller.teacher.models, distiller.student
    logits = [predict(network, x) for network in (teacher, student)]
    [pair], [regressor] = distiller.hints, distiller.regressors
    hint = read_layer(teacher, pair.hint_layer, x)
    regressed = np.array(regressor(read_layer(student, pair.guided_layer, x)))
    if padding is not None:
        hint, regressed = (a * padding[..., None] for a in (hint, regressed))
    hint_values = reference.hint_loss(hint, regressed)
    if sample_weight is not None:
        hint_values = hint_values * np.mean(sample_weight, axis=1)
    targets = np.eye(logits[0].shape[-1])[y]
    temperature = distiller.temperature
    logs = reference.stage_logs(
        "kd",
        label=reference.crossentropy(targets, logits[1]),
        kd=reference.soft_target_crossentropy(*logits, temperature),
        lambda_=LAMBDA,
        sample_weight=sample_weight,
    )
    logs["hint_loss"] = np.mean(hint_values)
    logs["loss"] += HINT_WEIGHT * logs["hint_loss"]
    return logs


def check_stages(distiller, x, y, sample_weight=None, padding=None, has_head=True):
    """Evaluate as NumPy does, and train in each stage what the stage is to train.

    A language model has no head: its end is its embedding, transposed.
    """
    data = to_dataset(x, y, sample_weight)
    expected = reference_logs(distiller, x, y, sample_weight, padding)
    assert evaluate(distiller, data) == pytest.approx(expected, rel=2e-5)
    [teacher], student = distiller.teacher.models, distiller.student
    of_teacher = networks.numpy_variables(teacher)
    for stage in ("hint", "kd", "joint"):
        distiller.stage = stage
        compile_distiller(distiller)
        before = networks.numpy_variables(student)
        fit(distiller, data)
        trained = networks.changed(before, networks.numpy_variables(student))
        assert trained
        *_, head = (layer.name for layer in student.layers if layer.weights)
        assert (head in trained) == (stage != "hint") or not has_head
    assert not networks.changed(of_teacher, networks.numpy_variables(teacher))


# What is stored


def check_cache(distiller, x, y, folder, sample_weight=None):
    """A cached teacher gives the losses of the one in the loop, but for float16."""
    data = to_dataset(x, y, sample_weight)
    cached = kf.cache_teacher(distiller, data, folder / "cache", verbose=0)
    live = evaluate(distiller, data)
    assert evaluate(distiller, cached) == pytest.approx(live, rel=2e-3)
    fit(distiller, cached.take(1))


def check_saving(distiller, x, y, folder, sample_weight=None, has_dropout=False):
    """A loaded Distiller predicts, evaluates and trains on as the saved one."""
    data = to_dataset(x, y, sample_weight)
    distiller.save(folder / "whole.keras")
    loaded = keras.saving.load_model(folder / "whole.keras")
    assert evaluate(loaded, data) == evaluate(distiller, data)
    for one in (distiller, loaded):
        fit(one, data.take(1))
    if not has_dropout:
        np.testing.assert_array_equal(predict(loaded, x), predict(distiller, x))


def check_export(student, x, folder, endings=("", ".tflite", ".onnx")):
    """The files give the student's outputs; `export_student` compares them."""
    for ending in endings:
        exported = kf.export.export_student(student, folder / f"s{ending}", data=x)
        assert exported.largest_difference < 1e-4
        assert exported.agreement == 1.0
        assert exported.parameters == student.count_params()
