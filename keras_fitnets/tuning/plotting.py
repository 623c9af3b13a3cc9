"""The trials of a search in one picture."""

from typing import Any

from keras_fitnets.tuning.spaces import NO_HINT


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
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` draws with Matplotlib, which is not installed. Install "
            "keras-fitnets[tuner]."
        ) from error
    found = tuner.oracle.get_best_trials(2**31)
    trials = [trial for trial in found if trial.status == "COMPLETED"]
    if not trials:
        raise ValueError(
            "No trial of this tuner is complete; there is nothing to draw yet. Call "
            "`tuner.search`, or make the tuner with the directory and project_name of "
            "a search, and without `overwrite=True`."
        )
    scores = [trial.score for trial in trials]
    values = [trial.hyperparameters.values for trial in trials]
    hints = sorted({value["hint"] for value in values})
    figure = Figure(figsize=(1.8 + 3.0 * len(hints), 3.6), layout="constrained")
    axes = figure.subplots(1, len(hints), sharex=True, sharey=True, squeeze=False)[0]
    for axis, hint in zip(axes, hints, strict=True):
        here = [i for i, value in enumerate(values) if value["hint"] == hint]
        shown = axis.scatter(
            [values[i]["lambda"] for i in here],
            [values[i]["temperature"] for i in here],
            c=[scores[i] for i in here],
            vmin=min(scores),
            vmax=max(scores),
            cmap="viridis",
            s=60,
            edgecolor="0.3",
            linewidth=0.5,
        )
        if 0 in here:
            place = values[0]["lambda"], values[0]["temperature"]
            ring = {"facecolor": "none", "edgecolor": "black", "linewidth": 2}
            axis.scatter(*place, s=260, **ring)
            axis.set_title(f"best: {scores[0]:.4g}", loc="right", fontsize="small")
        title = "no hint" if hint == NO_HINT else f"hint {hint}"
        axis.set_title(title, loc="left", fontsize="medium")
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    positive = min(value["lambda"] for value in values) > 0
    axes[0].set(xscale="log" if positive else "linear", yscale="log", ylabel="τ")
    for axis in axes:
        axis.set_xlabel("λ")
    figure.colorbar(shown, ax=axes, label=tuner.oracle.objective.name)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
