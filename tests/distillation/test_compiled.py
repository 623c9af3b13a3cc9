"""What a TPU asks of a step: it compiles whole, in static shapes, and does the same."""

import re

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

import keras_fitnets as kf

# XLA takes seconds to compile a step.
pytestmark = pytest.mark.slow

SAMPLES = 8
# What runs on the host, or gives results whose shape their values decide.
HOST_OPERATIONS = re.compile("PyFunc|Print|String|Dataset|Iterator|Infeed|Outfeed")
HOST_INSTRUCTIONS = re.compile(r"\b(?:infeed|outfeed|send|recv)(?:-done)?\(")
DYNAMIC_SHAPES = re.compile(r"<=\d|\b[sg]et-dimension-size\(|ToDynamic|ToStatic")


def graphs(graph):
    """A graph and those of the functions that it calls, however deep."""
    yield graph
    for operation in graph.get_operations():
        for attribute in operation.node_def.attr.values():
            for function in [attribute.func, *attribute.list.func]:
                if function.name:
                    yield from graphs(graph._get_function(function.name).graph)


def assert_on_device(graph):
    """Nothing in a graph that TensorFlow has traced is the host's or unknown."""
    for inner in graphs(graph):
        for operation in inner.get_operations():
            assert not HOST_OPERATIONS.search(operation.type), operation
            for tensor in operation.outputs:
                assert tensor.shape.is_fully_defined(), operation


def assert_compiles(step, *arguments, optimised=True):
    """Nor is anything in what XLA makes of it, before and after its optimisation."""
    ir = tf.function(step, jit_compile=True).experimental_get_compiler_ir(*arguments)
    for stage in ("hlo", "optimized_hlo")[: 1 + optimised]:
        text = ir(stage=stage)
        assert text.startswith("HloModule")
        assert not HOST_INSTRUCTIONS.search(text), stage
        assert not DYNAMIC_SHAPES.search(text), stage
        # No step of ours needs a library; a call back to Python would look like one.
        assert "custom-call" not in text, stage


# Networks


class Dropout(keras.layers.Dropout):
    """Drops by whole numbers: from one seed, XLA and TensorFlow draw differently."""

    def call(self, inputs, training=False):
        if not training:
            return inputs
        seed = keras.ops.sum(keras.ops.cast(self.seed_generator.next(), "int64"))
        places = np.arange(np.prod(inputs.shape)).reshape(inputs.shape)
        keep = (seed % 1000 + places) * 7919 % 101 >= int(101 * self.rate)
        return inputs * keras.ops.cast(keep, inputs.dtype)


def layers(width, dropout):
    return [*networks.block(width)[:2], dropout(0.3, name="drop"), *networks.head()]


def functional(width, name, dropout):
    inputs = x = keras.Input(networks.SHAPE)
    for layer in layers(width, dropout):
        x = layer(x)
    return keras.Model(inputs, x, name=name)


class Subclassed(keras.Model):
    """The same network, without a graph."""

    def __init__(self, width, name, dropout):
        super().__init__(name=name)
        self.parts = layers(width, dropout)
        self(np.zeros((1, *networks.SHAPE)))

    def call(self, x, training=None):
        for layer in self.parts:
            mode = {"training": training} if layer.name[:4] in ("drop", "norm") else {}
            x = layer(x, **mode)
        return x


NETWORKS = {"functional": functional, "subclassed": Subclassed}


def distiller(
    stage,
    build="functional",
    members=1,
    optimizer="adam",
    policy="float32",
    dropout=keras.layers.Dropout,
    factor=1.0,
    **options,
):
    """The pair of hints "norm1" runs through a convolution and a normalisation."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        teachers = [functional(5 - i, f"teacher{i}", dropout) for i in range(members)]
        student = NETWORKS[build](3, "student", dropout)
        made = kf.Distiller(
            kf.Teacher(teachers, from_logits=True),
            student,
            hints=kf.Hint("norm1", "norm1", member=members - 1),
            stage=stage,
            from_logits=True,
            learning_rate_factor=factor,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    made.compile(optimizer, networks.LABEL_LOSS, metrics=["accuracy"], **options)
    return made


def arrays(weighted=True):
    x, y = networks.batch(SAMPLES)
    weight = np.linspace(0.0, 2.0, SAMPLES, dtype="float32")
    return (x, y.astype("int32"), weight) if weighted else (x, y.astype("int32"))


# The checks themselves


def detour(x):
    return tf.py_function(lambda a: 2 * a, [x], x.dtype)


def detour_by_numpy(x):
    return tf.ensure_shape(tf.numpy_function(lambda a: 2 * a, [x], x.dtype), x.shape)


def printed(x):
    tf.print(x)
    return x


def inside_a_branch(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: detour_by_numpy(x), lambda: x)


def positive(x):
    return tf.reduce_sum(tf.boolean_mask(x, x > 0))


def places(x):
    return tf.where(x > 0)


def some(x):
    return tf.reduce_sum(x[: tf.cast(tf.reduce_max(x), tf.int32)])


@pytest.mark.parametrize(
    "step",
    [detour, detour_by_numpy, printed, inside_a_branch, positive, places, some],
    ids=lambda step: step.__name__,
)
def test_the_checks_see_host_calls_and_dynamic_shapes(step):
    x = tf.constant([3.0, -1.0, 2.0])
    with pytest.raises(AssertionError):
        assert_on_device(tf.function(step).get_concrete_function(x).graph)
    # Of a slice XLA itself makes a static shape and a mask.
    if step is not some:
        with pytest.raises((AssertionError, ValueError)) as refused:
            assert_compiles(step, x)
        if refused.type is ValueError:
            assert "unsupported operations" in str(refused.value)


def test_the_checks_let_a_harmless_step_pass():
    x = tf.constant([3.0, -1.0, 2.0])
    assert_on_device(tf.function(lambda x: tf.square(x)).get_concrete_function(x).graph)
    assert_compiles(lambda x: tf.square(x), x)


# Each stage on the device


MAKES = {
    "float32": {"build": "subclassed", "members": 2, "factor": 0.5},
    "float16": {"policy": "mixed_float16"},
    "bfloat16": {"policy": "mixed_bfloat16"},
}


@pytest.mark.parametrize(
    ("stage", "make"), [("joint", "float32"), ("hint", "float16"), ("kd", "float16")]
)
def test_a_step_is_static_and_needs_no_host(stage, make):
    made = distiller(stage, **MAKES[make])
    half = make == "float16"
    assert half == isinstance(made.optimizer, keras.optimizers.LossScaleOptimizer)
    data = tuple(tf.constant(a) for a in arrays(weighted=not half))
    for step in (made.train_step, made.test_step):
        assert_on_device(tf.function(step).get_concrete_function(data).graph)
    # Its optimisation takes XLA longer than all the rest.
    assert_compiles(made.train_step, data, optimised=not half)


def test_a_step_on_masked_sequences_compiles():
    """Its loops hold places for inputs of no shape, of which XLA makes nothing."""

    def network(width, name):
        x = inputs = keras.Input((5,))
        x = keras.layers.Embedding(9, 4, mask_zero=True)(x)
        x = keras.layers.GRU(width, return_sequences=True, name="hidden")(x)
        x = keras.layers.Dense(networks.CLASSES)(keras.layers.GRU(width)(x))
        return keras.Model(inputs, x, name=name)

    hints = ("hidden", "hidden")
    made = kf.Distiller(network(4, "teacher"), network(2, "student"), hints=hints)
    made.compile("adam", networks.LABEL_LOSS)
    x = np.random.default_rng(0).integers(9, size=(SAMPLES, 5))
    data = (tf.constant(x), tf.constant(arrays()[1]))
    assert_compiles(made.train_step, data, optimised=False)


def test_a_batch_of_unknown_size_is_dynamic():
    """Hence a TPU is to be fed with `drop_remainder=True`."""
    made = distiller("joint")
    specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays()]
    step = tf.function(made.train_step).get_concrete_function(tuple(specs))
    with pytest.raises(AssertionError):
        assert_on_device(step.graph)


# A compiled step does what the uncompiled one does


def state(made):
    return [v.numpy() for v in [*made.variables, *made.optimizer.variables]]


def seeds(made):
    return [v.numpy().tolist() for v in made.variables if "seed" in v.path]


def assert_same(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for ours, other in zip(actual, expected, strict=True):
        margin = tolerance * max(1.0, np.max(np.abs(other)))
        np.testing.assert_allclose(ours, other, rtol=0, atol=margin)


# XLA rounds once to half precision where TensorFlow rounds after every operation.
ROUNDING = {"float32": 3e-5, "float16": 5e-3, "bfloat16": 3e-2}


@pytest.mark.parametrize(
    ("stage", "make"),
    [("joint", "float32"), ("joint", "float16"), ("kd", "bfloat16")],
)
def test_a_compiled_step_equals_the_uncompiled_one(stage, make):
    logs, states = [], []
    for jit_compile in (False, True):
        optimizer = keras.optimizers.Adam(0.01)
        if make == "float16":
            # The default scale overflows, and the step would be left out.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8)
        made = distiller(
            *(stage,),
            optimizer=optimizer,
            dropout=Dropout,
            jit_compile=jit_compile,
            **MAKES[make],
        )
        kernel, dropped = made.student.get_weights()[0], seeds(made)
        for _ in range(2):
            log = made.train_on_batch(*arrays(), return_dict=True)
        assert np.all(made.student.get_weights()[0] != kernel)
        assert (seeds(made) != dropped) == (stage != "hint")
        logs.append(log)
        states.append(state(made))
    assert logs[0].keys() == logs[1].keys()
    assert_same(list(logs[1].values()), list(logs[0].values()), ROUNDING[make])
    assert_same(states[1], states[0], ROUNDING[make])


def test_both_stages_fit_compiled_as_uncompiled():
    """The stages "hint" and "kd" in float32; the test above has all terms at once."""
    x, y, weight = arrays()
    histories, states = [], []
    for jit_compile in (False, True):
        made = distiller(
            "kd", optimizer="sgd", dropout=Dropout, jit_compile=jit_compile
        )
        assert made.jit_compile is jit_compile
        history = kf.fit_stagewise(
            *(made, x, y, 1, 2),
            sample_weight=weight,
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=2)],
            batch_size=SAMPLES // 2,
            shuffle=False,
            verbose=0,
        )
        histories.append({**history.hint.history, **history.kd.history})
        states.append(state(made))
    assert histories[1]["lambda"] == [4.0, 1.0]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, 1e-5, err_msg=name)
    assert_same(states[1], states[0], 1e-5)
