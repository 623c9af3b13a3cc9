"""One pass after another through a dataset whose examples must stay the same."""

import itertools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.validate_data import check_inputs
from keras_fitnets.distillation.validate_data import unpack_batch

PARTS = ("inputs", "labels", "weights")


class ExampleSource:
    """The examples of a dataset, in views if it is augmented, as named arrays.

    Args:
        distiller: the Distiller whose networks take the inputs.
        dataset: batches of `x`, `(x, y)` or `(x, y, sample_weight)`.
        augment: from one example's inputs and a seed to augmented inputs, or None.
        views: how many times the dataset is gone through, with other seeds.

    Attributes:
        batch_size: the size of the first batch.
        batches: the number of batches in all views, about.
        fields: the name, dtype and shape of each array of an example.
        first: the arrays of the first batch, by name.
    """

    def __init__(
        self,
        distiller: Any,
        dataset: tf.data.Dataset,
        augment: Callable[[Any, Any], Any] | None,
        views: int,
    ) -> None:
        self._augment = augment
        self._spec = _get_spec(dataset)
        check_inputs(distiller, "the inputs of `dataset`", self._spec["inputs"])
        # TensorFlow 2.21 may wait for its tuning, half a minute, at the end of a pass.
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = dataset.with_options(options)
        self._dataset = dataset
        self.fields: list[Any] = []
        self.first = next(iter(self))
        self.batch_size = len(next(iter(self.first.values())))
        if augment is not None:
            self._dataset = _concatenate_views(dataset, augment, views, self.batch_size)
            self._spec = _get_spec(self._dataset)
            check_inputs(distiller, "what `augment` returns", self._spec["inputs"])
            self.first = next(iter(self))
        self.fields = [
            [name, array.dtype.str, list(array.shape[1:])]
            for name, array in self.first.items()
        ]
        count = int(dataset.cardinality())
        if count == tf.data.UNKNOWN_CARDINALITY:
            count = int(dataset.reduce(np.int64(0), lambda n, *_: n + 1))
        self.batches = count * views

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batch = None
        for batch in self._dataset:
            yield self._named(batch)
        if batch is None:
            raise ValueError(
                "`dataset` is empty, or can be read only once. Pass one with at least "
                "one batch, which starts anew in each pass."
            )

    def _named(self, batch: Any) -> dict[str, np.ndarray]:
        parts = zip(PARTS, unpack_batch("`dataset`", batch), strict=True)
        arrays = {
            f"{part} {i}": tensor.numpy()
            for part, tensors in parts
            if self._spec[part] is not None
            for i, tensor in enumerate(tf.nest.flatten(tensors))
        }
        sizes = {name: array.shape[:1] for name, array in arrays.items()}
        if len(set(sizes.values())) > 1 or () in sizes.values():
            raise ValueError(
                "There must be as many labels and weights as inputs; received "
                f"{sizes} of them in a batch of `dataset`."
            )
        for name, _, shape in self.fields:
            if list(arrays[name].shape[1:]) != shape:
                raise ValueError(
                    f"The {name.split()[0]} of `dataset` must have one shape to be "
                    f"cached; received {shape} and {list(arrays[name].shape[1:])}. Pad "
                    "all batches alike, or resize them."
                )
        return arrays

    def pack(self, arrays: dict[str, Any]) -> list[Any]:
        """Inputs, labels and weights in the structure that the dataset has."""
        return [
            None
            if spec is None
            else tf.nest.pack_sequence_as(
                spec, [arrays[f"{part} {i}"] for i in range(len(tf.nest.flatten(spec)))]
            )
            for part, spec in self._spec.items()
        ]

    def iterate_and_verify(self) -> Iterator[dict[str, np.ndarray]]:
        """Two passes side by side.

        Raises:
            ValueError: at the first batch that is not the same in both.
        """
        for batch, again in itertools.zip_longest(self, self):
            different = [
                name
                for name in batch or again
                if not (batch and again and has_same_bits(batch[name], again[name]))
            ]
            if different:
                raise ValueError(
                    "The elements of `dataset` differ between two passes, in "
                    f"{', '.join(different)}, so that what the teacher said of one "
                    f"pass would not fit the next. {self._cause(different)}"
                )
            yield batch

    def _cause(self, different: list[str]) -> str:
        parts = {name.split()[0] for name in different}
        if parts == {"inputs"} and self._augment is not None:
            return (
                "`augment` draws from elsewhere than the seed it is given: use "
                "operations that take it, such as "
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


def has_same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    return np.array_equal(one.reshape(-1).view("u1"), other.reshape(-1).view("u1"))


def _concatenate_views(
    dataset: tf.data.Dataset,
    augment: Callable[[Any, Any], Any],
    views: int,
    batch_size: int,
) -> tf.data.Dataset:
    """The augmented views of a dataset one after the other."""

    def view(number: int) -> tf.data.Dataset:
        def augmented(i: Any, example: Any) -> Any:
            parts = example if isinstance(example, tuple) else (example,)
            seed = tf.stack([tf.constant(number), tf.cast(i, "int32")])
            return (augment(parts[0], seed), *parts[1:])

        examples = dataset.unbatch().enumerate()
        return examples.map(augmented, tf.data.AUTOTUNE).batch(batch_size)

    whole = view(0)
    for number in range(1, views):
        whole = whole.concatenate(view(number))
    return whole


def _get_spec(dataset: tf.data.Dataset) -> dict[str, Any]:
    """What the inputs, labels and weights are; None for what is not there."""
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
    """Whether NumPy has the dtype too."""
    return (
        dtype.is_bool or dtype.is_integer or dtype in (tf.half, tf.float32, tf.double)
    )
