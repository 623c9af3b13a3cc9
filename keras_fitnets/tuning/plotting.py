"""The trials of a search in one picture."""

from typing import Any

from keras_fitnets.tuning.search_space import NO_HINT
from keras_fitnets.utils import figures


def plot(tuner: Any, path: Any = None) -> Any:
    """Draw the trials of a search: the objective over λ and τ, a panel for each hint.

    Args:
        tuner: the tuner of a `FitNetHyperModel`, after its search or from its project.
        path: a file to draw in, as Matplotlib takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: without Matplotlib.
        ValueError: if no trial is complete.

    Example:

    >>> import keras, keras_tuner, numpy as np, tempfile
    >>> from keras_fitnets.tuning import FitNetHyperModel
    >>> def net(*_):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> hypermodel = FitNetHyperModel(net(), net, loss=loss, metrics=["accuracy"])
    >>> data = np.ones((8, 4)), np.ones(8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuner = keras_tuner.RandomSearch(
    ...         hypermodel, "val_accuracy", max_trials=1, directory=folder
    ...     )
    ...     tuner.search(*data, validation_data=data, epochs=1, verbose=0)
    >>> [panel.get_title(loc="left") for panel in plot(tuner).axes[:-1]]
    ['no hint']
    """
    # The best trial comes first. Those that failed or still run have no score.
    oracle = tuner.oracle
    ranked = oracle.get_best_trials(len(oracle.trials))
    trials = [trial for trial in ranked if trial.status == "COMPLETED"]
    if not trials:
        raise ValueError(
            "No trial of this tuner is complete; there is nothing to draw yet. Call "
            "`tuner.search`, or make the tuner with the directory and project_name of "
            "a search, and without `overwrite=True`."
        )
    scores = [trial.score for trial in trials]
    values = [trial.hyperparameters.values for trial in trials]
    hints = sorted({value["hint"] for value in values})
    figure = figures.create_figure(1.8 + 3.0 * len(hints), 3.6)
    from matplotlib import colors
    from matplotlib import ticker

    grid: Any = figure.subplots(1, len(hints), sharex=True, sharey=True, squeeze=False)
    axes = grid[0]
    objective = oracle.objective
    # A student that learned nothing has a loss far above the others. On a linear colour
    # scale all others would look alike, so use a logarithmic one across a decade.
    spans_decade = 0 < 10 * min(scores) < max(scores)
    make_norm = colors.LogNorm if spans_decade else colors.Normalize
    norm = make_norm(min(scores), max(scores))
    bright_is_better = "viridis_r" if objective.direction == "min" else "viridis"
    for axis, hint in zip(axes, hints, strict=True):
        here = [i for i, value in enumerate(values) if value["hint"] == hint]
        points = axis.scatter(
            [values[i]["lambda"] for i in here],
            [values[i]["temperature"] for i in here],
            c=[scores[i] for i in here],
            norm=norm,
            cmap=bright_is_better,
            s=60,
            edgecolor="0.3",
            linewidth=0.5,
        )
        # Ring the best trial, which is the first one.
        if 0 in here:
            place = values[0]["lambda"], values[0]["temperature"]
            ring = {"facecolor": "none", "edgecolor": "black", "linewidth": 2}
            axis.scatter(*place, s=260, **ring)
            axis.set_title(f"best: {scores[0]:.4g}", loc="right", fontsize="small")
        title = "no hint" if hint == NO_HINT else f"hint {hint}"
        axis.set_title(title, loc="left", fontsize="medium")
        figures.style_axis(axis, has_frame=True)
    # τ is positive, and its ratios matter. So do those of λ, unless the search has 0.
    axes[0].set(yscale="log", ylabel="τ")
    if min(value["lambda"] for value in values) > 0:
        axes[0].set_xscale("log")
    # A search may span less than a decade: label 1, 2 and 5 too, in plain numbers.
    for scale in (axes[0].xaxis, axes[0].yaxis):
        if scale.get_scale() == "log":
            scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter(ticker.NullFormatter())
    for axis in axes:
        axis.set_xlabel("λ")
    figure.colorbar(points, ax=axes, label=objective.name)
    return figures.save_figure(figure, path)
