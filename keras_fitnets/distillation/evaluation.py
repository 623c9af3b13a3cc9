"""A student beside its teacher, on the same inputs."""

import itertools
import math
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_fitnets.distillation.validate_data import check_inputs
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.teacher_outputs import Lesson
from keras_fitnets.distillation.teacher_outputs import inputs_in
from keras_fitnets.losses import at_least_float32
from keras_fitnets.losses import mask_of


class Sample:
    """Some inputs in memory, batch by batch.

    Args:
        owner: whose argument `x` is, for the messages.
        x: arrays, in the structure that the networks take.
        batch_size: the most in a batch.

    Raises:
        TypeError, ValueError: for what is no array, or empty.
    """

    def __init__(self, owner: str, x: Any, batch_size: int) -> None:
        if (
            isinstance(batch_size, bool)
            or not isinstance(batch_size, int)
            or batch_size < 1
        ):
            raise ValueError(
                f"`batch_size` must be a whole number of at least 1; received "
                f"{batch_size!r}."
            )
        self._told_as = f"`x` of {owner}"
        flat = [one for one in keras.tree.flatten(inputs_in(x)) if one is not None]
        if not flat or not all(len(getattr(one, "shape", ())) for one in flat):
            raise TypeError(
                f"{self._told_as} must be an array of inputs, or a structure of arrays;"
                f" received {x!r:.80}. Of a dataset pass a batch of inputs: "
                "`x, y = next(iter(dataset.unbatch().batch(300)))`."
            )
        sizes = sorted({len(one) for one in flat})
        if sizes[0] == 0 or len(sizes) > 1:
            raise ValueError(
                f"{self._told_as} must hold samples, as many of each input; received "
                f"{' and '.join(map(str, sizes))}. Pass some hundred of them."
            )
        self._arrays = _each(np.asarray, inputs_in(x))
        self._size, self._batch_size = sizes[0], batch_size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._size, self._batch_size):
            stop = start + self._batch_size
            yield _each(lambda array, a=start, b=stop: array[a:b], self._arrays)

    def check(self, distiller: Distiller) -> None:
        """Refuse what the Distiller's networks do not take."""
        check_inputs(distiller, self._told_as, self._arrays)


class Look:
    """A student beside its teacher, on the same inputs.

    Args:
        distiller: the Distiller.
        sample: the inputs; the teacher is asked of them here, and not again.
        stage: `"hint"`, `"kd"` or `"joint"`; what it does not use is not looked at.
        wanted: the positions of the hint pairs to look at, or None for all.
        eagerly: whether the student runs without a trace.

    Attributes:
        key: the last three arguments.
        lessons: what the teacher said of each batch; of a hint also its mask.
        constant: the positions of hints that are the same for every sample.
    """

    def __init__(
        self,
        distiller: Distiller,
        sample: Sample,
        stage: str,
        wanted: Sequence[int] | None,
        eagerly: bool,
    ) -> None:
        self.key = (stage, wanted, eagerly)
        self._distiller, self._sample, self._stage = distiller, sample, stage
        pairs = range(len(distiller.hints)) if wanted is None else wanted
        self._wanted = () if stage == "kd" else tuple(pairs)
        self._pairings = {
            i: pairing
            for i, pairing in enumerate(distiller.pairings)
            if pairing is not None and stage != "hint"
        }
        self.lessons = [
            _kept(distiller.lessons.asked(_tensors(batch), stage, self._wanted))
            for batch in sample
        ]
        self._spreads = {
            i: _spread([lesson.hints[i] for lesson in self.lessons])
            for i in self._wanted
        }
        self.constant = [i for i, spread in self._spreads.items() if spread == 0]
        self._student = self._eager if eagerly else self._traced(next(iter(sample)))

    def results(self) -> dict[str, float]:
        """R² of each pair, and the agreement on each output."""
        missed = dict.fromkeys(self._wanted, 0.0)
        same: dict[int, Any] = {}
        for batch, lesson in zip(self._sample, self.lessons, strict=True):
            answers, regressed = _each(np.asarray, self._student(batch))
            for i, prediction in zip(self._wanted, regressed, strict=True):
                hint, mask = lesson.hints[i]
                gap, _ = _counted(np.subtract(hint, prediction, dtype="float64"), mask)
                missed[i] += np.sum(gap**2)
            for i, (logits, mask) in answers.items():
                activation = self._pairings[i].activation
                soft = _chosen(self.soft_logits(lesson, i), activation)
                agreed = soft == _chosen(logits, activation)
                right, counts = _counted(agreed, mask)
                same[i] = same.get(i, 0) + np.array([right.sum(), counts.sum()])
        pairs, outputs = len(self._distiller.hints), len(self._distiller.pairings)
        return {
            **{
                _name("hint_r2", i, pairs): 1 - ratio(missed[i], spread)
                for i, spread in self._spreads.items()
            },
            **{_name("agreement", i, outputs): ratio(*same[i]) for i in same},
        }

    def regressed(self, batch: Any) -> list[Any]:
        """The regressed guided layers for a batch of the sample."""
        return _each(np.asarray, self._student(batch)[1])

    def soft_logits(self, lesson: Lesson, output: int) -> Any:
        """What the soft targets of an output come from, at the present temperature."""
        members = [
            ops.convert_to_tensor(member[output], "float64") for member in lesson.logits
        ]
        teacher, temperature = self._distiller.teacher, self._distiller.temperature
        activation = self._pairings[output].activation
        return np.asarray(teacher.soft_logits(members, temperature, activation))

    def _pass(self, x: Any) -> tuple[dict[int, Any], list[Any]]:
        """The student's logits with their masks, by output, and its regressed layers.

        Whatever a layer assigns to its variables meanwhile is dropped.
        """
        student = self._distiller.objective.student
        with keras.StatelessScope():
            outputs, regressed = student(x, self._stage, self._wanted, training=False)
        flat = keras.tree.flatten(outputs)
        answers = {
            i: (pairing.student.logits(flat[i]), mask_of(flat[i]))
            for i, pairing in self._pairings.items()
        }
        return answers, [at_least_float32(tensor) for tensor in regressed]

    def _eager(self, x: Any) -> Any:
        return self._pass(_tensors(x))

    def _traced(self, first: Any) -> Any:
        """The pass as one graph for batches of any size."""
        given = [array for array in keras.tree.flatten(first) if array is not None]
        specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in given]

        def whole(*tensors: Any) -> Any:
            left = iter(tensors)
            return self._pass(_each(lambda _: next(left), first))

        traced = tf.function(whole, input_signature=specs, autograph=False)
        return lambda x: traced(*[a for a in keras.tree.flatten(x) if a is not None])


def _chosen(logits: Any, activation: str) -> Any:
    """The class, or which of the units are on."""
    if activation == "sigmoid":
        return logits > 0
    return np.argmax(logits, axis=-1, keepdims=True)


def _kept(lesson: Lesson) -> Lesson:
    """A lesson in NumPy, each hint with its mask."""
    hints = {i: _each(np.asarray, (h, mask_of(h))) for i, h in lesson.hints.items()}
    return Lesson(_each(np.asarray, lesson.logits), hints)


def _spread(hints: Sequence[tuple[Any, Any]]) -> float:
    """Σ ‖u_h - mean(u_h)‖², the mean of each feature over those samples that count."""
    total = count = spread = size = 0.0
    for values, counts in itertools.starmap(_counted, hints):
        total, count = total + values.sum(axis=0), count + counts.sum(axis=0)
    mean = total / np.maximum(count, 1)
    for values, counts in itertools.starmap(_counted, hints):
        spread += np.sum((counts * (values - mean)) ** 2)
        size += np.sum(values**2)
    # Of numbers that are all the same float64 leaves a little.
    return 0.0 if spread <= 1e-20 * size else float(spread)


def _counted(values: Any, mask: Any) -> tuple[Any, Any]:
    """Values in float64, zero where a mask leaves them out, and which of them count."""
    values = np.asarray(values, "float64")
    if mask is None:
        return values, np.ones(values.shape, bool)
    mask = np.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim))
    counts = np.broadcast_to(mask, values.shape)
    return np.where(counts, values, 0.0), counts


def ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else math.nan


def _name(log: str, i: int, count: int) -> str:
    return log if count == 1 else f"{log}_{i}"


def _tensors(x: Any) -> Any:
    return _each(ops.convert_to_tensor, x)


def _each(function: Any, tensors: Any) -> Any:
    """A function of each tensor in a structure, None where there is none."""
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else function(tensor), tensors
    )
