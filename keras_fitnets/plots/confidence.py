"""How strongly teacher and labels push the student, by teacher confidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.evaluation import EvaluationData
from keras_fitnets.distillation.evaluation import StudentEvaluator
from keras_fitnets.distillation.output_specs import check_decided
from keras_fitnets.utils import figures
from keras_fitnets.utils.checks import check_number


def curriculum(
    distiller: Distiller, x: Any, y: Any, lambdas: Sequence[float], path: Any = None
) -> Any:
    """Draw how strongly the teacher pushes beside the label, by teacher confidence.

    Use it to choose λ, or the values that `LambdaAnnealing` goes through. For a student
    that knows nothing yet, whose output is the uniform `u`, the gradients of the two
    terms of Eq. 2 with respect to the logits are in the ratio

    `λ/τ · ‖P_T^τ - u‖ / ‖y - u‖`

    (times τ² with `temperature_squared`). A teacher that is unsure hardly pushes: that
    is the curriculum of Romero et al., "FitNets" (arXiv 1412.6550), section 2.4. With a
    smaller λ, the labels of such examples count for more.

    The upper panel has a point for each example and λ, at the teacher's confidence: the
    largest probability in `P_T^τ`, or for sigmoid units the mean over them of the
    larger of `p` and `1 - p`. Crosses mark examples in which the teacher disagrees with
    the label. The lower panel has the number of examples by confidence.

    Args:
        distiller: a `Distiller` of one output, in any stage, compiled or not. τ is its
            `temperature`.
        x: inputs, `(samples, ...)`, in the structure that the networks take.
        y: their labels: class numbers, `(samples,)`, or targets in the form of the
            output, `(samples, classes)`.
        lambdas: values of λ, one to five: `[annealing.value(e) for e in (0, 250, 499)]`
            are those at the beginning, in the middle and at the end of 500 epochs.
        path: a file to save the picture in, as `Figure.savefig` takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: if Matplotlib is not installed.
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
    output, activation = _find_output(distiller)
    lambdas = _check_lambdas(lambdas)
    sample = EvaluationData("curriculum", x, 32)
    sample.check(distiller)
    evaluator = StudentEvaluator(distiller, sample, "kd", None, eagerly=True)
    logits = np.concatenate(
        [evaluator.soft_logits(batch, output) for batch in evaluator.teacher_outputs]
    )
    if logits.ndim != 2:
        raise ValueError(
            "`curriculum` draws one prediction for each example; received an output of "
            f"shape {logits.shape}. Pass a Distiller whose output is (samples, "
            "classes)."
        )
    temperature = distiller.temperature
    targets = _to_targets(y, logits.shape, activation)
    soft_targets = _to_probabilities(logits / temperature, activation)
    # The gradient of either cross-entropy with respect to the logits is the student's
    # probability minus the target; for the soft targets another 1/τ comes from the
    # division of the logits by τ. The student's probability is uniform here.
    uniform = 0.5 if activation == "sigmoid" else 1 / logits.shape[1]
    label_push = np.linalg.norm(targets - uniform, axis=-1)
    # A uniform target does not push at all. NaN leaves the point out of the picture.
    label_push[label_push == 0] = np.nan
    teacher_push = np.linalg.norm(soft_targets - uniform, axis=-1) / temperature
    if distiller.temperature_squared:
        teacher_push *= temperature**2
    if activation == "sigmoid":
        confidence = np.mean(np.maximum(soft_targets, 1 - soft_targets), axis=-1)
        is_wrong = np.any((soft_targets > 0.5) != (targets > 0.5), axis=-1)
    else:
        confidence = np.max(soft_targets, axis=-1)
        is_wrong = np.argmax(soft_targets, axis=-1) != np.argmax(targets, axis=-1)
    ratio = teacher_push / label_push
    figure = _draw(confidence, ratio, is_wrong, lambdas, temperature)
    return figures.save_figure(figure, path)


def _find_output(distiller: Any) -> tuple[int, str]:
    """Return the position of the one distilled output, and its activation."""
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`curriculum` draws the soft targets of a keras_fitnets.Distiller; "
            f"received {distiller!r}. Pass the Distiller itself."
        )
    distilled = [
        (i, pair.activation)
        for i, pair in enumerate(distiller.output_pairs)
        if pair is not None
    ]
    if len(distilled) > 1:
        raise ValueError(
            f"`curriculum` draws one output; this Distiller has {len(distilled)}. Make "
            "one whose `activation` has None in the place of the others."
        )
    check_decided(distiller.output_pairs)
    if not distilled or distilled[0][1] == "linear":
        raise ValueError(
            "`curriculum` draws how sure the teacher is of its classes; the outputs of "
            f"'{distiller.student.name}' are "
            f"{'left out' if not distilled else 'numbers of a regression'}. Pass a "
            "Distiller of a classification."
        )
    return distilled[0]


def _check_lambdas(lambdas: Any) -> list[float]:
    try:
        values = [check_number("lambdas", value) for value in lambdas]
    # A LambdaAnnealing, or one number, cannot be iterated over.
    except TypeError:
        values = []
    if not 1 <= len(values) <= 5:
        raise ValueError(
            "`lambdas` must hold one to five values of λ; received "
            f"{lambdas!r:.80}. For a LambdaAnnealing pass "
            "`[annealing.value(epoch) for epoch in (0, 250, 499)]`."
        )
    return values


def _to_targets(y: Any, shape: tuple[int, int], activation: str) -> Any:
    """Return labels as targets `(samples, units)`, whatever their form.

    Unlike `runtimes.predictions.labels_to_classes` this keeps soft labels as they are:
    their distance from uniform is what is drawn.
    """
    labels = np.asarray(y)
    is_numeric = labels.dtype.kind in "biuf"
    samples, units = shape
    if is_numeric and labels.shape == shape:
        return labels.astype("float64")
    is_flat = labels.shape in ((samples,), (samples, 1))
    if is_numeric and is_flat and activation == "sigmoid" and units == 1:
        return labels.reshape(shape).astype("float64")
    if is_numeric and is_flat and activation == "softmax" and np.all(labels % 1 == 0):
        classes = labels.reshape(-1).astype(int)
        if classes.min() >= 0 and classes.max() < units:
            return np.eye(units)[classes]
    value_range = ""
    if is_numeric and is_flat:
        value_range = f", from {labels.min()} to {labels.max()}"
    raise ValueError(
        f"`y` must hold for each of {samples} samples the number of one of {units} "
        f"classes, or {units} targets, for {activation} outputs; received "
        f"{labels.dtype} of shape {labels.shape}{value_range}. Number the classes from "
        "0, or pass one-hot vectors."
    )


def _to_probabilities(logits: Any, activation: str) -> Any:
    if activation == "sigmoid":
        # sigmoid(z) = exp(-log(1 + exp(-z))); `logaddexp(0, -z)` cannot overflow.
        return np.exp(-np.logaddexp(0.0, -logits))
    # softmax(z) = softmax(z - max z), and exp(z - max z) cannot overflow.
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def _draw(
    confidence: Any, ratio: Any, is_wrong: Any, lambdas: list[float], temperature: float
) -> Any:
    """Draw the ratios of all examples above the number of examples.

    Args:
        confidence: that of the teacher, `(samples,)`.
        ratio: the teacher's push over the label's at λ = 1, `(samples,)`.
        is_wrong: whether the teacher disagrees with the label, `(samples,)`.
        lambdas: the values of λ.
        temperature: τ, for the label of the axis.
    """
    figure = figures.create_figure(7.5, 4.8)
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
    ratio_axis, count_axis = axes
    for (color, marker), value in zip(figures.LINES, lambdas, strict=False):
        ratio_axis.scatter(
            confidence,
            value * ratio,
            s=12,
            color=color,
            marker=marker,
            alpha=0.5,
            linewidth=0,
            label=f"λ = {value:g}",
        )
    # The crosses come after all points, so that none is hidden, and share one entry in
    # the legend.
    if np.any(is_wrong):
        for i, value in enumerate(lambdas):
            ratio_axis.scatter(
                confidence[is_wrong],
                value * ratio[is_wrong],
                s=40,
                color="black",
                marker="x",
                linewidth=1.2,
                label=None if i else "teacher is wrong",
            )
    ratio_axis.axhline(1.0, color="0.4", linewidth=1, linestyle="--", label="equal")
    ratio_axis.set(ylim=(0, None), ylabel="push of the teacher\n/ push of the label")
    figures.style_axis(ratio_axis)
    figures.place_legend(ratio_axis)
    _draw_counts(count_axis, confidence, is_wrong)
    count_axis.set_xlabel(f"teacher's confidence at τ = {temperature:g}, a probability")
    return figure


def _draw_counts(axis: Any, confidence: Any, is_wrong: Any) -> None:
    """Draw a histogram of the confidence, for a right and for a wrong teacher."""
    edges = np.histogram_bin_edges(confidence, bins=30)
    centers, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    # The bars of a wrong teacher are narrower: both stay visible where they overlap.
    right_style = {"width": width, "color": "0.75"}
    wrong_style = {"width": width / 2, "color": figures.VERMILLION, "hatch": "////"}
    for name, is_in, style in (
        ("right", ~is_wrong, right_style),
        ("wrong", is_wrong, wrong_style),
    ):
        axis.bar(
            centers,
            np.histogram(confidence[is_in], edges)[0],
            edgecolor="white",
            label=f"teacher is {name}: {np.sum(is_in)}",
            **style,
        )
    # On a logarithmic axis a few examples can be seen beside many.
    axis.set(yscale="log", ylim=(0.7, None), ylabel="examples")
    axis.yaxis.set_major_formatter("{x:g}")
    figures.style_axis(axis)
    figures.place_legend(axis)
