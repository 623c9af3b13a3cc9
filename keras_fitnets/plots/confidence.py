"""λ's curriculum: whom the teacher's confidence lets push, and how hard."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.evaluation import EvaluationData
from keras_fitnets.distillation.evaluation import StudentEvaluator
from keras_fitnets.utils import figures
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.figures import create_figure


def curriculum(
    distiller: Distiller, x: Any, y: Any, lambdas: Sequence[float], path: Any = None
) -> Any:
    """Draw how hard the teacher pushes beside the label, over how sure it is.

    On a student that knows nothing yet, whose output is uniform, `u`, the gradients of
    the two terms of Eq. 2 in the logits are in the ratio

    `λ/τ · ‖P_T^τ - u‖ / ‖y - u‖`

    (times τ² with `temperature_squared`). A teacher that is unsure hardly pushes: that
    is the curriculum of Romero et al., "FitNets" (arXiv 1412.6550), section 2.4, and
    a smaller λ lets the labels of such examples count for more. Each example is a
    point for each λ, at the teacher's confidence, the largest of `P_T^τ` (of sigmoid
    units the mean over them of the larger of `p` and `1 - p`). Below, how many
    examples there are; those where the teacher chooses otherwise than the label are
    marked.

    Args:
        distiller: a `Distiller` of one output, in any stage, compiled or not. τ is its
            own.
        x: inputs, `(samples, ...)`, in the structure that the networks take.
        y: their labels: the numbers of classes, `(samples,)`, or targets like the
            output, `(samples, classes)`.
        lambdas: values of λ, one to five: `[annealing.value(e) for e in (0, 250, 499)]`
            are those at the beginning, in the middle and at the end of 500 epochs.
        path: a file to draw in, as Matplotlib takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: without Matplotlib.
        TypeError: if `distiller` is no Distiller, or `x` no array.
        ValueError: for several outputs, for labels or values of λ that do not fit, and
            for inputs that the networks do not take.

    Example:

    >>> import keras, numpy as np
    >>> def net(width):
    ...     hidden = keras.layers.Dense(width)
    ...     return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3)])
    >>> x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 3
    >>> figure = curriculum(Distiller(net(16), net(2)), x, y, lambdas=[4.0, 1.0])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()][:2]
    ['λ = 4', 'λ = 1']
    """
    output, activation = _output_of(distiller)
    lambdas = _checked(lambdas)
    sample = EvaluationData("curriculum", x, 32)
    sample.check(distiller)
    look = StudentEvaluator(distiller, sample, "kd", None, eagerly=True)
    soft = [
        look.soft_logits(teacher_outputs, output)
        for teacher_outputs in look.teacher_outputs
    ]
    logits, temperature = np.concatenate(soft), distiller.temperature
    if logits.ndim != 2:
        raise ValueError(
            "`curriculum` draws one answer for each example; the output has the shape "
            f"{logits.shape}. Pass a Distiller whose output is (samples, classes)."
        )
    targets = _targets(y, logits.shape, activation)
    said = _probabilities(logits / temperature, activation)
    uniform = 0.5 if activation == "sigmoid" else 1 / logits.shape[1]
    label = np.linalg.norm(targets - uniform, axis=-1)
    # A target that is uniform itself does not push at all.
    label[label == 0] = np.nan
    ratio = np.linalg.norm(said - uniform, axis=-1) / label / temperature
    if distiller.temperature_squared:
        ratio *= temperature**2
    if activation == "sigmoid":
        confidence = np.mean(np.maximum(said, 1 - said), axis=-1)
        wrong = np.any((said > 0.5) != (targets > 0.5), axis=-1)
    else:
        confidence = np.max(said, axis=-1)
        wrong = np.argmax(said, axis=-1) != np.argmax(targets, axis=-1)
    figure = _drawn(confidence, ratio, wrong, lambdas, temperature)
    return figures.save_figure(figure, path)


def _output_of(distiller: Any) -> tuple[int, str]:
    """The position of the output that is drawn, and its activation."""
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`curriculum` draws what the teacher of a keras_fitnets.Distiller says; "
            f"received {distiller!r}."
        )
    pairs = enumerate(distiller.output_pairs)
    used = [(i, pair.activation) for i, pair in pairs if pair is not None]
    if len(used) > 1:
        raise ValueError(
            f"`curriculum` draws one output; this Distiller has {len(used)}. Make one "
            "whose `activation` has None in the place of the others."
        )
    return used[0]


def _checked(lambdas: Any) -> list[float]:
    try:
        values = [check_number("lambdas", value) for value in lambdas]
    except TypeError:
        values = []
    if not 1 <= len(values) <= 5:
        raise ValueError(
            "`lambdas` must hold one to five values of λ; received "
            f"{lambdas!r:.80}. Of a LambdaAnnealing pass "
            "`[annealing.value(epoch) for epoch in (0, 250, 499)]`."
        )
    return values


def _targets(y: Any, shape: tuple[int, int], activation: str) -> Any:
    """Labels as they stand beside the probabilities."""
    labels = np.asarray(y)
    numeric = labels.dtype.kind in "biuf"
    samples, units = shape
    if numeric and labels.shape == shape:
        return labels.astype("float64")
    flat = labels.shape in ((samples,), (samples, 1))
    if numeric and flat and activation == "sigmoid" and units == 1:
        return labels.reshape(shape).astype("float64")
    if numeric and flat and activation == "softmax" and np.all(labels % 1 == 0):
        numbers = labels.reshape(-1).astype(int)
        if numbers.min() >= 0 and numbers.max() < units:
            return np.eye(units)[numbers]
    raise ValueError(
        f"`y` must hold for each of {samples} samples the number of one of {units} "
        f"classes, or {units} targets; received {labels.dtype} of shape {labels.shape}"
        + (f", from {labels.min()} to {labels.max()}" if numeric and flat else "")
        + f", for {activation} outputs."
    )


def _probabilities(logits: Any, activation: str) -> Any:
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -logits))
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return shifted / np.sum(shifted, axis=-1, keepdims=True)


def _drawn(
    confidence: Any, ratio: Any, wrong: Any, lambdas: list[float], temperature: float
) -> Any:
    figure = create_figure(7.5, 4.8)
    grid: Any = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
    above, below = grid
    for i, value in enumerate(lambdas):
        above.scatter(
            confidence,
            value * ratio,
            s=12,
            color=figures.LINES[i][0],
            marker=figures.LINES[i][1],
            alpha=0.5,
            linewidth=0,
            label=f"λ = {value:g}",
        )
    for i, value in enumerate(lambdas if np.any(wrong) else ()):
        above.scatter(
            confidence[wrong],
            value * ratio[wrong],
            s=40,
            color="black",
            marker="x",
            linewidth=1.2,
            label=None if i else "teacher is wrong",
        )
    above.axhline(1.0, color="0.4", linewidth=1, linestyle="--", label="equal")
    above.set(ylim=(0, None), ylabel="push of the teacher\n/ push of the label")
    figures.style_axis(above)
    figures.place_legend(above)
    _count(below, confidence, wrong)
    below.set_xlabel(f"teacher's confidence at τ = {temperature:g}, a probability")
    return figure


def _count(axis: Any, confidence: Any, wrong: Any) -> None:
    """How many examples there are; a few beside many can be seen on a log axis."""
    bins = np.histogram_bin_edges(confidence, bins=30)
    middles, width = (bins[:-1] + bins[1:]) / 2, bins[1] - bins[0]
    bars = {
        "right": (~wrong, {"width": width, "color": "0.75"}),
        "wrong": (
            wrong,
            {"width": width / 2, "color": figures.VERMILLION, "hatch": "////"},
        ),
    }
    for name, (which, options) in bars.items():
        heights = np.histogram(confidence[which], bins)[0]
        label = f"teacher is {name}: {np.sum(which)}"
        axis.bar(middles, heights, edgecolor="white", label=label, **options)
    axis.set(yscale="log", ylim=(0.7, None), ylabel="examples")
    axis.yaxis.set_major_formatter("{x:g}")
    figures.style_axis(axis)
    figures.place_legend(axis)
