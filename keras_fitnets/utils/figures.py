"""Figures of Matplotlib: how every picture of this package is made, styled and saved.

Matplotlib is imported when the first figure is created, not with the package: it is an
optional dependency, and slow to import.
"""

import functools
import io
from typing import Any

# The palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind
# readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
# Colours with markers: a marker identifies a curve in a print without colours.
LINES = (
    (BLUE, "o"),
    (VERMILLION, "s"),
    (GREEN, "^"),
    (PURPLE, "D"),
    (ORANGE, "v"),
    (SKY, "P"),
    ("black", "X"),
)


def create_figure(width: float, height: float) -> Any:
    """Create an empty `matplotlib.figure.Figure` that a notebook displays.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    try:
        # Not by `pyplot`: it would open windows, need a screen for some backends, and
        # keep the figure in the list of the user's own ones.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture is drawn with Matplotlib, which is not installed. Run "
            "`pip install matplotlib`, or install keras-fitnets[tuner]."
        ) from error
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    # IPython displays a plain figure only once `pyplot` was imported. Any object that
    # has this method it displays always.
    figure._repr_png_ = functools.partial(_to_png, figure)
    return figure


def _to_png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def style_axis(axis: Any, has_frame: bool = False) -> None:
    """Lay a faint grid behind the data, and remove the frame's upper and right side."""
    if not has_frame:
        axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)


def place_legend(axis: Any, **options: Any) -> None:
    """Put the legend to the right of an axis, where it covers no data."""
    options = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.04), **options}
    axis.legend(frameon=False, fontsize="small", **options)


def save_figure(figure: Any, path: Any) -> Any:
    """Write the figure to a file, unless `path` is None, and return the figure."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
