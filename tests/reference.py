"""The paper's losses, and a network of one hidden layer, in float64 NumPy.

Written from the formulas alone (arXiv 1412.6550, Eq. 2 and Eq. 3), so that it can
disagree with the package. Losses are one value per sample; the last axis of an output
holds its classes or units.
"""

import keras
import numpy as np

ACTIVATIONS = {
    None: lambda a: a,
    "linear": lambda a: a,
    "relu": lambda a: np.maximum(a, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(-a)),
}


def f64(array):
    # A tensor may be on another device, or hold the operations that made it.
    if keras.ops.is_tensor(array):
        array = keras.ops.convert_to_numpy(array)
    return np.asarray(array, "float64")


# Outputs


def log_softmax(logits):
    logits = f64(logits)
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def probabilities(logits, temperature=1.0, activation="softmax"):
    """P^tau."""
    scaled = f64(logits) / temperature
    return (
        np.exp(log_softmax(scaled))
        if activation == "softmax"
        else 1.0 / (1.0 + np.exp(-scaled))
    )


def to_logits(outputs, activation, from_logits):
    outputs = f64(outputs)
    if from_logits:
        return outputs
    return (
        np.log(outputs)
        if activation == "softmax"
        else np.log(outputs) - np.log1p(-outputs)
    )


# Losses


def crossentropy(targets, logits, activation="softmax"):
    """H(P, Q), of probabilities P and the logits of Q; a mean over sigmoid units."""
    logits = f64(logits)
    if activation == "softmax":
        return -np.sum(targets * log_softmax(logits), axis=-1)
    on, off = np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits)
    return np.mean(targets * on + (1.0 - targets) * off, axis=-1)


def soft_target_crossentropy(
    teacher,
    student,
    temperature=1.0,
    activation="softmax",
    from_logits=True,
    temperature_squared=False,
):
    """The second term of Eq. 2, H(P_T^tau, P_S^tau)."""
    targets = probabilities(
        to_logits(teacher, activation, from_logits), temperature, activation
    )
    values = crossentropy(
        targets, to_logits(student, activation, from_logits) / temperature, activation
    )
    return values * (temperature**2 if temperature_squared else 1.0)


def soft_target_gradient(
    teacher, student, temperature=1.0, activation="softmax", temperature_squared=False
):
    """d soft_target_crossentropy / d student, for logits: (P_S^tau - P_T^tau) / tau."""
    gap = probabilities(student, temperature, activation) - probabilities(
        teacher, temperature, activation
    )
    units = 1 if activation == "softmax" else gap.shape[-1]
    return (
        gap / (temperature * units) * (temperature**2 if temperature_squared else 1.0)
    )


def hint_loss(hint, regressed):
    """Eq. 3: half the sum of squares over every feature."""
    difference = f64(hint) - f64(regressed)
    return 0.5 * np.sum(difference**2, axis=tuple(range(1, difference.ndim)))


def hint_gradient(hint, regressed):
    """d hint_loss / d regressed."""
    return f64(regressed) - f64(hint)


def ensemble_targets(
    members, temperature, activation="softmax", average="arithmetic", weights=None
):
    """Soft targets of several teachers, given by their logits."""
    members = f64(members)
    if average == "arithmetic":
        return np.average(
            probabilities(members, temperature, activation), axis=0, weights=weights
        )
    return probabilities(
        np.average(members, axis=0, weights=weights), temperature, activation
    )


def mean_over_batch(values, sample_weight=None):
    return np.mean(values if sample_weight is None else values * f64(sample_weight))


def stage_logs(
    stage,
    label=None,
    kd=None,
    hint=None,
    lambda_=4.0,
    hint_weight=1.0,
    sample_weight=None,
):
    """What a stage logs, from each term's values; `loss` is what it minimises."""
    used = {"hint": ("hint",), "kd": ("label", "kd"), "joint": ("label", "kd", "hint")}[
        stage
    ]
    factors = {
        "label": 1.0,
        "kd": lambda_,
        "hint": 1.0 if stage == "hint" else hint_weight,
    }
    values = {"label": label, "kd": kd, "hint": hint}
    means = {name: mean_over_batch(values[name], sample_weight) for name in used}
    loss = sum(factors[name] * mean for name, mean in means.items())
    return {"loss": loss} | {f"{name}_loss": mean for name, mean in means.items()}


# Convolutions: channels last, stride 1, any number of spatial axes (none: dense)


def convolve(inputs, kernel):
    """Valid convolution as networks mean it; kernel (*sizes, channels, filters)."""
    spatial = kernel.ndim - 2
    windows = np.lib.stride_tricks.sliding_window_view(
        f64(inputs), kernel.shape[:spatial], axis=tuple(range(1, 1 + spatial))
    )
    window_axes = (
        1 + spatial,
        *range(2 + spatial, windows.ndim),
    )  # channels, then sizes
    return np.tensordot(
        windows, np.moveaxis(f64(kernel), -2, 0), (window_axes, range(1 + spatial))
    )


def convolve_transposed(inputs, kernel):
    """Each input adds its multiple of the kernel (*sizes, filters, channels)."""
    sizes = kernel.shape[:-2]
    inputs = f64(inputs)
    grown = [n + k - 1 for n, k in zip(inputs.shape[1:-1], sizes, strict=True)]
    outputs = np.zeros((len(inputs), *grown, kernel.shape[-2]))
    for position in np.ndindex(*sizes):
        place = tuple(
            slice(p, p + n) for p, n in zip(position, inputs.shape[1:-1], strict=True)
        )
        outputs[(slice(None), *place)] += inputs @ f64(kernel[position]).T
    return outputs


def maxout(inputs, pieces, axis=-1):
    return np.max(np.split(f64(inputs), pieces, axis=axis), axis=0)


# A network of one hidden layer, and what a stage makes of it


def hidden_and_logits(inputs, weights, activation):
    """A hidden layer (dense or convolutional), the mean over space, linear outputs."""
    kernel, bias, out_kernel, out_bias = map(f64, weights)
    hidden = ACTIVATIONS[activation](convolve(inputs, kernel) + bias)
    pooled = hidden.mean(axis=tuple(range(1, hidden.ndim - 1)))
    return hidden, pooled @ out_kernel + out_bias


def regress(guided, weights, activation):
    kernel, bias = weights
    return ACTIVATIONS[activation](convolve(guided, kernel) + f64(bias))


# Gradients


def central_differences(function, arrays, step=1e-5):
    """The derivatives of a function of a list of arrays, one entry at a time.

    Each result has its array's shape, followed by that of the function's value.
    """
    arrays = [f64(array).copy() for array in arrays]
    gradients = [np.zeros(array.shape + np.shape(function(arrays))) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(*array.shape):
            centre = array[index]
            array[index] = centre + step
            above = f64(function(arrays))
            array[index] = centre - step
            gradient[index] = (above - function(arrays)) / (2.0 * step)
            array[index] = centre
    return gradients
