"""What the trials of a search have in common, made once and kept on disk."""

import contextlib
import hashlib
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_fitnets.cache.storage import exclusive_lock
from keras_fitnets.cache.teacher_cache import cache_teacher
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.training.stagewise import fit_stagewise


class SharedStages:
    """The teacher's outputs, and first stages, for all trials and processes.

    Args:
        teacher: the `Teacher` of all trials.
        candidates: what a trial's Distiller may get as `hints`.
        seed: of the order of the examples.
    """

    def __init__(self, teacher: Teacher, candidates: Sequence[Any], seed: int) -> None:
        self._teacher = teacher
        self._candidates = candidates
        self._seed = seed
        # The last data of each kind, and what was made of them in this process.
        self._known: dict[Any, tuple[Sequence[Any], Any]] = {}

    def cached_dataset(
        self,
        folder: Path,
        kind: str,
        distiller: Distiller,
        data: Sequence[Any],
        batch_size: int | None,
        shuffle: bool,
        verbose: Any,
    ) -> tf.data.Dataset:
        """Inputs, labels and weights together with what the teacher says of them."""
        if hasattr(data[0], "replay"):
            return data[0]
        key = (folder, kind, batch_size, shuffle)
        known, cached = self._known.get(key, ((), None))
        if known and all(map(operator.is_, known, data)):
            return cached
        dataset = data[0]
        if not isinstance(dataset, tf.data.Dataset):
            arrays = tuple(array for array in data if array is not None)
            dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size or 32)
        models, student = self._teacher.models, distiller.student
        layers = {
            (hint.hint_layer, hint.member)
            for candidate in self._candidates
            for hint in parse_hints(candidate, models, student)
        }
        cached = cache_teacher(
            *(distiller, dataset, folder / f"teacher's outputs, {kind}"),
            hint_layers=sorted(layers),
            shuffle=shuffle,
            seed=self._seed,
            verbose=verbose,
        )
        self._known[key] = (data, cached)
        return cached

    def train_hint_stage(
        self,
        folder: Path | None,
        distiller: Distiller,
        optimizer: keras.optimizers.Optimizer,
        epochs: int,
        options: dict[str, Any],
    ) -> None:
        """Train stage 1, or take it from whoever has trained it."""
        waiting: Any = contextlib.nullcontext()
        if folder is not None:
            key = self._key(distiller, optimizer, epochs, options)
            folder = folder / "first stages" / key
            waiting = exclusive_lock(folder, options["verbose"])
        with waiting:
            fit_stagewise(
                distiller,
                **options,
                hint_epochs=epochs,
                kd_epochs=0,
                hint_optimizer=optimizer,
                checkpoint_dir=folder,
            )

    def _key(
        self, distiller: Distiller, optimizer: Any, epochs: int, options: dict[str, Any]
    ) -> str:
        """A digest of all that stage 1 depends on."""
        config = optimizer.get_config()
        facts = [
            self._teacher.fingerprint(),
            Teacher(distiller.student).fingerprint(),
            distiller.hints,
            type(optimizer).__name__,
            {name: config[name] for name in sorted(config) if name != "name"},
            epochs,
            options["x"].replay.fingerprint,
            [options.get(name) for name in ("class_weight", "steps_per_epoch")],
        ]
        digest = hashlib.sha256(repr(facts).encode())
        for regressor in distiller.regressors:
            for weight in regressor.get_weights():
                digest.update(weight.tobytes())
        return digest.hexdigest()[:16]
