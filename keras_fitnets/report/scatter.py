"""A comparison as a picture: accuracy over multiplications."""

import textwrap
from typing import Any

from keras_fitnets.utils import figures

_LINE_HEIGHT = 12  # Of a label, in points.
_LARGEST_AREA = 1500  # Of a disc, in square points.
_FIRST_COLOR = "0.35"


def draw_scatter(rows: list[dict[str, Any]], path: Any) -> Any:
    """Draw accuracy over multiplications, with areas in proportion to the parameters.

    Args:
        rows: those of a `Report`, each with accuracy, multiplications and parameters.
        path: a file to save the picture in, or None.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    figure = figures.create_figure(7, 4.2)
    axis = figure.subplots()
    most_parameters = max(row["parameters"] for row in rows)
    # A network and its quantised file often have one place. They share a disc and a
    # label there, which would otherwise lie on top of each other.
    rows_by_place: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in rows:
        place = row["multiplications"], 100 * row["accuracy"]
        rows_by_place.setdefault(place, []).append(row)
    for place, rows_here in rows_by_place.items():
        color = _FIRST_COLOR if rows[0] in rows_here else figures.BLUE
        area = _compute_area(rows_here, most_parameters)
        axis.scatter(*place, area, color=color, alpha=0.3, linewidth=0)
        # The centre, which a large disc does not show and a tiny one hides.
        axis.scatter(*place, 9, color=color)
    axis.set(
        xscale="log",
        xlabel="multiplications of a forward pass, per sample",
        ylabel="accuracy, %",
    )
    axis.set_title("area: parameters", loc="right", fontsize="small", color="0.35")
    axis.margins(0.2)
    figures.style_axis(axis)
    _place_labels(figure, axis, rows_by_place, most_parameters)
    return figures.save_figure(figure, path)


def _compute_area(rows: list[dict[str, Any]], most_parameters: int) -> float:
    """Return the area of a disc in square points, in proportion to the parameters."""
    return _LARGEST_AREA * max(row["parameters"] for row in rows) / most_parameters


def _place_labels(
    figure: Any,
    axis: Any,
    rows_by_place: dict[Any, list[dict[str, Any]]],
    most_parameters: int,
) -> None:
    """Write names beside their discs, towards the middle, and none over another."""
    # The layout decides where a place lies on the page, and is computed when drawing.
    figure.draw_without_rendering()
    lowest_free = -float("inf")
    # From the bottom up: a label moves up as far as the one below it needs.
    for place, rows in sorted(rows_by_place.items(), key=lambda item: item[0][1]):
        x, y = axis.transData.transform(place)
        is_left = axis.transAxes.inverted().transform((x, y))[0] < 0.5
        names = "; ".join(row["model"] for row in rows)
        lines = textwrap.wrap(f"{names}: {rows[0]['parameters']:,} parameters", 50)
        # Pixels to points, of which there are 72 to an inch.
        y = y * 72 / figure.dpi
        half_height = _LINE_HEIGHT * len(lines) / 2
        center = max(y, lowest_free + half_height)
        lowest_free = center + half_height
        distance = _compute_area(rows, most_parameters) ** 0.5 / 2 + 5
        label = axis.annotate(
            "\n".join(lines),
            place,
            (distance if is_left else -distance, center - y),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="center",
            fontsize="small",
        )
        # Otherwise the layout would shrink the axis to make room for the label, and
        # move the places that were just computed.
        label.set_in_layout(False)
