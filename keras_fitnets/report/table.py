"""A comparison as a table: text, Markdown, HTML, a picture."""

import dataclasses
import html
import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from keras_fitnets.report.scatter import draw_scatter

_UNITS = {1: "B", 1e3: "kB", 1e6: "MB", 1e9: "GB"}


class _Column(NamedTuple):
    key: str
    title: str
    shown: Callable[[Any], str]
    ratio: str | None = None


def _size(count: float) -> str:
    unit = next(u for u in (1, 1e3, 1e6, 1e9) if count < 1000 * u or u == 1e9)
    places = max(0, 2 - int(math.log10(max(count / unit, 1)))) if unit > 1 else 0
    return f"{count / unit:.{places}f} {_UNITS[unit]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


_COLUMNS = (
    _Column("parameters", "parameters", "{:,}".format, "compression"),
    _Column(
        "multiplications", "multiplications", "{:,}".format, "multiplications_ratio"
    ),
    _Column("bytes", "size", _size, "bytes_ratio"),
    _Column("latency", "latency, ms", lambda s: f"{1e3 * s:.3g}", "speed_up"),
    _Column("throughput", "samples/s", "{:,.0f}".format, "throughput_ratio"),
    _Column("accuracy", "accuracy, %", _percent),
    _Column("agreement", "agreement, %", _percent),
    _Column("calibration_error", "calibration error, %", _percent),
)


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What `compare` has found, a row for each model.

    Shown in a notebook it is a table; `print` gives it as text. In it, `(4.9×)` says
    that the first model has 4.9 times as much, or takes 4.9 times as long.

    Args:
        rows: a dictionary for each model, as `pandas.DataFrame(report.rows)` takes
            them: `model`, its name; `parameters`; `multiplications` of one sample;
            `bytes`, of the file, or of a model's weights; `latency` in seconds at
            batch 1; `throughput` in samples per second; `accuracy`, `agreement` with
            the first model, `calibration_error`, between 0 and 1; and what the first
            model has of it for each of this one's: `compression` (parameters),
            `multiplications_ratio`, `bytes_ratio`, `speed_up` (latency),
            `throughput_ratio` (there this one's over the first's). None where there is
            nothing to tell.
        batch_size: that of the throughput.
        notes: what could not be told, and why.

    Example:

    >>> rows = [{"model": "teacher", "parameters": 2_000, "compression": 1.0},
    ...         {"model": "student", "parameters": 500, "compression": 4.0}]
    >>> print(Report(rows, batch_size=128))
             parameters
    teacher       2,000
    student  500 (4.0×)
    """

    rows: list[dict[str, Any]]
    batch_size: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        header, *body = table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in (header, *body)
        ]
        return "\n".join([*lines, *self.notes])

    def to_markdown(self) -> str:
        """The table in Markdown, the notes beneath it."""
        header, *body = self._table()
        rows = [header, ["---", *["---:"] * (len(header) - 1)], *body]
        lines = [f"| {' | '.join(_escaped(row))} |" for row in rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def to_html(self) -> str:
        """The table in HTML, as a notebook shows it."""
        header, *body = [[html.escape(cell) for cell in row] for row in self._table()]
        rows = ["".join(f"<th>{cell}</th>" for cell in header)]
        for name, *cells in body:
            right = "".join(f'<td style="text-align:right">{c}</td>' for c in cells)
            rows.append(f"<th>{name}</th>{right}")
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table>{table}</table>{notes}"

    _repr_html_ = to_html

    def plot(self, path: Any = None) -> Any:
        """Draw accuracy against multiplications, each area in proportion to parameters.

        Args:
            path: a file to draw in, as Matplotlib takes it.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: without Matplotlib.
            ValueError: if no row has accuracy, multiplications and parameters.
        """
        # Of none there is no place on a logarithmic axis, and no area.
        rows = [
            row
            for row in self.rows
            if row.get("accuracy") is not None
            and row.get("multiplications")
            and row.get("parameters")
        ]
        if not rows:
            raise ValueError(
                "There is nothing to draw: no model has accuracy, multiplications and "
                "parameters. Pass `data=(x, y)` to `compare`, and Keras models or what "
                "`export_student` returned."
            )
        return draw_scatter(rows, path)

    def _table(self) -> list[list[str]]:
        """The cells, a header first; a column of nothing is left out."""
        columns = [
            column
            for column in _COLUMNS
            if any(row.get(column.key) is not None for row in self.rows)
        ]
        titles = [column.title for column in columns]
        titles = [
            f"{title} at {self.batch_size}" if title == "samples/s" else title
            for title in titles
        ]
        body = [[row["model"], *(_cell(row, c) for c in columns)] for row in self.rows]
        return [["", *titles], *body]


def _cell(row: dict[str, Any], column: _Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "–"
    ratio = row.get(column.ratio) if column.ratio else None
    shown = column.shown(value)
    return shown if ratio in (None, 1) else f"{shown} ({_ratio(ratio)}×)"


def _ratio(ratio: float) -> str:
    return f"{ratio:.1f}" if 0.95 <= ratio < 100 else f"{ratio:.3g}"


def _escaped(cells: list[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
