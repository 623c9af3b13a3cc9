"""The two stages of a training, epoch by epoch."""

import itertools
from typing import Any

import numpy as np

from keras_fitnets.utils import figures
from keras_fitnets.utils.figures import create_figure

# By what it is learned from: labels, soft targets, hint. A marker beside each colour.
_STYLES = {
    **{f"label_{end}": (figures.BLUE, "o") for end in ("loss", "share")},
    **{f"kd_{end}": (figures.VERMILLION, "s") for end in ("loss", "share")},
    **{f"hint_{end}": (figures.GREEN, "^") for end in ("loss", "share", "r2")},
    "agreement": (figures.VERMILLION, "s"),
    "lambda": ("black", "o"),
    "temperature": (figures.ORANGE, "s"),
}


def stages(history: Any, path: Any = None) -> Any:
    """Draw the two stages of a run on one axis of epochs.

    From above: the terms of Eq. 2 and Eq. 3 of Romero et al., "FitNets" (arXiv
    1412.6550), on a logarithmic axis where they span more than a decade; the student's
    metrics, with what `StudentMonitor` logs; the terms' shares in the loss; λ and τ,
    where they were annealed. Panels without a log are left out, and so are the learning
    rate and `loss`, which moves with λ. Dashed is what `validation_data` gave; of a
    `validation_freq` the epochs are those that it validates after. Another log that has
    not one value for each epoch of its stage, as a pair of hints that has its turn, is
    not drawn.

    Args:
        history: what `fit_stagewise` returned, or anything with a
            `keras.callbacks.History` in `hint` and in `kd`.
        path: a file to draw in, as Matplotlib takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: without Matplotlib.
        TypeError: if `history` is something else.
        ValueError: if there is nothing to draw in it.

    Example:

    >>> import keras
    >>> from keras_fitnets import StagewiseHistory
    >>> hint, kd = keras.callbacks.History(), keras.callbacks.History()
    >>> hint.history = {"hint_loss": [3.0, 0.2]}
    >>> kd.history = {"label_loss": [0.9], "kd_loss": [0.8], "lambda": [4.0]}
    >>> figure = stages(StagewiseHistory(hint, kd))
    >>> [axis.get_ylabel() for axis in figure.axes]
    ['loss per sample', 'λ']
    """
    runs = _runs(history)
    epochs = [_epochs(run) for run in runs]
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        panel = _panel(name.removeprefix("val_"))
        pairs = zip(runs, epochs, strict=True)
        places = [_places(name, len(run.get(name, ())), n) for run, n in pairs]
        if panel is not None and any(place is not None for place in places):
            panels.setdefault(panel, []).append(name)
    if not panels:
        raise ValueError(
            f"`history` holds nothing to draw, but {[sorted(run) for run in runs]}. "
            "Pass what `fit_stagewise` returned, after at least one epoch."
        )
    order = [name for name in _ORDER if name in panels]
    figure = create_figure(7.5, 0.9 + sum(_ORDER[name] for name in order))
    grid: Any = figure.subplots(
        *(len(order), 1),
        sharex=True,
        squeeze=False,
        height_ratios=[_ORDER[name] for name in order],
    )
    axes = dict(zip(order, grid[:, 0], strict=True))
    for name, axis in axes.items():
        _draw(axis, panels[name], runs, epochs)
        axis.set_ylabel(name)
    if "λ" in axes:
        known = {"lambda": "λ", "temperature": "τ"}
        annealed = [sign for one, sign in known.items() if one in panels["λ"]]
        axes["λ"].set(ylabel=", ".join(annealed), ylim=(0, None))
    _mark_stages(grid[:, 0], runs, epochs)
    return figures.save_figure(figure, path)


# The panels from above, with their heights in inches.
_ORDER = {"loss per sample": 2.3, "metric": 2.0, "share of the loss": 1.4, "λ": 1.1}


def _runs(history: Any) -> list[dict[str, Any]]:
    runs: list[Any] = [
        getattr(getattr(history, name, None), "history", None)
        for name in ("hint", "kd")
    ]
    if not all(isinstance(run, dict) for run in runs):
        raise TypeError(
            "`history` must be what `fit_stagewise` returned, with a History in `hint` "
            f"and in `kd`; received {history!r:.80}. Of what one `fit` returned make "
            "StagewiseHistory(keras.callbacks.History(), history)."
        )
    return runs


def _panel(name: str) -> str | None:
    """Where a log is drawn, if it is."""
    if name in ("loss", "learning_rate", "lr"):
        return None
    if name in ("lambda", "temperature"):
        return "λ"
    if name.endswith("_share"):
        return "share of the loss"
    return "loss per sample" if name.endswith("_loss") else "metric"


def _epochs(run: dict[str, Any]) -> int:
    return max((len(values) for values in run.values()), default=0)


def _draw(axis: Any, names: list[str], runs: list[Any], epochs: list[int]) -> None:
    """Each log in both stages: a colour and a marker for each, validation dashed."""
    kinds = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    taken = [_STYLES[kind] for kind in kinds if kind in _STYLES]
    free = itertools.cycle([one for one in figures.LINES if one not in taken])
    styles = {kind: _STYLES.get(kind) or next(free) for kind in kinds}
    drawn, validated = [], False
    for name in sorted(names, key=lambda name: name.startswith("val_")):
        kind = name.removeprefix("val_")
        color, marker = styles[kind]
        of_validation = name != kind
        options = {"linestyle": "--", "markerfacecolor": "white"}
        label = None if kind in names and of_validation else kind
        for start, count, run in zip((0, epochs[0]), epochs, runs, strict=True):
            x = _places(name, len(run.get(name, ())), count)
            if x is None:
                continue
            values = np.asarray(run[name], "float64")
            axis.plot(
                start + x,
                values,
                color=color,
                marker=marker,
                markersize=4,
                linewidth=1.5,
                markevery=max(1, len(values) // 6),
                label=label,
                **(options if of_validation else {}),
            )
            label, validated = None, validated or of_validation
            drawn.append(values[np.isfinite(values)])
    found = np.concatenate(drawn or [np.zeros(0)])
    losses = any(kind.endswith("_loss") for kind in kinds)
    if losses and len(found) and 0 < 10 * found.min() < found.max():
        axis.set_yscale("log")
    figures.style_axis(axis)
    handles, labels = axis.get_legend_handles_labels()
    if validated:
        from matplotlib import lines

        handles.append(lines.Line2D([], [], color="0.4", linestyle="--"))
        labels.append("validation")
    if kinds != ["lambda"]:
        figures.place_legend(axis, handles=handles, labels=labels)


def _places(name: str, values: int, epochs: int) -> Any:
    """The epochs of a log, counted from 1, or None where they cannot be told."""
    if values in (0, epochs):
        return np.arange(1, epochs + 1) if values else None
    if not name.startswith("val_"):
        return None
    return epochs // values * np.arange(1, values + 1)


def _mark_stages(axes: Any, runs: list[Any], epochs: list[int]) -> None:
    """The border between the stages, and their names above it."""
    from matplotlib import ticker

    border = epochs[0] + 0.5
    second = "joint" if "hint_loss" in runs[1] else "kd"
    sides = {"stage 1: hint ": "right", f" stage 2: {second}": "left"}
    both = all(epochs)
    for axis in axes:
        if both:
            axis.axvline(border, color="0.5", linewidth=1, zorder=0)
        axis.set_xlim(0.5, sum(epochs) + 0.5)
    for (text, side), count in zip(sides.items(), epochs, strict=True):
        if count:
            where = border if both else 0.5
            axes[0].annotate(
                text if both else text.strip(),
                xy=(where, 1.02),
                xycoords=axes[0].get_xaxis_transform(),
                ha=side if both else "left",
                va="bottom",
                color="0.3",
            )
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
