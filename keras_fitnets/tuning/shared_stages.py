"""What the trials of a search share: the teacher's outputs, and trained hint stages."""

import contextlib
import hashlib
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_fitnets.cache.storage import exclusive_lock
from keras_fitnets.cache.teacher_cache import cache_teacher
from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.training.optimizers import describe_optimizer
from keras_fitnets.training.stagewise import fit_stagewise
from keras_fitnets.tuning.search_data import digest_data
from keras_fitnets.tuning.search_data import to_tf_dataset


class SharedStages:
    """The teacher's outputs and the hint stages, made once for all trials.

    Both are kept on disk, so that several processes of one search share them too.

    Args:
        teacher: the `Teacher` of all trials.
        candidates: the values of `hints` that a trial's Distiller may have.
        seed: of the order of the examples.
    """

    def __init__(self, teacher: Teacher, candidates: Sequence[Any], seed: int) -> None:
        self._teacher = teacher
        self._candidates = candidates
        self._seed = seed
        # For each kind of data the last that was passed, and the cache made of it.
        self._opened: dict[Any, tuple[Sequence[Any], CachedDataset]] = {}
        # The data that were passed last without a cache, and their digests.
        self._digests: tuple[Sequence[Any], list[str]] | None = None

    def cached_dataset(
        self,
        folder: Path,
        kind: str,
        distiller: Distiller,
        data: Sequence[Any],
        batch_size: int | None,
        shuffle: bool,
        verbose: Any,
    ) -> CachedDataset:
        """Return the data of a search with the outputs of its teacher.

        Args:
            folder: of the search; the cache is a folder in it.
            kind: what the data are for, the name of that folder.
            distiller: of the trial.
            data: inputs or a dataset, labels and sample weights, or None for each of
                these two. A `CachedDataset` is returned as it is.
            batch_size: of arrays.
            shuffle: whether the examples come in another order in each epoch.
            verbose: as in `fit`.
        """
        dataset = data[0]
        if isinstance(dataset, CachedDataset):
            return dataset
        # Opening a cache reads all of it once, to compare it with the data. One process
        # does so for its first trial only, as long as it is passed the same objects.
        key = (folder, kind, batch_size, shuffle)
        if key in self._opened:
            previous, cached = self._opened[key]
            if _are_same(previous, data):
                return cached
        # The first trial caches the hint layers of all the others as well.
        models, student = self._teacher.models, distiller.student
        layers = {
            (hint.hint_layer, hint.member)
            for candidate in self._candidates
            for hint in parse_hints(candidate, models, student)
        }
        try:
            cached = cache_teacher(
                distiller,
                to_tf_dataset(data, batch_size or 32),
                folder / f"teacher's outputs, {kind}",
                hint_layers=sorted(layers),
                shuffle=shuffle,
                seed=self._seed,
                verbose=verbose,
            )
        except ValueError as error:
            raise ValueError(
                f"{error} Or pass cache=False to FitNetHyperModel, which then runs the "
                "teacher in each step."
            ) from error
        self._opened[key] = (data, cached)
        return cached

    def train_hint_stage(
        self,
        folder: Path | None,
        distiller: Distiller,
        optimizer: keras.optimizers.Optimizer,
        epochs: int,
        options: dict[str, Any],
    ) -> None:
        """Train stage 1, or load it if an equal trial has trained it.

        Args:
            folder: of the search; without one, nothing is shared.
            distiller: of the trial; its student and regressors are trained.
            optimizer: of stage 1.
            epochs: of stage 1.
            options: the arguments of `Distiller.fit`, among them `x` and `verbose`.
        """
        lock: Any = contextlib.nullcontext()
        if folder is not None:
            key = self._key(distiller, optimizer, epochs, options)
            # Without a key, no stage can be told from another.
            folder = None if key is None else folder / "first stages" / key
        if folder is not None:
            # A second process with an equal trial waits here, and then finds the
            # finished stage among the checkpoints.
            lock = exclusive_lock(folder, options["verbose"])
        with lock:
            fit_stagewise(
                distiller,
                **options,
                hint_epochs=epochs,
                kd_epochs=0,
                checkpoint_dir=folder,
            )

    def _key(
        self, distiller: Distiller, optimizer: Any, epochs: int, options: dict[str, Any]
    ) -> str | None:
        """A digest of everything that the result of stage 1 depends on.

        None if it depends on a learning rate schedule that does not tell its arguments.
        """
        try:
            config = describe_optimizer(optimizer)
        except ValueError:
            return None
        facts = [
            self._teacher.fingerprint(),
            Teacher(distiller.student).fingerprint(),
            distiller.hints,
            type(optimizer).__name__,
            {name: config[name] for name in sorted(config)},
            epochs,
            self._describe_data(options),
            [options.get(name) for name in ("class_weight", "steps_per_epoch")],
        ]
        digest = hashlib.sha256(repr(facts).encode())
        for regressor in distiller.regressors:
            for weight in regressor.get_weights():
                digest.update(weight.tobytes())
        return digest.hexdigest()[:16]

    def _describe_data(self, options: dict[str, Any]) -> Any:
        """Describe the data of `fit`, and the order in which it reads them."""
        if isinstance(options["x"], CachedDataset):
            return options["x"].fingerprint
        data = tuple(options[name] for name in ("x", "y", "sample_weight"))
        validation = options["validation_data"]
        # Without a cache, only this tells whether the best epoch is judged alike.
        if validation is not None:
            data += unpack_batch("`validation_data`", validation)
        # All data are read for it: once, as long as the same objects are passed.
        objects = keras.tree.flatten(data)
        if self._digests is None or not _are_same(objects, self._digests[0]):
            digests = [digest_data(data[i : i + 3]) for i in range(0, len(data), 3)]
            self._digests = objects, digests
        return [
            *self._digests[1],
            *(self._seed, options["batch_size"], options["shuffle"]),
        ]


def _are_same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))
