"""Compare what `keras.distillation` and `keras_fitnets` compute.

    python -m benchmarks.against_keras

The program prints a Markdown table. Each row runs both packages on the same networks
and numbers; the column "true" is computed with NumPy, or known in advance.
"""

import platform
import tempfile
import warnings
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf

import keras_fitnets as kf

theirs = keras.distillation
LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(width, name, norm=False, end=None):
    layers = [keras.layers.Dense(width, "relu", name="hidden")]
    layers += [keras.layers.BatchNormalization(name="norm")] if norm else []
    layers += [keras.layers.Dense(10, end, name="out")]
    return keras.Sequential([keras.Input((64,)), *layers], name=name)


def build_pair(norm=False, width=32):
    """Return a teacher and a student that always have the same first weights."""
    keras.utils.set_random_seed(0)
    return network(width, "teacher"), network(32, "student", norm)


def keras_distiller(losses, student_loss_weight=0.0, **options):
    made = theirs.Distiller(
        *build_pair(**options), losses, student_loss_weight=student_loss_weight
    )
    made.compile("adam", LABEL_LOSS)
    return made


def our_distiller(hints=None, lambda_=1.0, label_loss=LABEL_LOSS, **options):
    made = kf.Distiller(*build_pair(**options), hints=hints, lambda_=lambda_)
    made.compile("adam", label_loss)
    return made


def digits(split):
    data = kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)
    images, labels = next(iter(data))
    return images.numpy().reshape(-1, 64), labels.numpy()


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def soft_loss():
    rng = np.random.default_rng(0)
    teacher, student = 4 * rng.normal(size=(2, 64, 10)).astype("float32")
    p, q = softmax(teacher / 3.0), softmax(student / 3.0)
    divergence = float(np.mean(np.sum(p * np.log(p / q), -1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = theirs.LogitsDistillation(temperature=3.0)
        keras_value = float(np.mean(loss.compute_loss(teacher, student)))
    entropy = kf.SoftTargetCrossentropy(3.0, temperature_squared=True)
    own = float(entropy(teacher, student) - entropy(teacher, teacher))
    return f"{keras_value:.2f}", f"{own:.2f}", f"{9 * divergence:.2f}"


def opposed_gradient():
    teacher = tf.constant([[20.0, 0.0]])
    student = tf.Variable([[-20.0, 20.0]])
    divergence = keras.losses.KLDivergence()
    keras_loss = theirs.LogitsDistillation(temperature=1.0, loss=divergence)
    values = []
    for loss in (keras_loss.compute_loss, kf.SoftTargetCrossentropy(1.0)):
        with tf.GradientTape() as tape:
            value = loss(teacher, student)
        values.append(f"{float(np.abs(tape.gradient(value, student)).max()):.3g}")
    return (*values, "1")


def trained_by_soft_targets_alone():
    train, test = digits("train"), digits("test")
    keras.utils.set_random_seed(0)
    teacher = network(256, "teacher")
    teacher.compile("adam", LABEL_LOSS)
    teacher.fit(*train, epochs=20, verbose=0)
    values = []
    for make in (
        lambda s: theirs.Distiller(
            *(teacher, s, theirs.LogitsDistillation(temperature=3.0)),
            student_loss_weight=0.0,
        ),
        lambda s: kf.Distiller(teacher, s, lambda_=1.0),
    ):
        keras.utils.set_random_seed(1)
        student = network(32, "student")
        distiller = make(student)
        distiller.compile("adam", LABEL_LOSS if values == [] else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distiller.fit(*(train if values == [] else train[:1]), epochs=20, verbose=0)
        student.compile(metrics=["accuracy"], loss=LABEL_LOSS)
        values.append(f"{100 * student.evaluate(*test, verbose=0)[1]:.1f} %")
    return (*values, "chance: 10 %")


def moved_by_evaluate():
    x, y = digits("test")
    feature = theirs.FeatureDistillation(
        teacher_layer_name="hidden", student_layer_name="hidden"
    )
    values = []
    for model in (
        keras_distiller([feature], norm=True),
        our_distiller(("hidden", "hidden"), norm=True),
    ):
        norm = model.student.get_layer("norm")
        before = norm.moving_mean.numpy()
        model.evaluate(x, y, verbose=0)
        values.append(f"{np.abs(norm.moving_mean.numpy() - before).max():.2g}")
    return (*values, "0")


def weightless_samples():
    x, y = digits("test")
    soft = theirs.LogitsDistillation(loss=keras.losses.KLDivergence())
    values = [
        model.evaluate(
            x, y, sample_weight=np.zeros(len(x)), verbose=0, return_dict=True
        )
        for model in (keras_distiller(soft), our_distiller())
    ]
    return (*[f"{logs['loss']:.3g}" for logs in values], "0")


def uneven_batches():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(101, 64)).astype("float32")
    x[100] *= 100
    y = np.zeros(101, int)
    soft = theirs.LogitsDistillation(
        temperature=3.0,
        loss=keras.losses.KLDivergence(),
    )
    values = []
    for model, name in (
        (keras_distiller(soft), "distillation_loss"),
        (our_distiller(), "kd_loss"),
    ):
        ratios = []
        for size in (100, 101):
            logs = model.evaluate(x, y, size, verbose=0, return_dict=True)
            ratios.append(next(logs[key] for key in (name, "loss") if key in logs))
        values.append(f"{ratios[0] / ratios[1]:.2f}")
    return (*values, "1")


def changed_weight():
    """Return the loss after the weight of the soft term was set to 0."""
    x, y = digits("test")
    soft = theirs.LogitsDistillation(loss=keras.losses.KLDivergence())
    values = []
    for model in (keras_distiller(soft), our_distiller(label_loss=None)):
        model.evaluate(x, y, verbose=0)
        if isinstance(model, kf.Distiller):
            model.lambda_ = 0.0
        else:
            model.distillation_loss_weights = [0.0]
        loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        values.append(f"{loss:.3g}")
    return (*values, "0")


def checkpoint_bytes():
    values = []
    soft = theirs.LogitsDistillation(loss=keras.losses.KLDivergence())
    with tempfile.TemporaryDirectory() as folder:
        for i, model in enumerate(
            (
                keras_distiller(soft, width=2048),
                our_distiller(width=2048),
                build_pair()[1],
            )
        ):
            path = Path(folder) / f"{i}.weights.h5"
            model(np.zeros((1, 64)))
            model.save_weights(path)
            values.append(f"{path.stat().st_size / 1000:.0f} kB")
    return tuple(values)


ROWS = {
    "default soft loss, τ = 3": soft_loss,
    "student trained by soft targets alone": trained_by_soft_targets_alone,
    "gradient at [-20, 20] against [20, 0]": opposed_gradient,
    "BatchNorm mean moved by `evaluate` (hint)": moved_by_evaluate,
    "loss with all sample weights 0": weightless_samples,
    "logged soft loss, batches of 100 + 1, over its mean": uneven_batches,
    "loss after the soft term's weight was set to 0": changed_weight,
    "weight file with a large teacher": checkpoint_bytes,
}


def main():
    rows = [(name, *measure()) for name, measure in ROWS.items()]
    print("\n| | keras.distillation | keras_fitnets | true |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    versions = {"Keras": keras.__version__, "TensorFlow": tf.__version__}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"\n{shown}, Python {platform.python_version()}, seed 0.")


if __name__ == "__main__":
    main()
