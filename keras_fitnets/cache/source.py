"""The examples to be cached: a dataset that must be the same in every pass."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fitnets.cache.augmentation import Augmentation
from keras_fitnets.cache.augmentation import make_views
from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.validate_data import check_casts
from keras_fitnets.distillation.validate_data import check_inputs
from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.utils.lazy import tf

PARTS = ("inputs", "labels", "weights")

Batch = dict[str, np.ndarray]


class ExamplesDiffer(ValueError):
    """The examples are not those that checksums were computed of.

    Args:
        message: for users.
        columns: the columns that differ; empty if the number of examples does.
        row: the number of the first example in the batch that differs.
    """

    def __init__(self, message: str, columns: Sequence[str], row: int) -> None:
        super().__init__(message)
        self.columns = columns
        self.row = row


class ExampleSource:
    """The examples of a dataset as columns, in several views if it is augmented.

    A column is an array with one row for each example; its name says the part that it
    belongs to and its place there: `"inputs 0"`, `"labels 0"`, `"weights 0"`.

    Args:
        distiller: the Distiller whose networks take the inputs.
        dataset: batches of `x`, `(x, y)` or `(x, y, sample_weight)`.
        augment: the augmentation of one example, or None.
        views: how many times the dataset is gone through, each time with other seeds.

    Attributes:
        batch_size: the size of the first batch.
        first_batch: the columns of the first batch.
        columns: `[name, dtype, shape]` of each column; the shape is that of a row.
    """

    def __init__(
        self,
        distiller: Any,
        dataset: tf.data.Dataset,
        augment: Augmentation | None,
        views: int,
    ) -> None:
        self._distiller = distiller
        self._augment = augment
        self._spec = _get_spec(dataset)
        check_inputs(distiller, "the inputs of `dataset`", self._spec["inputs"])
        # TensorFlow 2.21 may wait for its tuning, half a minute, at the end of a pass.
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = dataset.with_options(options)
        self._dataset = dataset
        # Empty as long as the first batch is read, which the others are compared with.
        self.columns: list[Any] = []
        self.first_batch = next(iter(self))
        self.batch_size = _num_rows(self.first_batch)
        if augment is not None:
            augment.check_maps(*self.pack(self.first_batch))
            self._dataset = make_views(dataset, augment, views, self.batch_size)
            self._spec = _get_spec(self._dataset)
            check_inputs(distiller, "what `augment` returns", self._spec["inputs"])
            self.first_batch = next(iter(self))
        self.columns = [
            [name, array.dtype.str, list(array.shape[1:])]
            for name, array in self.first_batch.items()
        ]

    def __iter__(self) -> Iterator[Batch]:
        batch = None
        for batch in self._dataset:
            inputs = unpack_batch("`dataset`", batch)[0]
            check_casts(self._distiller, "the inputs of `dataset`", inputs)
            yield self._to_columns(batch)
        if batch is None:
            raise ValueError(
                "`dataset` is empty, or can be read only once. Pass one with at least "
                "one batch, which starts anew in each pass."
            )

    def pack(self, columns: dict[str, Any]) -> list[Any]:
        """Return inputs, labels and weights in the structure that the dataset has."""
        return [
            None
            if spec is None
            else tf.nest.pack_sequence_as(
                spec,
                [columns[f"{part} {i}"] for i in range(len(tf.nest.flatten(spec)))],
            )
            for part, spec in self._spec.items()
        ]

    def compute_checksums(self) -> list[list[int]]:
        """Go through all examples once and compute the checksums of their bits.

        Returns:
            For each batch the number of examples up to its end, then for each column
            the CRC-32 of all its rows up to there.
        """
        checksums: list[list[int]] = []
        row, crcs = 0, [0] * len(self.columns)
        for batch in self:
            row += _num_rows(batch)
            crcs = _update(crcs, batch)
            # An empty batch has no end of its own at which to compare.
            if _num_rows(batch):
                checksums.append([row, *crcs])
        return checksums

    def iterate_and_verify(self, checksums: list[list[int]]) -> Iterator[Batch]:
        """Go through all examples, and give those whose checksums are the same.

        The batches are those of the pass that the checksums were computed in, however
        the dataset is batched now.

        Raises:
            ExamplesDiffer: at the first batch that is not the same.
        """
        row, crcs = 0, [0] * len(self.columns)
        # A running CRC-32 can be compared only where it was recorded.
        batches = _cut(self, [end for end, *_ in checksums])
        for batch, expected in itertools.zip_longest(batches, checksums):
            end = row + (0 if batch is None else _num_rows(batch))
            if batch is None or expected is None or end != expected[0]:
                # There are more or fewer examples than in the other pass.
                raise self._difference([], row if expected is None else end)
            crcs = _update(crcs, batch)
            pairs = zip(batch, crcs, expected[1:], strict=True)
            different = [name for name, crc, one in pairs if crc != one]
            if different:
                raise self._difference(different, row)
            yield batch
            row = end

    def _to_columns(self, batch: Any) -> Batch:
        parts = zip(PARTS, unpack_batch("`dataset`", batch), strict=True)
        columns = {
            f"{part} {i}": tensor.numpy()
            for part, tensors in parts
            if self._spec[part] is not None
            for i, tensor in enumerate(tf.nest.flatten(tensors))
        }
        # Labels or weights that broadcast would be stored for some examples only.
        sizes = {name: array.shape[:1] for name, array in columns.items()}
        if len(set(sizes.values())) > 1 or () in sizes.values():
            raise ValueError(
                "There must be as many labels and weights as inputs; received "
                f"{sizes} of them in a batch of `dataset`."
            )
        for name, _, shape in self.columns:
            if list(columns[name].shape[1:]) != shape:
                raise ValueError(
                    f"The {name.split()[0]} of `dataset` must have one shape to be "
                    f"cached; received {shape} and {list(columns[name].shape[1:])}. "
                    "Pad all batches alike, or resize them."
                )
        return columns

    def _difference(self, columns: list[str], row: int) -> ExamplesDiffer:
        place = f"{', '.join(columns)}, from example {row} on" if columns else "number"
        return ExamplesDiffer(
            f"The elements of `dataset` differ between two passes, in their {place}, "
            "so that the teacher's outputs of one pass would not fit the next. "
            f"{self._explain(columns)}",
            columns,
            row,
        )

    def _explain(self, columns: list[str]) -> str:
        """Say what makes these columns differ, and how to put it right."""
        # Which parts differ tells a shuffle from a random augmentation.
        parts = {name.split()[0] for name in columns}
        moved = {*PARTS[: self._augment.num_parts]} if self._augment else set()
        if parts and parts <= moved:
            return (
                "`augment` draws random numbers that do not depend on the seed it is "
                "given. Use operations that take the seed, such as "
                "tf.image.stateless_random_flip_left_right(x, seed)."
            )
        if parts == {"inputs"} and self._spec["labels"] is not None:
            return (
                "The labels are the same, so the inputs are augmented at random: take "
                "the augmentation out of `dataset` and pass it as `augment`, and the "
                "number of `views` to cache."
            )
        return (
            "It is shuffled anew in each pass, or drawn at random: leave `.shuffle()` "
            "out of it and pass `shuffle=True` here; pass a random augmentation as "
            "`augment`."
        )


def _num_rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _update(crcs: list[int], batch: Batch) -> list[int]:
    """Return each column's CRC-32, continued with the rows of a batch."""
    # A checksum is of bits: NaN equals itself, and 0.0 differs from -0.0.
    arrays = [np.ascontiguousarray(array) for array in batch.values()]
    return [
        zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
        for array, crc in zip(arrays, crcs, strict=True)
    ]


def _cut(batches: Iterable[Batch], ends: Sequence[int]) -> Iterator[Batch]:
    """Batch rows anew, so that batches end at these rows, and surplus rows alone."""
    # Rows are collected in pieces until the next end; a batch that ends there by itself
    # is one piece, and is not copied.
    row = 0
    pieces: list[Batch] = []
    remaining = list(reversed(ends))
    for batch in batches:
        start, size = 0, _num_rows(batch)
        while start < size:
            stop = min(size, start + remaining[-1] - row) if remaining else size
            pieces.append({name: array[start:stop] for name, array in batch.items()})
            row += stop - start
            start = stop
            if not remaining or row == remaining[-1]:
                yield _join(pieces)
                pieces = []
                if remaining:
                    remaining.pop()
    if pieces:
        yield _join(pieces)


def _join(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    return {
        name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]
    }


def _get_spec(dataset: tf.data.Dataset) -> dict[str, Any]:
    """Return the specification of inputs, labels and weights; None for what is None.

    Raises:
        ValueError: for what cannot be stored as a NumPy array.
    """
    spec: dict[str, Any] = {}
    for name, part in zip(
        PARTS, unpack_batch("`dataset`", dataset.element_spec), strict=True
    ):
        # Only the specification of a None in the elements has no shape.
        known = tf.nest.is_nested(part) or hasattr(part, "shape")
        spec[name] = part if known else None
    for part, specs in spec.items():
        for one in [] if specs is None else tf.nest.flatten(specs):
            if not (isinstance(one, tf.TensorSpec) and _is_storable(one.dtype)):
                raise ValueError(
                    f"The {part} of `dataset` must be dense tensors of numbers; "
                    f"received {one}. Use `.to_tensor()`, cast bfloat16 to float32, "
                    "turn text into numbers."
                )
    if isinstance(spec["inputs"], CachedInputs):
        raise ValueError(
            "`dataset` comes out of a cache already. Pass the one that it was made of."
        )
    return spec


def _is_storable(dtype: tf.DType) -> bool:
    """Return whether NumPy has the dtype too."""
    return (
        dtype.is_bool or dtype.is_integer or dtype in (tf.half, tf.float32, tf.double)
    )
