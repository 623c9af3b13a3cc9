"""What the pictures have in common: colours, markers, and the way to a file."""

from typing import Any

# Okabe and Ito's, which the colour-blind tell apart, in an order that print does too.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILLION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
# Each with the marker that tells it apart without its colour.
LINES = (
    *((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D")),
    *((ORANGE, "v"), (SKY, "P"), ("black", "X")),
)


def plain(axis: Any) -> None:
    """An axis without a frame, on a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)


def beside(axis: Any, **options: Any) -> None:
    """A legend to the right of an axis, where it covers nothing."""
    options = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.04), **options}
    axis.legend(frameon=False, fontsize="small", **options)


def finished(figure: Any, path: Any) -> Any:
    """The figure, drawn in a file too if there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
