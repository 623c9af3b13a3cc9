"""Shards that hold the examples of a source with the teacher's teacher_pass."""

import errno
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fitnets.cache.source import PARTS
from keras_fitnets.cache.source import ExampleSource
from keras_fitnets.cache.source import has_same_bits
from keras_fitnets.cache.storage import Shards
from keras_fitnets.cache.storage import choose_shard_size
from keras_fitnets.cache.storage import read_manifest
from keras_fitnets.cache.teacher_pass import TeacherPass
from keras_fitnets.cache.teacher_pass import format_column
from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.cached_dataset import is_among

FORMAT = 1


class CacheWriter:
    """A cache on disk: whether it fits, what it lacks, and what it gives back.

    Args:
        directory: where it is, or is to be.
        source: the examples that it is of.
        teacher_pass: the teacher that it is of.
        views: how many views of each example are in it.
    """

    def __init__(
        self,
        directory: Path,
        source: ExampleSource,
        teacher_pass: TeacherPass,
        views: int,
    ) -> None:
        self.directory = directory
        self._source = source
        self._teacher_pass = teacher_pass
        self._views = views
        self._shards: Shards | None = None

    def is_complete(self) -> bool:
        """Whether all is there, by what the directory says now.

        Raises:
            ValueError: if what is there is damaged, or belongs to something else.
        """
        self._shards = None
        plan = read_manifest(self.directory)
        if plan is None:
            return False
        if plan.get("format") != FORMAT:
            self._reject("Another version of keras_fitnets has made it.")
        shards = Shards(self.directory, plan)
        if plan["records"] is None and not shards.bytes():
            # Whoever began it was refused, or killed, before there was anything.
            return False
        self._check(plan)
        self._shards = shards
        return shards.are_complete()

    def run(self, verbose: Any) -> None:
        """Compare the examples that are there, and write those that are missing."""
        shards, teacher_pass = self._shards or self._create(), self._teacher_pass
        complete = shards.are_complete()
        if not complete:
            shards.clean()
            self._check_disk_space(shards, verbose)
        batches = self._source.batches
        bar = keras.utils.Progbar(batches, unit_name="batch", verbose=bool(verbose))
        with shards.behind() as write:
            row = self._run(shards, complete, write, bar)
        if shards.plan["records"] not in (row, None):
            self._reject(f"It holds {shards.plan['records']} examples, not {row}.")
        if not complete:
            shards.note(records=row)
            if verbose:
                print(*teacher_pass.rounding_report(), sep="\n")

    def _run(
        self, shards: Shards, complete: bool, write: Callable[..., None], bar: Any
    ) -> int:
        """All batches; the number of examples in them."""
        teacher_pass = self._teacher_pass
        # One is filled while the other is written.
        rooms = itertools.cycle([np.zeros(shards.rows, shards.dtype) for _ in "ab"])
        row, pending = 0, None
        for batch in self._source if complete else self._source.iterate_and_verify():
            said: dict[str, np.ndarray] = {}
            size = len(next(iter(batch.values())))
            for number, there, here in shards.pieces(row, size):
                known = shards.shard(number)
                if known is not None:
                    self._compare(known[there], batch, here, row)
                    if row == here.start == 0:
                        said = teacher_pass(self._source.pack(batch)[0])
                        self._spot_check_teacher(known[there], said, here)
                    continue
                said = said or teacher_pass(self._source.pack(batch)[0])
                if pending is None:
                    pending = next(rooms)
                for name, array in {**batch, **said}.items():
                    if array.shape[1:] != pending[name].shape[1:]:
                        raise ValueError(
                            f"The teacher's {format_column(name)} has the shape "
                            f"{pending[name].shape[1:]} in one batch and "
                            f"{array.shape[1:]} in another. Give all inputs one shape."
                        )
                    pending[name][there] = array[here]
                if there.stop == shards.rows:
                    write(number, pending)
                    pending = None
            row += size
            bar.add(1)
        if pending is not None:
            write(row // shards.rows, pending[: row % shards.rows])
        return row

    def dataset(self, shuffle: bool, seed: int, batch_size: int) -> CachedDataset:
        """What `fit` takes."""
        assert self._shards is not None
        return CachedDataset(
            self._shards,
            self._source.pack,
            [name for name, *_ in self._source.fields],
            self._teacher_pass.names,
            views=self._views,
            shuffle=shuffle,
            seed=seed,
            batch_size=batch_size,
        )

    def _create(self) -> Shards:
        source = self._source
        inputs = source.pack(source.first)[0]
        fields = [*source.fields, *self._teacher_pass.fields(inputs)]
        facts = {"format": FORMAT, "views": self._views, "records": None}
        self._shards = Shards(
            self.directory,
            {**facts, "fields": fields, "rows": choose_shard_size(fields)},
        )
        self._shards.note()
        return self._shards

    def _check_disk_space(self, shards: Shards, verbose: Any) -> None:
        """Say how much is to be written, and see whether there is room for it."""
        records = self._source.batches * self._source.batch_size
        needed = records * shards.dtype.itemsize
        missing = needed - shards.bytes()
        if verbose:
            print(
                f"The teacher's outputs on about {records:,} examples: "
                f"{_format_size(needed)} in '{self.directory}', "
                f"{_format_size(missing)} of them still"
                " to be written."
            )
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise OSError(
                errno.ENOSPC,
                f"The cache needs {_format_size(missing)}, and there are "
                f"{_format_size(free)} free. "
                "Make room, pass a directory on another disk, or cache fewer hints or "
                "views",
                str(self.directory),
            )

    def _compare(
        self, known: np.ndarray, batch: dict[str, np.ndarray], here: slice, row: int
    ) -> None:
        for name, array in batch.items():
            if not has_same_bits(known[name], array[here]):
                self._reject(
                    f"Its {name.split()[0]} from example {row + here.start} on are "
                    "others than those of `dataset`, which must come unshuffled, or in "
                    "one order, and with the same `augment`."
                )

    def _spot_check_teacher(
        self, known: np.ndarray, said: dict[str, np.ndarray], here: slice
    ) -> None:
        """Compare what the teacher says now: its code is in no fingerprint."""
        for name, array in said.items():
            if name in (known.dtype.names or ()) and array.dtype != bool:
                then, now = (
                    np.asarray(a, "float64") for a in (known[name], array[here])
                )
                # As far apart as another precision or size of batch can bring them.
                margin = 0.02 * np.max(np.abs(then), where=np.isfinite(then), initial=0)
                if not np.allclose(now, then, rtol=0, atol=margin):
                    self._reject(f"The teacher now says another {format_column(name)}.")

    def _check(self, plan: dict[str, Any]) -> None:
        """Compare the plan of a cache with what is asked of it."""
        asked, views = self._teacher_pass, self._views
        parts = [field for field in plan["fields"] if field[0].split()[0] in PARTS]
        if parts != self._source.fields:
            self._reject(
                f"Its examples are {parts}, those of `dataset` {self._source.fields}."
            )
        if plan["views"] != views:
            self._reject(
                f"It holds {plan['views']} view(s) of each example, not {views}."
            )
        said = {name: dtype for name, dtype, _ in plan["fields"][len(parts) :]}
        members = {name.split()[0] for name in said}
        if not members >= set(asked.fingerprints):
            self._reject(
                f"It is of another teacher: of the networks {sorted(members)}, by their"
                f" weights and layers, and this one has {asked.fingerprints}."
            )
        layers = sorted(map(format_column, said))
        for member, what in asked.names:
            name = f"{member} {what}"
            if name not in said:
                self._reject(f"It has no '{what}', but {layers}.")
            if what.startswith("hint ") and np.dtype(said[name]) != asked.hint_dtype:
                self._reject(
                    f"It holds hints in {np.dtype(said[name])}; you asked for "
                    f"hint_dtype={asked.hint_dtype!r}."
                )
        known = all(is_among(name, asked.names) for name in said)
        if plan["records"] is None and not known:
            self._reject(
                f"It is unfinished, and was begun with {layers}; go on with the same "
                "hints."
            )

    def _reject(self, reason: str) -> None:
        raise ValueError(
            f"The cache in '{self.directory}' does not belong to this call. {reason} "
            "Pass another directory, or delete this one to make it anew."
        )


def _format_size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
