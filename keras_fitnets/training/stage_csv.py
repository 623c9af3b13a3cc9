"""One CSV file for all stages of a training, whose logs differ."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.distribution import multi_worker
from keras_fitnets.utils.files import read_text
from keras_fitnets.utils.files import replace_text

# What a log is where a stage does not have it, as in Keras' own files.
_MISSING = "NA"


class StageCSVLogger(keras.callbacks.Callback):
    """Writes the file of a `keras.callbacks.CSVLogger`, stage after stage.

    Keras' own callback begins its file anew with each `fit`, or appends rows below a
    header of other columns. Here the file has the columns of all stages so far, and one
    more, "stage". A run that is resumed goes on behind its last checkpoint.

    Args:
        logger: the callback that the user passed; its file, separator and `append`
            count.
    """

    def __init__(self, logger: keras.callbacks.CSVLogger) -> None:
        super().__init__()
        self._path = str(logger.filename)
        self._separator = logger.sep
        # Whether rows that are there already belong to the file.
        self._keeps_rows = bool(logger.append)
        self._stage = ""

    def begin_stage(self, name: str, epoch: int, is_resumed: bool) -> None:
        """Prepare the file for a stage.

        Args:
            name: of the stage, another one for each.
            epoch: the first epoch that the stage will log, counted from 0.
            is_resumed: whether this stage, or one before it, was run by an earlier
                call.
        """
        rows = self._read() if self._keeps_rows or is_resumed else []
        # A run that was killed after a row was written, and before the checkpoint of
        # that epoch, will write the row again.
        while rows and rows[-1]["stage"] == name and int(rows[-1]["epoch"]) >= epoch:
            rows.pop()
        self._stage = name
        self._keeps_rows = True
        self._write(rows)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = {name: _format(value) for name, value in sorted((logs or {}).items())}
        row = {"epoch": epoch, "stage": self._stage, **logs}
        self._write([*self._read(), row])

    def _read(self) -> list[dict[str, Any]]:
        """Return the rows of the file, each with all of its columns."""
        text = read_text(self._path)
        if text is None:
            return []
        lines = text.splitlines()
        rows = csv.DictReader(lines, delimiter=self._separator, restval=_MISSING)
        # A file that Keras' own callback has begun has no stages.
        return [{"stage": _MISSING, **row} for row in rows]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.model is not None:
            strategy = backend.get_strategy(self.model)
            # Several workers that write one file at the same time would damage it.
            if not multi_worker.is_chief(strategy):
                return
        columns = dict.fromkeys(["epoch", "stage"])
        for row in rows:
            columns |= dict.fromkeys(row)
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, [*columns], restval=_MISSING, delimiter=self._separator
        )
        if rows:
            writer.writeheader()
        writer.writerows(rows)
        replace_text(self._path, buffer.getvalue())


def _format(value: Any) -> Any:
    """Return a log as Keras' own callback writes it: a list in brackets."""
    # An array of one number, without an axis, can be iterated over in name alone.
    is_scalar = isinstance(value, str) or getattr(value, "ndim", None) == 0
    if isinstance(value, Iterable) and not is_scalar:
        return f"[{', '.join(map(str, value))}]"
    return value


def replace_csv_loggers(
    callbacks: Iterable[keras.callbacks.Callback], known: dict[str, StageCSVLogger]
) -> list[keras.callbacks.Callback]:
    """Return callbacks with those of Keras for CSV files replaced.

    Args:
        callbacks: of one stage. A subclass of a user's own is left as it is.
        known: the callbacks for files of other stages, by path; gets the new ones.
    """
    return [
        known.setdefault(str(callback.filename), StageCSVLogger(callback))
        if type(callback) is keras.callbacks.CSVLogger
        else callback
        for callback in callbacks
    ]
