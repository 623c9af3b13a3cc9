"""The two stages of a training, epoch by epoch."""

import itertools
from typing import Any

import numpy as np

from keras_fitnets.utils import figures

# The panels from top to bottom, with their heights in inches.
_PANEL_HEIGHTS = {
    "loss per sample": 2.3,
    "metric": 2.0,
    "share of the loss": 1.4,
    "λ": 1.1,
}
_SYMBOLS = {"lambda": "λ", "temperature": "τ"}
# Colour and marker by what the student learns from: labels, soft targets or hint. The
# same term looks the same in every panel.
_STYLES = {
    "label_loss": (figures.BLUE, "o"),
    "label_share": (figures.BLUE, "o"),
    "kd_loss": (figures.VERMILLION, "s"),
    "kd_share": (figures.VERMILLION, "s"),
    "hint_loss": (figures.GREEN, "^"),
    "hint_share": (figures.GREEN, "^"),
    "hint_r2": (figures.GREEN, "^"),
    "agreement": (figures.VERMILLION, "s"),
    "lambda": ("black", "o"),
    "temperature": (figures.ORANGE, "s"),
}


def stages(history: Any, path: Any = None) -> Any:
    """Draw the two stages of a run on one axis of epochs.

    Use it after `fit_stagewise`, to see whether stage 1 was long enough, and how the
    terms of the loss went in stage 2. From top to bottom the panels are:

    - the terms of Eq. 2 and Eq. 3 of Romero et al., "FitNets" (arXiv 1412.6550), on a
      logarithmic axis where they span more than a decade;
    - the student's metrics, with what `StudentMonitor` logs;
    - the shares of the terms in the loss;
    - λ and τ, where they were annealed.

    A panel without a log is left out. So are the learning rate, and `loss`, which moves
    with λ. Curves of `validation_data` are dashed; with a `validation_freq` their
    epochs are those after which it was validated. A log that does not have one value
    for each epoch of its stage, such as that of a pair of hints trained in turn with
    others, cannot be placed and is not drawn.

    Args:
        history: what `fit_stagewise` returned, or any object that has a
            `keras.callbacks.History` as `hint` and one as `kd`.
        path: a file to save the picture in, as `Figure.savefig` takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `history` is something else.
        ValueError: if there is nothing in it to draw.

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
    runs = _get_logs(history)
    epochs = [_count_epochs(logs) for logs in runs]
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(itertools.chain(*runs)):
        panel = _choose_panel(name.removeprefix("val_"))
        has_epochs = any(
            _find_epochs(name, len(logs.get(name, ())), count) is not None
            for logs, count in zip(runs, epochs, strict=True)
        )
        if panel is not None and has_epochs:
            panels.setdefault(panel, []).append(name)
    if not panels:
        raise ValueError(
            f"`history` has nothing to draw; received {[sorted(logs) for logs in runs]}"
            ". Pass what `fit_stagewise` returned, after at least one epoch."
        )
    order = [name for name in _PANEL_HEIGHTS if name in panels]
    heights = [_PANEL_HEIGHTS[name] for name in order]
    figure = figures.create_figure(7.5, 0.9 + sum(heights))
    grid: Any = figure.subplots(
        len(order), 1, sharex=True, squeeze=False, height_ratios=heights
    )
    axes = dict(zip(order, grid[:, 0], strict=True))
    for name, axis in axes.items():
        _draw_panel(axis, panels[name], runs, epochs)
        axis.set_ylabel(name)
    if "λ" in axes:
        symbols = [sign for name, sign in _SYMBOLS.items() if name in panels["λ"]]
        axes["λ"].set(ylabel=", ".join(symbols), ylim=(0, None))
    _mark_stages(grid[:, 0], runs, epochs)
    return figures.save_figure(figure, path)


def _get_logs(history: Any) -> list[dict[str, Any]]:
    """Return the logs of stage 1 and of stage 2."""
    runs: list[Any] = [
        getattr(getattr(history, name, None), "history", None)
        for name in ("hint", "kd")
    ]
    if not all(isinstance(logs, dict) for logs in runs):
        raise TypeError(
            "`history` must be what `fit_stagewise` returned, with a History in `hint` "
            f"and in `kd`; received {history!r:.80}. For what one `fit` returned pass "
            "StagewiseHistory(keras.callbacks.History(), history)."
        )
    return runs


def _choose_panel(name: str) -> str | None:
    """Return the panel in which a log is drawn, or None if it is left out."""
    if name in ("loss", "learning_rate", "lr"):
        return None
    if name in _SYMBOLS:
        return "λ"
    if name.endswith("_share"):
        return "share of the loss"
    return "loss per sample" if name.endswith("_loss") else "metric"


def _count_epochs(logs: dict[str, Any]) -> int:
    return max((len(values) for values in logs.values()), default=0)


def _find_epochs(name: str, values: int, epochs: int) -> Any:
    """Return the epochs of a log's values, from 1 on, or None if they are unknown.

    Args:
        name: the log's name.
        values: the number of its values.
        epochs: the number of epochs of its stage.
    """
    if values == 0:
        return None
    if values == epochs:
        return np.arange(1, epochs + 1)
    # Fewer values than epochs come from `validation_freq=n`: one after every n epochs.
    if name.startswith("val_"):
        return epochs // values * np.arange(1, values + 1)
    return None


def _draw_panel(
    axis: Any, names: list[str], runs: list[Any], epochs: list[int]
) -> None:
    """Draw the logs of one panel in both stages."""
    # A log and its validation share a style; what has none of its own takes the next
    # one that is free in this panel.
    bases = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    used = [_STYLES[base] for base in bases if base in _STYLES]
    unused = itertools.cycle([style for style in figures.LINES if style not in used])
    styles = {base: _STYLES.get(base) or next(unused) for base in bases}
    curves, has_validation = [np.zeros(0)], False
    for name in sorted(names, key=lambda name: name.startswith("val_")):
        base = name.removeprefix("val_")
        color, marker = styles[base]
        is_validation = name != base
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.5}
        if is_validation:
            style |= {"linestyle": "--", "markerfacecolor": "white"}
        # One entry in the legend for a log in both stages, and none for its validation.
        label = None if base in names and is_validation else base
        for start, count, logs in zip((0, epochs[0]), epochs, runs, strict=True):
            x = _find_epochs(name, len(logs.get(name, ())), count)
            if x is None:
                continue
            values = np.asarray(logs[name], "float64")
            marker_step = max(1, len(values) // 6)
            axis.plot(start + x, values, markevery=marker_step, label=label, **style)
            label = None
            has_validation = has_validation or is_validation
            curves.append(values[np.isfinite(values)])
    drawn_values = np.concatenate(curves)
    has_losses = any(base.endswith("_loss") for base in bases)
    # Only positive values that span more than a decade gain from a logarithmic axis.
    if has_losses and drawn_values.size:
        low, high = drawn_values.min(), drawn_values.max()
        axis.set_yscale("log" if 0 < 10 * low < high else "linear")
    figures.style_axis(axis)
    handles, labels = axis.get_legend_handles_labels()
    if has_validation:
        from matplotlib import lines

        handles.append(lines.Line2D([], [], color="0.4", linestyle="--"))
        labels.append("validation")
    # The label of the axis already says that the only curve is λ.
    if bases != ["lambda"]:
        figures.place_legend(axis, handles=handles, labels=labels)


def _mark_stages(axes: Any, runs: list[Any], epochs: list[int]) -> None:
    """Draw the border between the stages, and write their names above it."""
    from matplotlib import ticker

    has_both = all(epochs)
    # The border lies between the last epoch of stage 1 and the first one of stage 2.
    border = epochs[0] + 0.5
    for axis in axes:
        if has_both:
            axis.axvline(border, color="0.5", linewidth=1, zorder=0)
        axis.set_xlim(0.5, sum(epochs) + 0.5)
    second = "joint" if "hint_loss" in runs[1] else "kd"
    # The spaces keep the names away from the border between them.
    sides = {"stage 1: hint ": "right", f" stage 2: {second}": "left"}
    for (text, side), count in zip(sides.items(), epochs, strict=True):
        if count:
            axes[0].annotate(
                text if has_both else text.strip(),
                xy=(border if has_both else 0.5, 1.02),
                xycoords=axes[0].get_xaxis_transform(),
                ha=side if has_both else "left",
                va="bottom",
                color="0.3",
            )
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
