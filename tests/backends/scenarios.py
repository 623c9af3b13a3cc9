"""Trainings whose every number is to be the same on each backend of Keras.

`python scenarios.py PRECISION FILE` runs them on the backend that is set, and writes
logs and weights. No number here is rounded by float32: where Keras rounds its
arguments to it, as TensorFlow does, that is to change nothing.
"""

import sys

import keras
import numpy as np

BATCH, SAMPLES = 8, 16
RATE = 2**-6


def set_precision(precision):
    if precision == "float64":
        from keras.src.backend.common import dtypes

        # Keras itself takes float32 for the result of float64 on JAX and PyTorch.
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
        keras.config.set_floatx("float64")
    elif precision != "float32":
        keras.config.set_dtype_policy(precision)


def fill(network, seed):
    """Give a network weights that depend on no backend's random numbers."""
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        if "seed" in variable.path:
            continue
        values = rng.normal(scale=0.4, size=variable.shape)
        variable.assign(1 + np.abs(values) if "variance" in variable.path else values)
    return network


def dense(width, outputs=3, activation=None):
    layers = keras.layers
    return [
        layers.Dense(width, "tanh", name="low"),
        layers.BatchNormalization(momentum=0.875, epsilon=2**-10, name="norm"),
        layers.Dense(width, "tanh", name="high"),
        layers.Dense(outputs, activation, name="out"),
    ]


def network(width, seed, **options):
    layers = [keras.Input((6,)), *dense(width, **options)]
    return fill(keras.Sequential(layers), seed)


def images(width, seed):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="low")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(width, 3, strides=width // 4 + 1, activation="relu", name="high")(
        x
    )
    x = layers.GlobalAveragePooling2D()(x)
    return fill(keras.Model(inputs, layers.Dense(3, name="out")(x)), seed)


def sequences(width, seed):
    layers = keras.layers
    inputs = keras.Input((5, 4))
    x = layers.Masking()(inputs)
    x = layers.Dense(width, "tanh", name="high")(x)
    return fill(keras.Model(inputs, layers.Dense(3, name="out")(x)), seed)


def two_outputs(width, seed):
    layers = keras.layers
    inputs = keras.Input((6,))
    x = layers.Dense(width, "tanh", name="high")(inputs)
    outputs = {
        "kind": layers.Dense(3, name="kind")(x),
        "tags": layers.Dense(2, "sigmoid", name="tags")(x),
    }
    return fill(keras.Model(inputs, outputs), seed)


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.low, self.norm, self.high, self.out = dense(width)

    def call(self, x, training=None):
        x = self.low(x)
        x = self.norm(x, training=training)
        return self.out(self.high(x))


def subclassed(width, seed):
    made = Subclassed(width)
    made(np.zeros((1, 6)))
    return fill(made, seed)


def data(shape=(6,), classes=(), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SAMPLES, *shape))
    return x, rng.integers(3, size=(SAMPLES, *classes))


def sgd(**options):
    return keras.optimizers.SGD(RATE, momentum=0.875, **options)


def adam(**options):
    return keras.optimizers.Adam(
        RATE / 4, beta_1=0.875, beta_2=0.96875, epsilon=2**-20, **options
    )


def rmsprop():
    return keras.optimizers.RMSprop(RATE / 4, rho=0.875, epsilon=2**-20)


def adamw():
    return keras.optimizers.AdamW(
        RATE / 4, weight_decay=2**-4, beta_1=0.875, beta_2=0.96875, epsilon=2**-20
    )


def sparse():
    # Not made earlier: a loss computes in the precision that was set when it was made.
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distil(kf, make, hints=("high", "high"), optimizer=sgd, loss=None, **options):
    teacher = options.pop("teacher", None) or make(8, 1)
    distiller = kf.Distiller(teacher, make(4, 2), hints, hint_weight=0.125, **options)
    for i, regressor in enumerate(distiller.regressors):
        fill(regressor, 3 + i)
    metrics = ["accuracy"] if loss is None else None
    distiller.compile(optimizer(), sparse() if loss is None else loss, metrics=metrics)
    return distiller


def stage(name, optimizer=sgd):
    return lambda kf: (distil(kf, network, stage=name, optimizer=optimizer), data(), {})


def weighted(kf):
    weights = np.random.default_rng(5).uniform(size=SAMPLES)
    return distil(kf, network), data(), {"sample_weight": weights}


def masked(kf):
    x, y = data((5, 4), (5,))
    x[1::2, 3:] = 0
    return distil(kf, sequences), (x, y), {}


def ensemble(average):
    def make(kf):
        teacher = kf.Teacher([network(8, 1), network(8, 4)], average=average)
        hint = kf.Hint("high", "high", member=1)
        return distil(kf, network, hint, teacher=teacher), data(), {}

    return make


def annealed(kf):
    callbacks = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=4),
        kf.TemperatureAnnealing(4.0, 2.5, epochs=4),
    ]
    return distil(kf, network), data(), {"callbacks": callbacks}


def several_outputs(kf):
    x, y = data()
    rng = np.random.default_rng(6)
    labels = {"kind": y, "tags": rng.integers(2, size=(SAMPLES, 2))}
    losses = {"kind": sparse(), "tags": "binary_crossentropy"}
    return distil(kf, two_outputs, loss=losses), (x, labels), {}


def slower(kf):
    model = distil(kf, network, stage="kd", optimizer=adamw, learning_rate_factor=0.125)
    return model, data(), {}


def probabilities(kf):
    def make(width, seed):
        return network(width, seed, activation="softmax")

    loss = keras.losses.SparseCategoricalCrossentropy()
    return distil(kf, make, loss=loss), data(), {}


def clipped(kf):
    def optimizer():
        return adam(global_clipnorm=0.125)

    return distil(kf, network, optimizer=optimizer), data(), {}


def accumulated(kf):
    def optimizer():
        return sgd(gradient_accumulation_steps=2)

    return distil(kf, network, optimizer=optimizer), data(), {}


def of_images(kf):
    return distil(kf, images), data((8, 8, 3)), {}


def of_a_class(kf):
    model = distil(kf, subclassed, teacher=network(8, 1), from_logits=True)
    return model, data(), {}


SCENARIOS = {
    "hint": stage("hint"),
    "kd": stage("kd", adam),
    "joint": stage("joint", rmsprop),
    "weight decay": stage("hint", adamw),
    "sample weights": weighted,
    "masks": masked,
    "arithmetic ensemble": ensemble("arithmetic"),
    "geometric ensemble": ensemble("geometric"),
    "annealed": annealed,
    "several outputs": several_outputs,
    "learning rate factor": slower,
    "probabilities": probabilities,
    "clipped gradients": clipped,
    "accumulated gradients": accumulated,
    "images": of_images,
    "a subclassed student": of_a_class,
}
IN_HALF_PRECISION = (
    "kd",
    "joint",
    "masks",
    "several outputs",
    "probabilities",
    "images",
)


def run(name, precision):
    """Train ten steps, and return logs, weights, and what `evaluate` gives then."""
    import keras_fitnets as kf

    distiller, (x, y), options = SCENARIOS[name](kf)
    kind = "float64" if precision == "float64" else "float32"
    x = x.astype(kind)
    before = [w.copy() for m in distiller.teacher.models for w in m.get_weights()]
    epochs = 4 if "callbacks" in options else 5
    history = distiller.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, **options
    )
    found = {f"log {log}": np.array(values) for log, values in history.history.items()}
    logs = distiller.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
    found |= {f"evaluate {log}": np.array(value) for log, value in logs.items()}
    weights = [v for v in distiller.variables if "seed" not in v.path]
    found |= {
        f"weight {i}": keras.ops.convert_to_numpy(keras.ops.cast(v, "float64"))
        for i, v in enumerate(weights)
    }
    after = [w for m in distiller.teacher.models for w in m.get_weights()]
    assert all(map(np.array_equal, before, after))
    return found


if __name__ == "__main__":
    precision, path = sys.argv[1:]
    # Half precision is rounded in the networks, whatever is done with their outputs.
    names = SCENARIOS if precision.startswith("float") else IN_HALF_PRECISION
    found = {}
    for name in names:
        keras.utils.clear_session()
        set_precision(precision)
        found |= {f"{name}: {k}": v for k, v in run(name, precision).items()}
    np.savez(path, **found)
