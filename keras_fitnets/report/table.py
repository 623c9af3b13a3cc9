"""A comparison as a table: text, Markdown or HTML."""

import dataclasses
import html
import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from keras_fitnets.report.scatter import draw_scatter

_BYTE_UNITS = {1: "B", 1e3: "kB", 1e6: "MB", 1e9: "GB"}


class _Column(NamedTuple):
    """A column of the table.

    Attributes:
        key: where a row has its value.
        title: the header.
        format: turns a value into text.
        ratio: where a row has the ratio to the first model, or None.
    """

    key: str
    title: str
    format: Callable[[Any], str]
    ratio: str | None = None


def _format_bytes(count: float) -> str:
    """Write a number of bytes with three digits, such as `8.00 MB`."""
    fitting = [unit for unit in _BYTE_UNITS if count < 1000 * unit]
    unit = fitting[0] if fitting else 1e9
    # Three digits in all, of which `digits` + 1 are before the point. Bytes are whole.
    digits = int(math.log10(max(count / unit, 1)))
    decimals = max(0, 2 - digits) if unit > 1 else 0
    return f"{count / unit:.{decimals}f} {_BYTE_UNITS[unit]}"


def _format_percentage(share: float) -> str:
    return f"{100 * share:.2f}"


def _format_milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


_COLUMNS = (
    _Column("parameters", "parameters", "{:,}".format, "compression"),
    _Column(
        "multiplications", "multiplications", "{:,}".format, "multiplications_ratio"
    ),
    _Column("bytes", "size", _format_bytes, "bytes_ratio"),
    _Column("latency", "latency, ms", _format_milliseconds, "speed_up"),
    _Column("throughput", "samples/s", "{:,.0f}".format, "throughput_ratio"),
    _Column("accuracy", "accuracy, %", _format_percentage),
    _Column("agreement", "agreement, %", _format_percentage),
    _Column("calibration_error", "calibration error, %", _format_percentage),
)


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The result of `compare`: a row for each model.

    A notebook displays it as a table, and `print` writes it as text. In it, `(4.9×)`
    means that the first model has 4.9 times as much, or takes 4.9 times as long.

    Args:
        rows: a dictionary for each model, which `pandas.DataFrame(report.rows)` takes
            as well. `model` is its name. The measurements are `parameters`;
            `multiplications` of one sample; `bytes`, of the file or of a model's
            weights; `latency` in seconds at batch size 1; `throughput` in samples per
            second; and `accuracy`, `agreement` with the first model and
            `calibration_error`, between 0 and 1. The first model's value over this
            one's is `compression` for parameters, `multiplications_ratio`,
            `bytes_ratio`, and `speed_up` for the latency; `throughput_ratio` is this
            one's over the first's. None stands for what is not known.
        batch_size: the batch size of the throughput.
        notes: what could not be measured, and why.

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
        table = self._make_cells()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for name, *cells in table:
            # Names are aligned to the left, numbers to the right.
            aligned = [name.ljust(widths[0])]
            for cell, width in zip(cells, widths[1:], strict=True):
                aligned.append(cell.rjust(width))
            lines.append("  ".join(aligned))
        return "\n".join([*lines, *self.notes])

    def to_markdown(self) -> str:
        """Return the table in Markdown, with the notes below it.

        Example:

        >>> rows = [{"model": "teacher", "parameters": 2_000}]
        >>> print(Report(rows, batch_size=128).to_markdown())
        |  | parameters |
        | --- | ---: |
        | teacher | 2,000 |
        """
        header, *body = self._make_cells()
        alignment = ["---", *["---:"] * (len(header) - 1)]
        lines = []
        for row in [header, alignment, *body]:
            # A bar inside a cell would begin another one.
            cells = [cell.replace("|", "\\|") for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def to_html(self) -> str:
        """Return the table in HTML, as a notebook displays it."""
        escaped = [[html.escape(cell) for cell in row] for row in self._make_cells()]
        header, *body = escaped
        rows = ["".join(f"<th>{cell}</th>" for cell in header)]
        for name, *cells in body:
            numbers = "".join(f'<td style="text-align:right">{c}</td>' for c in cells)
            rows.append(f"<th>{name}</th>{numbers}")
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table>{table}</table>{notes}"

    # The name under which Jupyter looks for it.
    _repr_html_ = to_html

    def plot(self, path: Any = None) -> Any:
        """Draw accuracy over multiplications, with areas in proportion to parameters.

        Args:
            path: a file to save the picture in, as `Figure.savefig` takes it.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: if Matplotlib is not installed.
            ValueError: if no row has accuracy, multiplications and parameters.
        """
        # Skip rows without multiplications or parameters: they cannot be drawn on a
        # logarithmic axis, or as an area.
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

    def _make_cells(self) -> list[list[str]]:
        """Return the table as text, the header first, without empty columns."""
        columns = [
            column
            for column in _COLUMNS
            if any(row.get(column.key) is not None for row in self.rows)
        ]
        titles = [
            f"{column.title} at {self.batch_size}"
            if column.key == "throughput"
            else column.title
            for column in columns
        ]
        body = [
            [row["model"], *(_format_cell(row, column) for column in columns)]
            for row in self.rows
        ]
        return [["", *titles], *body]


def _format_cell(row: dict[str, Any], column: _Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "–"
    text = column.format(value)
    ratio = row.get(column.ratio) if column.ratio else None
    # A ratio of 1 says nothing: it is the first model's own.
    return text if ratio in (None, 1) else f"{text} ({_format_ratio(ratio)}×)"


def _format_ratio(ratio: float) -> str:
    return f"{ratio:.1f}" if 0.95 <= ratio < 100 else f"{ratio:.3g}"
