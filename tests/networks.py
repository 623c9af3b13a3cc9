"""Networks of every build: Functional, Sequential, nested, subclassed."""

import keras
import numpy as np

SHAPE = (8, 8, 1)
CLASSES = 3
LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def block(width, prefix="conv"):
    return [
        keras.layers.Conv2D(width, 3, activation="relu", name=f"{prefix}1"),
        keras.layers.BatchNormalization(name="norm1"),
        keras.layers.Conv2D(width, 3, activation="relu", name=f"{prefix}2"),
        keras.layers.BatchNormalization(name="norm2"),
    ]


def head(end=None):
    return [
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(CLASSES, activation=end, name="out"),
    ]


def sequential(width=4, name="plain", end=None):
    return keras.Sequential([keras.Input(SHAPE), *block(width), *head(end)], name=name)


def functional(width=4, name="graph", end=None):
    inputs = keras.Input(SHAPE)
    x = inputs
    for layer in [*block(width), *head(end)]:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def nested(width=4, name="outer", backbone=sequential):
    """A network whose features are in a network of its own, "backbone"."""
    inputs = keras.Input(SHAPE)
    if backbone is sequential:
        inner = keras.Sequential([keras.Input(SHAPE), *block(width)], name="backbone")
    else:
        inner = Backbone(width, name="backbone")
    x = inner(inputs)
    for layer in head():
        x = layer(x)
    return keras.Model(inputs, x, name=name)


class Backbone(keras.layers.Layer):
    """A layer with layers inside, in attributes and in a list."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.stem, *self.rest = block(width)

    def call(self, x, training=None):
        x = self.stem(x)
        for layer in self.rest:
            layer_options = {"training": training} if "norm" in layer.name else {}
            x = layer(x, **layer_options)
        return x


class Subclassed(keras.Model):
    """A network that shows no graph."""

    def __init__(self, width=4, name="subclassed", end=None):
        super().__init__(name=name)
        self.backbone = Backbone(width, name="backbone")
        self.tail = head(end)
        self(np.zeros((1, *SHAPE)))

    def call(self, x, training=None):
        x = self.backbone(x, training=training)
        for layer in self.tail:
            x = layer(x)
        return x


@keras.saving.register_keras_serializable("networks")
class Scaled(keras.Model):
    """A subclassed network that can be saved."""

    def __init__(self, name="scaled", **options):
        super().__init__(name=name, **options)
        self.inner = sequential(2, "inner")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self(np.zeros((1, *SHAPE)))

    def call(self, x):
        return self.inner(x) * self.scale


def batch(samples=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, *SHAPE)).astype("float32")
    return x, rng.integers(CLASSES, size=samples)


def numpy_variables(model):
    """Every variable of a model by its path, moving statistics included."""
    return {variable.path: variable.numpy().copy() for variable in model.variables}


def changed(before, after):
    """The names of the layers whose variables differ in a single bit."""
    return {
        path.split("/")[-2]
        for path in before
        if before[path].tobytes() != after[path].tobytes()
    }
