"""A comparison as a picture."""

import textwrap
from typing import Any

from keras_fitnets.utils.figures import create_figure

_LINE = 12  # The height of a label, in points.


def draw_scatter(rows: list[dict[str, Any]], path: Any) -> Any:
    """Accuracy over multiplications, each area in proportion to the parameters."""
    figure = create_figure(7, 4.2)
    axis = figure.subplots()
    most = max(row["parameters"] for row in rows)
    places: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in rows:
        place = row["multiplications"], 100 * row["accuracy"]
        places.setdefault(place, []).append(row)
    for place, here in places.items():
        color = "0.35" if rows[0] in here else "#0072B2"
        area = _area(here, most)
        axis.scatter(*place, area, color=color, alpha=0.3, linewidth=0)
        axis.scatter(*place, 9, color=color)
    axis.set(
        xscale="log",
        xlabel="multiplications of a forward pass, per sample",
        ylabel="accuracy, %",
    )
    axis.set_title("area: parameters", loc="right", fontsize="small", color="0.35")
    axis.margins(0.2)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    _label(figure, axis, places, most)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _area(here: list[dict[str, Any]], most: int) -> float:
    """In square points, in proportion to the parameters."""
    return 1500 * max(row["parameters"] for row in here) / most


def _label(
    figure: Any, axis: Any, places: dict[Any, list[dict[str, Any]]], most: int
) -> None:
    """Names beside their places, towards the middle, none upon another."""
    figure.draw_without_rendering()
    taken = -float("inf")
    for place, here in sorted(places.items(), key=lambda item: item[0][1]):
        x, y = axis.transData.transform(place)
        across = axis.transAxes.inverted().transform((x, y))[0]
        side, way = ("left", 1) if across < 0.5 else ("right", -1)
        names = "; ".join(row["model"] for row in here)
        said = textwrap.wrap(f"{names}: {here[0]['parameters']:,} parameters", 50)
        half, y = _LINE * len(said) / 2, y * 72 / figure.dpi
        height = max(y, taken + half)
        taken = height + half
        label = axis.annotate(
            "\n".join(said),
            place,
            (way * (_area(here, most) ** 0.5 / 2 + 5), height - y),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize="small",
        )
        # Else the axis would make room for it.
        label.set_in_layout(False)
