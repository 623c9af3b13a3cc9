"""Makes a cache of the teacher's outputs, or finds out whether one can be used."""

import errno
import itertools
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fitnets.cache.source import PARTS
from keras_fitnets.cache.source import ExamplesDiffer
from keras_fitnets.cache.source import ExampleSource
from keras_fitnets.cache.storage import ColumnStore
from keras_fitnets.cache.storage import choose_shard_size
from keras_fitnets.cache.storage import read_manifest
from keras_fitnets.cache.teacher_pass import TeacherPass
from keras_fitnets.cache.teacher_pass import format_column
from keras_fitnets.distillation.cached_dataset import is_among

# Goes up with every change after which older caches cannot be read any more.
FORMAT = 2


class CacheWriter:
    """Writes what a cache lacks, once it is clear that the cache belongs to the call.

    Args:
        directory: of the cache, whether it is there or not.
        source: the examples.
        teacher_pass: runs the teacher on them.
        views: how many views of each example the cache is to hold.
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

    def open(self) -> ColumnStore | None:
        """Return what the directory holds now; None if nothing is in it yet.

        Raises:
            ValueError: if the manifest is damaged, or belongs to something else.
        """
        manifest = read_manifest(self.directory)
        if manifest is None:
            return None
        if manifest.get("format") != FORMAT:
            self._reject(
                f"Another version of keras_fitnets has made it, in the format "
                f"{manifest.get('format')}; this one reads {FORMAT}."
            )
        # Keras may have given the teacher's layers other names in this process.
        manifest["columns"] = [
            [self._teacher_pass.rename(name), dtype, shape]
            for name, dtype, shape in manifest["columns"]
        ]
        store = ColumnStore(self.directory, manifest)
        if not store.num_bytes():
            # Whoever began it was killed, or met an error, before there were outputs.
            return None
        self._check_manifest(store)
        return store

    def run(self, store: ColumnStore | None, verbose: Any) -> ColumnStore:
        """Verify what is there and write what is missing.

        Args:
            store: what `open` has returned.
            verbose: 0 for silence, as in `fit`.

        Returns:
            The complete store.
        """
        if store is None:
            store = self._create()
        else:
            self._verify(store, verbose)
        if not store.is_complete():
            store.remove_partial_files()
            self._check_disk_space(store, verbose)
            self._write(store, verbose)
            if verbose:
                print(*self._teacher_pass.rounding_report(), sep="\n")
        return store

    def _create(self) -> ColumnStore:
        """Go through the examples for the first time, without the teacher."""
        source = self._source
        inputs = source.pack(source.first_batch)[0]
        columns = [*source.columns, *self._teacher_pass.columns(inputs)]
        # This pass is cheap beside the teacher's. It counts the examples, so that the
        # size is known, and makes it possible to notice in the second pass, batch by
        # batch, that the dataset is not the same.
        checksums = source.compute_checksums()
        store = ColumnStore(
            self.directory,
            {
                "format": FORMAT,
                "views": self._views,
                "columns": columns,
                "shard_size": choose_shard_size(columns),
                "num_rows": checksums[-1][0],
                "checksums": checksums,
            },
        )
        store.write_manifest()
        return store

    def _verify(self, store: ColumnStore, verbose: Any) -> None:
        """Compare examples, files and teacher with those that the cache was made of."""
        checksums = store.manifest["checksums"]
        bar = _create_bar(len(checksums), verbose)
        try:
            for _ in self._source.iterate_and_verify(checksums):
                bar.add(1)
        except ExamplesDiffer as error:
            self._reject_examples(store, error)
        # The files before the teacher, or a damaged file would look like a teacher that
        # has changed.
        store.check_files()
        if store.has_shard(0):
            self._spot_check_teacher(store)

    def _write(self, store: ColumnStore, verbose: Any) -> None:
        """Go through the examples for the second time, with the teacher."""
        checksums = store.manifest["checksums"]
        bar = _create_bar(len(checksums), verbose)
        # The next shard is filled while the one before is written.
        buffers = itertools.cycle([store.allocate_shard(), store.allocate_shard()])
        # A buffer is taken when a shard begins and handed over when it is full.
        row, buffer = 0, None
        with store.background_writer() as write:
            for batch in self._source.iterate_and_verify(checksums):
                size = len(next(iter(batch.values())))
                parts = list(store.split(row, size))
                missing = [part for part in parts if not store.has_shard(part[0])]
                # A batch whose shards are all there does not need the teacher.
                columns = self._add_outputs(batch) if missing else batch
                for number, in_shard, in_batch in missing:
                    buffer = next(buffers) if buffer is None else buffer
                    self._fill(buffer, in_shard, columns, in_batch)
                    if in_shard.stop == store.shard_rows(number):
                        write(number, buffer)
                        buffer = None
                row += size
                bar.add(1)

    def _add_outputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**batch, **self._teacher_pass(self._source.pack(batch)[0])}

    def _fill(
        self,
        buffer: dict[str, np.ndarray],
        in_shard: slice,
        columns: dict[str, np.ndarray],
        in_batch: slice,
    ) -> None:
        for name, array in columns.items():
            if array.shape[1:] != buffer[name].shape[1:]:
                raise ValueError(
                    f"The teacher's {format_column(name)} has the shape "
                    f"{buffer[name].shape[1:]} in one batch and {array.shape[1:]} in "
                    "another. Give all inputs one shape."
                )
            buffer[name][in_shard] = array[in_batch]

    def _check_disk_space(self, store: ColumnStore, verbose: Any) -> None:
        """Print how much is to be written, and raise if there is no room for it."""
        needed = store.num_rows * store.row_bytes
        missing = max(0, needed - store.num_bytes())
        if verbose:
            print(
                f"The teacher's outputs on {store.num_rows:,} examples: "
                f"{_format_size(needed)} in '{self.directory}', "
                f"{_format_size(missing)} of them still to be written."
            )
        # An error now is better than one after hours of writing.
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise OSError(
                errno.ENOSPC,
                f"The cache needs {_format_size(missing)}, and there are "
                f"{_format_size(free)} free. Make room, pass a directory on another "
                "disk, or cache fewer hints or views",
                str(self.directory),
            )

    def _spot_check_teacher(self, store: ColumnStore) -> None:
        """Run the teacher on one batch and compare.

        The fingerprint is of layers and weights; the code of a user's own layer, or
        what it reads from elsewhere, shows only in the outputs.
        """
        outputs = self._teacher_pass(self._source.pack(self._source.first_batch)[0])
        count = min(self._source.batch_size, store.shard_rows(0))
        for name, output in outputs.items():
            if name not in store.columns or output.dtype == bool:
                continue
            cached = np.asarray(store.read_rows(name, np.arange(count)), "float64")
            now = np.asarray(output[:count], "float64")
            # As far apart as another precision or size of batch can bring them.
            margin = 0.02 * np.max(
                np.abs(cached), where=np.isfinite(cached), initial=0.0
            )
            is_close = now.shape == cached.shape and np.allclose(
                now, cached, rtol=0, atol=margin
            )
            if not is_close:
                self._reject(
                    f"The teacher's {format_column(name)} is now another for the same "
                    "examples, although its layers and weights are the same."
                )

    def _check_manifest(self, store: ColumnStore) -> None:
        """Compare the columns of a cache with those that this call needs."""
        teacher_pass, source = self._teacher_pass, self._source
        columns, views = store.manifest["columns"], store.manifest["views"]
        examples = [column for column in columns if column[0].split()[0] in PARTS]
        if examples != source.columns:
            self._reject(
                f"Its examples are {examples}, those of `dataset` {source.columns}."
            )
        if views != self._views:
            self._reject(
                f"It holds {views} view(s) of each example, not {self._views}."
            )
        outputs = {name: dtype for name, dtype, _ in columns[len(examples) :]}
        # The members of an ensemble may be used one by one: theirs must be among those.
        networks = {name.split()[0] for name in outputs}
        if not networks >= set(teacher_pass.fingerprints):
            self._reject(
                f"It is of another teacher: its networks have the fingerprints "
                f"{sorted(networks)}, of layers and weights, and those of this teacher "
                f"{teacher_pass.fingerprints}."
            )
        # A cache may hold more than is needed, but nothing less.
        layers = sorted(map(format_column, outputs))
        for network, what in teacher_pass.keys:
            name = f"{network} {what}"
            if name not in outputs:
                self._reject(f"It has no '{what}', but {layers}.")
            is_hint = what.startswith("hint ")
            if is_hint and np.dtype(outputs[name]) != teacher_pass.hint_dtype:
                self._reject(
                    f"It holds hints in {np.dtype(outputs[name])}, and the call has "
                    f"hint_dtype={teacher_pass.hint_dtype!r}."
                )
        # What is missing can only be written with all outputs that the cache has.
        is_known = all(is_among(name, teacher_pass.keys) for name in outputs)
        if not store.is_complete() and not is_known:
            self._reject(
                f"It is unfinished, and was begun with {layers}; go on with the same "
                "hints."
            )

    def _reject_examples(self, store: ColumnStore, error: ExamplesDiffer) -> None:
        if error.columns:
            self._reject(
                f"Its {', '.join(error.columns)} from example {error.row} on differ "
                "from those of `dataset`, which must come unshuffled, or in one order, "
                "and with the same `augment`."
            )
        number = "more" if error.row >= store.num_rows else f"{error.row}"
        self._reject(f"It holds {store.num_rows} examples, and `dataset` has {number}.")

    def _reject(self, reason: str) -> None:
        raise ValueError(
            f"The cache in '{self.directory}' does not belong to this call. {reason} "
            "Pass another directory, or delete this one to make it anew."
        )


def _create_bar(batches: int, verbose: Any) -> keras.utils.Progbar:
    return keras.utils.Progbar(batches, unit_name="batch", verbose=bool(verbose))


def _format_size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
