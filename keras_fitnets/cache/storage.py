"""Columns on disk: NumPy files that appear whole or not at all, and a manifest."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import re
import uuid
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from keras_fitnets.utils.lazy import tf

LOCK = "writer.lock"
# 64 MB: a killed writer loses little, and a disk reads and writes it at full speed.
SHARD_BYTES = 2**26
_MANIFEST = "manifest.json"
# The manifest of format 1, which had all columns in one file.
_OLD_MANIFEST = "plan.json"
# Files with other names are neither read nor deleted.
_FILE = re.compile(r"(\d{5,})-(\d{2,})-([0-9a-f]{8})\.npy")
_PARTIAL = re.compile(r"[0-9a-f]{32}\.partial")


class ColumnStore:
    """Rows in columns, each column in shards of equally many rows.

    One `.npy` file holds one shard of one column. Its name says which: the number of
    the shard, that of the column, and the CRC-32 of the file. The manifest, in JSON
    and with a CRC-32 of its own, says what the columns are.

    Args:
        directory: where the files are.
        manifest: `"columns"` holds `[name, dtype, shape]` of each column,
            `"shard_size"` the number of rows in a shard, `"num_rows"` that of all
            rows. What else is in it is the caller's.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.shard_size: int = manifest["shard_size"]
        self.num_rows: int = manifest["num_rows"]
        self._dtypes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            name: (np.dtype(dtype), tuple(shape))
            for name, dtype, shape in manifest["columns"]
        }
        self._numbers = {name: number for number, name in enumerate(self._dtypes)}
        # The file of each shard and column that is there.
        self._files: dict[tuple[int, int], Path] = {}
        for path in directory.glob("*.npy"):
            parts = _FILE.fullmatch(path.name)
            if parts:
                self._files[int(parts[1]), int(parts[2])] = path

    @property
    def columns(self) -> Mapping[str, tf.TensorSpec]:
        """The specification of one row of each column."""
        return {
            name: tf.TensorSpec(shape, tf.as_dtype(dtype))
            for name, (dtype, shape) in self._dtypes.items()
        }

    @property
    def row_bytes(self) -> int:
        """The size of one row of all columns."""
        return _row_bytes(self.manifest["columns"])

    def is_complete(self) -> bool:
        """Return whether every shard of every column is there."""
        return all(map(self.has_shard, range(-(-self.num_rows // self.shard_size))))

    def has_shard(self, number: int) -> bool:
        """Return whether a shard is there, with all its columns."""
        return all((number, column) in self._files for column in self._numbers.values())

    def num_bytes(self) -> int:
        """Return the size of the files that are there."""
        return sum(path.stat().st_size for path in self._files.values())

    def fingerprint(self) -> str:
        """Return the names of all files, which hold their CRC-32."""
        return str(sorted(path.name for path in self._files.values()))

    def split(self, row: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """Split rows at the limits of the shards.

        Args:
            row: the number of the first.
            count: how many there are.

        Yields:
            The number of a shard, the part of the shard, and the part of these rows
            that goes there.
        """
        # Batches do not end where shards do: one batch may reach into several.
        done = 0
        while done < count:
            number, start = divmod(row + done, self.shard_size)
            size = min(count - done, self.shard_size - start)
            yield number, slice(start, start + size), slice(done, done + size)
            done += size

    def shard_rows(self, number: int) -> int:
        """Return how many rows a shard has; the last one may have fewer."""
        return min(self.shard_size, self.num_rows - number * self.shard_size)

    def allocate_shard(self) -> dict[str, np.ndarray]:
        """Return an array for each column, with room for a shard."""
        return {
            name: np.zeros((self.shard_size, *shape), dtype)
            for name, (dtype, shape) in self._dtypes.items()
        }

    def write_shard(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Write those columns of a shard that are not there yet."""
        for name, column in self._numbers.items():
            if (number, column) not in self._files:
                array = arrays[name][: self.shard_rows(number)]
                self._files[number, column] = self._write(number, column, array)

    @contextlib.contextmanager
    def background_writer(self) -> Iterator[Callable[[int, dict[str, Any]], None]]:
        """Give a `write_shard` that returns before the shard is on disk.

        It waits for the shard before, so that at most one is being written, and raises
        what went wrong with that one.
        """
        with futures.ThreadPoolExecutor(1) as pool:
            # At most one write is pending: a second buffer is all that the caller has.
            pending: list[futures.Future[None]] = []

            def write(number: int, arrays: dict[str, np.ndarray]) -> None:
                while pending:
                    pending.pop().result()
                pending.append(pool.submit(self.write_shard, number, arrays))

            yield write
            # The last shard has no successor that would wait for it.
            while pending:
                pending.pop().result()

    def write_manifest(self) -> None:
        """Write the manifest in one step, in place of one that is there."""
        partial = self.directory / f"{uuid.uuid4().hex}.partial"
        partial.write_text(_to_text(self.manifest))
        partial.replace(self.directory / _MANIFEST)

    def remove_partial_files(self) -> None:
        """Delete the files that killed writers did not finish."""
        for path in self.directory.iterdir():
            if _PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def check_files(self) -> None:
        """Compare each file with the CRC-32 in its name, and with the manifest.

        Raises:
            ValueError: naming a file that is damaged.
        """
        columns = list(self._dtypes.values())
        remedy = (
            "Delete this file and call `cache_teacher` as before: it writes what is "
            "missing."
        )
        for (number, column), path in sorted(self._files.items()):
            if f"{_crc_of_file(path):08x}" != path.stem.split("-")[2]:
                raise ValueError(
                    f"The cache is damaged: the CRC-32 of '{path}' is not that of what "
                    f"was written. {remedy}"
                )
            # The file is what was written, but it may belong to another manifest.
            array, known = _open_mapped(path), column < len(columns)
            dtype, shape = columns[column] if known else (None, ())
            expected = (self.shard_rows(number), *shape)
            if array.dtype != dtype or array.shape != expected:
                raise ValueError(
                    f"The cache is damaged: '{path}' holds an array of shape "
                    f"{array.shape} in {array.dtype}; by '{_MANIFEST}' it should be "
                    f"{expected} in {dtype}. {remedy}"
                )

    def read_rows(self, column: str, rows: np.ndarray) -> np.ndarray:
        """Read the rows of a column at these positions, which must all be there."""
        dtype, shape = self._dtypes[column]
        result = _allocate_aligned((len(rows), *shape), dtype)
        # A shuffled batch takes its rows from many shards.
        numbers, within = np.divmod(rows, self.shard_size)
        for number in np.unique(numbers):
            array = _open_mapped(self._files[int(number), self._numbers[column]])
            places = np.flatnonzero(numbers == number)
            if len(places) == len(rows):
                # All rows are in one shard. Unlike the default mode, "clip" lets NumPy
                # write to `out` without a copy in between; no row is out of range.
                np.take(array, within, axis=0, out=result, mode="clip")
                break
            # One row after the other: indexing with an array would copy them twice.
            for place in places:
                result[place] = array[within[place]]
        return result

    def _write(self, number: int, column: int, array: np.ndarray) -> Path:
        """Write a file under another name, then rename it: it is there or it is not."""
        # The header is made first, because the name of the file holds its checksum too.
        header = io.BytesIO()
        described = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(header, described)
        data = array.reshape(-1).view(np.uint8).data
        crc = zlib.crc32(data, zlib.crc32(header.getvalue()))
        path = self.directory / f"{number:05d}-{column:02d}-{crc:08x}.npy"
        partial = self.directory / f"{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                file.write(header.getvalue())
                file.write(data)
                file.flush()
                # Without this, a power failure could leave the name without the data.
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


@contextlib.contextmanager
def exclusive_lock(directory: Path, verbose: Any) -> Iterator[None]:
    """Keep other processes from writing to a directory, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    # The operating system releases the lock of a process that is killed.
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if verbose:
            print(f"Another process is writing to '{directory}'; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# Keep up to 256 files mapped: enough to avoid reopening, below the usual limit on open
# files.
@functools.lru_cache(maxsize=256)
def _open_mapped(path: Path) -> np.ndarray:
    # As a plain array, because a view of a `memmap` takes far longer to make.
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Read the manifest in a directory; None if the directory is new or empty.

    Raises:
        ValueError: if the manifest is damaged, or if something else is there.
    """
    path = directory / _MANIFEST
    if not path.exists():
        names = [entry.name for entry in directory.glob("*")]
        others = [n for n in names if n != LOCK and not _PARTIAL.fullmatch(n)]
        if _MANIFEST in others:
            # Another process has written it between the two looks.
            return read_manifest(directory)
        if _OLD_MANIFEST in others:
            raise ValueError(
                f"The cache in '{directory}' was made by an earlier version of "
                "keras_fitnets, in another format. Pass another directory, or delete "
                "this one to make it anew."
            )
        if others:
            raise ValueError(
                f"'{directory}' is no cache, and not empty: it holds {others[:3]}, and "
                f"no '{_MANIFEST}'. Pass an empty or a new directory, or delete this "
                "one."
            )
        return None
    # Writing what was read must give the same text, with the same checksum in it.
    try:
        text = path.read_text()
        manifest = json.loads(text)
        is_whole = _to_text(manifest) == text
    except (ValueError, TypeError, KeyError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"The cache is damaged: '{path}' is not what was written. Delete '"
            f"{directory}' and call `cache_teacher` again."
        )
    return {key: value for key, value in manifest.items() if key != "crc"}


def choose_shard_size(columns: Sequence[Any]) -> int:
    """Return how many rows make up a shard of about `SHARD_BYTES`.

    A writer that is killed loses the shards that it is at, so they must not be large;
    but many small files are slow to open.
    """
    return max(1, SHARD_BYTES // _row_bytes(columns))


def _row_bytes(columns: Sequence[Any]) -> int:
    return sum(np.dtype(dtype).itemsize * math.prod(s) for _, dtype, s in columns)


def _allocate_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an empty array on a 64-byte boundary.

    TensorFlow uses such an array as it is; it would copy any other.
    """
    count = math.prod(shape) * dtype.itemsize
    memory: np.ndarray = np.empty(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count].view(dtype).reshape(shape)


def _to_text(manifest: dict[str, Any]) -> str:
    """Return the manifest as JSON, with its own CRC-32."""
    facts = {key: value for key, value in manifest.items() if key != "crc"}
    crc = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return json.dumps({**facts, "crc": crc}, sort_keys=True) + "\n"


def _crc_of_file(path: Path) -> int:
    # Piece by piece, so that a large file does not have to fit into memory.
    crc = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            crc = zlib.crc32(part, crc)
    return crc
