"""Pictures: a figure of Matplotlib that a notebook shows and no window opens for."""

import io
from typing import Any


def create_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`, its size in inches.

    `pyplot` is not asked for it: this process may have its own figures, or no screen.

    Raises:
        ImportError: without Matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture is drawn with Matplotlib, which is not installed. Run "
            "`pip install matplotlib`, or install keras-fitnets[tuner]."
        ) from error

    class Picture(Figure):
        """What a notebook shows by itself, whether or not `pyplot` was imported."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Picture(figsize=(width, height), layout="constrained")


# Okabe and Ito's, which the colour-blind tell apart, in an order that print does too.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
# Each with the marker that tells it apart without its colour.
LINES = (
    *((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D")),
    *((ORANGE, "v"), (SKY, "P"), ("black", "X")),
)


def style_axis(axis: Any) -> None:
    """An axis without a frame, on a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)


def place_legend(axis: Any, **options: Any) -> None:
    """A legend to the right of an axis, where it covers nothing."""
    options = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.04), **options}
    axis.legend(frameon=False, fontsize="small", **options)


def save_figure(figure: Any, path: Any) -> Any:
    """The figure, drawn in a file too if there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
