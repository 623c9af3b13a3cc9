"""From shards back to batches: a dataset in which the teacher has already spoken."""

import functools
import hashlib
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.cache.source import ExampleSource
from keras_fitnets.cache.storage import Shards
from keras_fitnets.distillation.teacher_outputs import CachedInputs


class EpochCounter(keras.callbacks.Callback):
    """Counts the passes through a dataset; in `fit` they are the epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.next = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.next = epoch

    def begin(self) -> int:
        """The number of the pass that begins."""
        self.next += 1
        return self.next - 1


class CachedDataset:
    """The examples of a source in batches, each pass in the next view.

    Args:
        shards: complete; they hold the views one after the other.
        source: gives the structure of an element.
        views, shuffle, seed, batch_size: as for `cache_teacher`.
    """

    def __init__(
        self,
        shards: Shards,
        source: ExampleSource,
        views: int,
        shuffle: bool,
        seed: int,
        batch_size: int,
    ) -> None:
        self.passes = EpochCounter()
        self._shards = shards
        self._source = source
        self._views = views
        self._examples = shards.plan["records"] // views
        self._shuffle = shuffle
        self._seed = seed
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """A digest of the examples, of their order, and of what was said of them."""
        order = [self._views, self._shuffle, self._seed, self._batch_size]
        return hashlib.sha256(f"{self._shards.names()} {order}".encode()).hexdigest()

    def dataset(self, names: Collection[tuple[str, str]]) -> tf.data.Dataset:
        """What `fit` takes; of what was said only these, with their masks, are read.

        Args:
            names: of tensors, each behind its network's fingerprint.
        """
        fields = [name for name, *_ in self._source.fields]
        said = [f for f in self._shards.dtype.names or () if matches(f, names)]
        read = functools.partial(self._read, fields, said)
        examples, size = self._examples, self._batch_size
        even = examples % size == 0
        dataset = tf.data.Dataset.range(1).flat_map(self._rows)
        dataset = dataset.batch(size, drop_remainder=even)
        count = tf.data.experimental.assert_cardinality(-(-examples // size))
        options = tf.data.Options()
        # There is nothing to tune, and no file that tf.data could give to each worker.
        options.autotune.enabled = False
        policy = tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = policy
        dataset = dataset.apply(count).map(read).prefetch(2).with_options(options)
        dataset.replay = self
        return dataset

    def _rows(self, _: Any) -> tf.data.Dataset:
        """The numbers of the records of a pass, in their order."""
        rows = tf.numpy_function(self._order, [], "int64")
        rows.set_shape((self._examples,))
        return tf.data.Dataset.from_tensor_slices(rows)

    def _order(self) -> np.ndarray:
        number, order = self.passes.begin(), np.arange(self._examples)
        if self._shuffle:
            order = np.random.default_rng([self._seed, number]).permutation(order)
        return order + number % self._views * self._examples

    def _read(self, fields: list[str], said: list[str], rows: tf.Tensor) -> Any:
        names, shards = [*fields, *said], self._shards
        kinds = [shards.dtype[name] for name in names]
        arrays = tf.numpy_function(
            lambda rows: [shards.take(name, rows) for name in names],
            [rows],
            [tf.as_dtype(kind.base) for kind in kinds],
        )
        for array, kind in zip(arrays, kinds, strict=True):
            array.set_shape((*rows.shape, *kind.shape))
        named = dict(zip(names, arrays, strict=True))
        by_member: dict[str, dict[str, Any]] = {}
        for name in said:
            member, what = name.split(" ", 1)
            by_member.setdefault(member, {})[what] = named[name]
        inputs, labels, weights = self._source.pack(named)
        taught = CachedInputs(inputs, by_member)
        if weights is not None:
            return taught, labels, weights
        return (taught,) if labels is None else (taught, labels)


def matches(field: str, names: Collection[tuple[str, str]]) -> bool:
    """Whether a field holds one of these tensors, or the mask of one."""
    member, _, what = field.partition(" ")
    if what.startswith("mask "):
        what = what.replace("mask ", "hint ", 1)
    return (member, what) in names
