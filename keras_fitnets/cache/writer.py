"""Shards that hold the examples of a passage with the teacher's answers."""

import errno
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.cache.teacher_pass import Answers
from keras_fitnets.cache.teacher_pass import shown
from keras_fitnets.cache.source import PARTS
from keras_fitnets.cache.source import Passage
from keras_fitnets.cache.source import same
from keras_fitnets.cache.reader import Replay
from keras_fitnets.cache.reader import is_of
from keras_fitnets.cache.storage import Shards
from keras_fitnets.cache.storage import read_plan
from keras_fitnets.cache.storage import rows_of

FORMAT = 1


class Cache:
    """A cache on disk: whether it fits, what it lacks, and what it gives back.

    Args:
        directory: where it is, or is to be.
        passage: the examples that it is of.
        answers: the teacher that it is of.
        views: how many views of each example are in it.
    """

    def __init__(
        self, directory: Path, passage: Passage, answers: Answers, views: int
    ) -> None:
        self.directory = directory
        self._passage = passage
        self._answers = answers
        self._views = views
        self._shards: Shards | None = None

    def is_complete(self) -> bool:
        """Whether all is there, by what the directory says now.

        Raises:
            ValueError: if what is there is damaged, or belongs to something else.
        """
        self._shards = None
        plan = read_plan(self.directory)
        if plan is None:
            return False
        if plan.get("format") != FORMAT:
            self._refuse("Another version of keras_fitnets has made it.")
        shards = Shards(self.directory, plan)
        if plan["records"] is None and not shards.bytes():
            # Whoever began it was refused, or killed, before there was anything.
            return False
        self._check(plan)
        self._shards = shards
        return shards.are_complete()

    def go_through(self, verbose: Any) -> None:
        """Compare the examples that are there, and write those that are missing."""
        shards, answers = self._shards or self._begun(), self._answers
        complete = shards.are_complete()
        if not complete:
            shards.clean()
            self._announce(shards, verbose)
        batches = self._passage.batches
        bar = keras.utils.Progbar(batches, unit_name="batch", verbose=bool(verbose))
        with shards.behind() as write:
            row = self._go_through(shards, complete, write, bar)
        if shards.plan["records"] not in (row, None):
            self._refuse(f"It holds {shards.plan['records']} examples, not {row}.")
        if not complete:
            shards.note(records=row)
            if verbose:
                print(*answers.rounding(), sep="\n")

    def _go_through(
        self, shards: Shards, complete: bool, write: Callable[..., None], bar: Any
    ) -> int:
        """All batches; the number of examples in them."""
        answers = self._answers
        # One is filled while the other is written.
        rooms = itertools.cycle([np.zeros(shards.rows, shards.dtype) for _ in "ab"])
        row, pending = 0, None
        for batch in self._passage if complete else self._passage.twice():
            said: dict[str, np.ndarray] = {}
            size = len(next(iter(batch.values())))
            for number, there, here in shards.pieces(row, size):
                known = shards.shard(number)
                if known is not None:
                    self._compare(known[there], batch, here, row)
                    if row == here.start == 0:
                        said = answers(self._passage.packed(batch)[0])
                        self._probe(known[there], said, here)
                    continue
                said = said or answers(self._passage.packed(batch)[0])
                if pending is None:
                    pending = next(rooms)
                for name, array in {**batch, **said}.items():
                    if array.shape[1:] != pending[name].shape[1:]:
                        raise ValueError(
                            f"The teacher's {shown(name)} has the shape "
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

    def dataset(self, shuffle: bool, seed: int, batch_size: int) -> tf.data.Dataset:
        """What `fit` takes."""
        assert self._shards is not None
        replay = Replay(
            *(self._shards, self._passage, self._views),
            *(shuffle, seed, batch_size),
        )
        return replay.dataset(self._answers.names)

    def _begun(self) -> Shards:
        passage = self._passage
        inputs = passage.packed(passage.first)[0]
        fields = [*passage.fields, *self._answers.fields(inputs)]
        facts = {"format": FORMAT, "views": self._views, "records": None}
        self._shards = Shards(
            self.directory, {**facts, "fields": fields, "rows": rows_of(fields)}
        )
        self._shards.note()
        return self._shards

    def _announce(self, shards: Shards, verbose: Any) -> None:
        """Say how much is to be written, and see whether there is room for it."""
        records = self._passage.batches * self._passage.batch_size
        needed = records * shards.dtype.itemsize
        missing = needed - shards.bytes()
        if verbose:
            print(
                f"The teacher's outputs on about {records:,} examples: "
                f"{_size(needed)} in '{self.directory}', {_size(missing)} of them still"
                " to be written."
            )
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise OSError(
                errno.ENOSPC,
                f"The cache needs {_size(missing)}, and there are {_size(free)} free. "
                "Make room, pass a directory on another disk, or cache fewer hints or "
                "views",
                str(self.directory),
            )

    def _compare(
        self, known: np.ndarray, batch: dict[str, np.ndarray], here: slice, row: int
    ) -> None:
        for name, array in batch.items():
            if not same(known[name], array[here]):
                self._refuse(
                    f"Its {name.split()[0]} from example {row + here.start} on are "
                    "others than those of `dataset`, which must come unshuffled, or in "
                    "one order, and with the same `augment`."
                )

    def _probe(
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
                    self._refuse(f"The teacher now says another {shown(name)}.")

    def _check(self, plan: dict[str, Any]) -> None:
        """Compare the plan of a cache with what is asked of it."""
        asked, views = self._answers, self._views
        parts = [field for field in plan["fields"] if field[0].split()[0] in PARTS]
        if parts != self._passage.fields:
            self._refuse(
                f"Its examples are {parts}, those of `dataset` {self._passage.fields}."
            )
        if plan["views"] != views:
            self._refuse(
                f"It holds {plan['views']} view(s) of each example, not {views}."
            )
        said = {name: dtype for name, dtype, _ in plan["fields"][len(parts) :]}
        members = {name.split()[0] for name in said}
        if not members >= set(asked.fingerprints):
            self._refuse(
                f"It is of another teacher: of the networks {sorted(members)}, by their"
                f" weights and layers, and this one has {asked.fingerprints}."
            )
        layers = sorted(map(shown, said))
        for member, what in asked.names:
            name = f"{member} {what}"
            if name not in said:
                self._refuse(f"It has no '{what}', but {layers}.")
            if what.startswith("hint ") and np.dtype(said[name]) != asked.hint_dtype:
                self._refuse(
                    f"It holds hints in {np.dtype(said[name])}; you asked for "
                    f"hint_dtype={asked.hint_dtype!r}."
                )
        known = all(is_of(name, asked.names) for name in said)
        if plan["records"] is None and not known:
            self._refuse(
                f"It is unfinished, and was begun with {layers}; go on with the same "
                "hints."
            )

    def _refuse(self, reason: str) -> None:
        raise ValueError(
            f"The cache in '{self.directory}' does not belong to this call. {reason} "
            "Pass another directory, or delete this one to make it anew."
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
