"""Records of many examples on disk, in shards that appear whole or not at all."""

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
from concurrent import futures
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import tensorflow as tf

_MANIFEST = "plan.json"
_SHARD = re.compile(r"\d{5,}-[0-9a-f]{8}\.npy")
_PARTIAL = re.compile(r"[0-9a-f]{32}\.partial")
LOCK = "writer.lock"
SHARD_BYTES = 2**26


class Shards:
    """NumPy's `.npy` files of structured records, each with its CRC-32 in its name.

    Beside them stands a plan, in JSON, of what they hold.

    Args:
        directory: where they are.
        plan: `"fields"` holds `[name, dtype, shape]` of each field of a record,
            `"rows"` the number of records in a shard, `"records"` their number in
            all, None as long as it is not known; the rest is its maker's.
    """

    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        self.directory = directory
        self.plan = plan
        self.dtype = _record(plan["fields"])
        self.rows = plan["rows"]
        self._whole: dict[int, Path] = {}

    def are_complete(self) -> bool:
        """Whether every shard is there."""
        records = self.plan["records"]
        return records is not None and set(range(-(-records // self.rows))) <= {
            int(path.stem.split("-")[0]) for path in self._paths()
        }

    def bytes(self) -> int:
        """The size of the shards that are there."""
        return sum(path.stat().st_size for path in self._paths())

    @property
    def columns(self) -> dict[str, tf.TensorSpec]:
        """For each field the specification of one row."""
        return {
            name: tf.TensorSpec(self.dtype[name].shape, self.dtype[name].base)
            for name in self.dtype.names or ()
        }

    @property
    def num_rows(self) -> int:
        """The number of rows in all shards."""
        return self.plan["records"]

    def fingerprint(self) -> str:
        """The names of the shards, which hold their numbers and their CRC-32."""
        return str(sorted(path.name for path in self._paths()))

    def pieces(self, row: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """Where records from `row` on go: the shard, the part of it, their part."""
        done = 0
        while done < count:
            number, at = divmod(row + done, self.rows)
            size = min(count - done, self.rows - at)
            yield number, slice(at, at + size), slice(done, done + size)
            done += size

    def shard(self, number: int) -> np.ndarray | None:
        """The records of a shard, mapped into memory, or None if it is not there.

        Raises:
            ValueError: if it is damaged.
        """
        if number not in self._whole:
            for path in self._paths(f"{number:05d}"):
                self._check(path)
                self._whole[number] = path
        return _open_mapped(self._whole[number]) if number in self._whole else None

    def write(self, number: int, records: np.ndarray) -> None:
        """Put a shard there, in one instant."""
        header = io.BytesIO()
        data = records.view(np.uint8).data
        described = np.lib.format.header_data_from_array_1_0(records)
        np.lib.format.write_array_header_1_0(header, described)
        crc = zlib.crc32(data, zlib.crc32(header.getvalue()))
        path = self.directory / f"{number:05d}-{crc:08x}.npy"
        partial = self.directory / f"{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                file.write(header.getvalue())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._whole[number] = path

    @contextlib.contextmanager
    def behind(self) -> Iterator[Callable[[int, np.ndarray], None]]:
        """A `write` that does not wait for the disk, but for the shard before."""
        with futures.ThreadPoolExecutor(1) as pool:
            last: futures.Future[Any] = pool.submit(int)

            def write(number: int, records: np.ndarray) -> None:
                nonlocal last
                last.result()
                last = pool.submit(self.write, number, records)

            yield write
            last.result()

    def note(self, **facts: Any) -> None:
        """Write the plan, and these facts in it."""
        self.plan = {**self.plan, **facts}
        partial = self.directory / f"{uuid.uuid4().hex}.partial"
        partial.write_text(_text(self.plan))
        partial.replace(self.directory / _MANIFEST)

    def clean(self) -> None:
        """Delete what killed writers have left half-written."""
        for path in self.directory.iterdir():
            if _PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A field of the records at these positions, which must all be there."""
        field = self.dtype[name]
        taken = _aligned((len(rows), *field.shape), field.base)
        numbers, within = np.divmod(rows, self.rows)
        for number in np.unique(numbers):
            there = _open_mapped(self._whole[number])[name]
            # One row after the other: each is copied as one stretch of memory.
            for i in np.flatnonzero(numbers == number):
                taken[i] = there[within[i]]
        return taken

    def _paths(self, number: str = "") -> list[Path]:
        return [
            path
            for path in self.directory.glob(f"{number}*.npy")
            if _SHARD.fullmatch(path.name)
        ]

    def _check(self, path: Path) -> None:
        remedy = (
            "Delete this file and call `cache_teacher` as before: it writes what is "
            "missing."
        )
        if f"{_crc(path):08x}" != path.stem.split("-")[1]:
            raise ValueError(
                f"The cache is damaged: '{path}' is not what was written, by its "
                f"CRC-32. {remedy}"
            )
        records = _open_mapped(path)
        if records.dtype != self.dtype or len(records) > self.rows:
            raise ValueError(
                f"'{path}' holds other records than its plan '{_MANIFEST}' says. "
                f"{remedy}"
            )


@contextlib.contextmanager
def exclusive_lock(directory: Path, verbose: Any) -> Iterator[None]:
    """While no other process writes to a directory, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
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


# So many that they need not be opened again, as a rule, and so few that a process may
# have as many files open.
@functools.lru_cache(maxsize=256)
def _open_mapped(path: Path) -> np.ndarray:
    # A plain array: each view of a memmap is costly to make.
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The plan in a directory, or None if it is new or empty.

    Raises:
        ValueError: if the plan is damaged, or if something else is in the directory.
    """
    path = directory / _MANIFEST
    if not path.exists():
        names = [entry.name for entry in directory.glob("*")]
        others = [n for n in names if n != LOCK and not _PARTIAL.fullmatch(n)]
        if _MANIFEST in others:
            # Another process has just begun.
            return read_manifest(directory)
        if others:
            raise ValueError(
                f"'{directory}' is no cache, and not empty: it holds {others[:3]}, and "
                f"no '{_MANIFEST}'. Pass an empty or a new directory, or delete this "
                "one."
            )
        return None
    try:
        text = path.read_text()
        plan = json.loads(text)
        whole = _text(plan) == text
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(
            f"The cache is damaged: '{path}' is not what was written. Delete '"
            f"{directory}' and call `cache_teacher` again."
        )
    return {key: value for key, value in plan.items() if key != "crc"}


def choose_shard_size(fields: list[Any]) -> int:
    """How many records go into one shard: so many that its loss is no great loss."""
    return max(1, SHARD_BYTES // _record(fields).itemsize)


def _record(fields: list[Any]) -> np.dtype:
    named = [(name, dtype, tuple(shape)) for name, dtype, shape in fields]
    return np.dtype(named, align=True)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that TensorFlow takes as it is; another it would copy."""
    count = math.prod(shape) * dtype.itemsize
    room: np.ndarray = np.empty(count + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count].view(dtype).reshape(shape)


def _text(plan: dict[str, Any]) -> str:
    facts = {key: value for key, value in plan.items() if key != "crc"}
    crc = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return json.dumps({**facts, "crc": crc}, sort_keys=True, indent=1) + "\n"


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            crc = zlib.crc32(part, crc)
    return crc
