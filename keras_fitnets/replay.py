"""From shards back to batches: a dataset in which the teacher has already spoken."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.lessons import Taught
from keras_fitnets.passage import Passage
from keras_fitnets.shards import Shards


class Passes(keras.callbacks.Callback):
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


def replayed(
    shards: Shards,
    passage: Passage,
    said: Sequence[str],
    views: int,
    shuffle: bool,
    seed: int,
    batch_size: int,
) -> tf.data.Dataset:
    """The examples of a passage, each pass in the next view, with what was said.

    Args:
        shards: complete; they hold the views one after the other.
        passage: gives the structure of an element.
        said: the fields of the teacher that are wanted, "<fingerprint> <name>".
        views, shuffle, seed, batch_size: as for `cache_teacher`.
    """
    examples = shards.plan["records"] // views
    names = [*(name for name, *_ in passage.fields), *said]
    passes = Passes()

    def orders() -> Iterator[np.ndarray]:
        number = passes.begin()
        order = np.arange(examples)
        if shuffle:
            order = np.random.default_rng([seed, number]).permutation(examples)
        order += number % views * examples
        for start in range(0, examples, batch_size):
            yield order[start : start + batch_size]

    fields = [shards.dtype[name] for name in names]
    size = batch_size if examples % batch_size == 0 else None

    def read(rows: tf.Tensor) -> tuple[Any, ...]:
        arrays = tf.numpy_function(
            lambda rows: [shards.take(name, rows) for name in names],
            [rows],
            [tf.as_dtype(field.base) for field in fields],
        )
        for array, field in zip(arrays, fields, strict=True):
            array.set_shape((size, *field.shape))
        named = dict(zip(names, arrays, strict=True))
        by_member: dict[str, dict[str, Any]] = {}
        for name in said:
            member, what = name.split(" ", 1)
            by_member.setdefault(member, {})[what] = named[name]
        inputs, labels, weights = passage.packed(named)
        taught = Taught(inputs, by_member)
        if weights is not None:
            return taught, labels, weights
        return (taught,) if labels is None else (taught, labels)

    dataset = tf.data.Dataset.from_generator(
        orders, output_signature=tf.TensorSpec((size,), "int64")
    )
    count = -(-examples // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    # There is nothing to tune, and no file that tf.data could give to each worker.
    options.autotune.enabled = False
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    dataset = dataset.map(read).prefetch(2).with_options(options)
    dataset.passes = passes
    return dataset
