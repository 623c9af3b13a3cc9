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

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.distillation.teacher_outputs import unwrap_inputs
from keras_fitnets.distillation.validate_data import check_inputs
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.tensors import get_mask
from keras_fitnets.utils.tensors import upcast_to_float32


class EvaluationData:
    """Some inputs in memory, batch by batch.

    Args:
        owner: whose argument `x` is, for the messages.
        x: arrays, in the structure that the networks take.
        batch_size: the most in a batch.

    Raises:
        TypeError, ValueError: for what is no array, or empty.
    """

    def __init__(self, owner: str, x: Any, batch_size: int) -> None:
        self._batch_size = check_integer("batch_size", batch_size)
        self._told_as = f"`x` of {owner}"
        flat = [one for one in keras.tree.flatten(unwrap_inputs(x)) if one is not None]
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
        self._arrays = _map_present(np.asarray, unwrap_inputs(x))
        self._size = sizes[0]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._size, self._batch_size):
            stop = start + self._batch_size
            yield _map_present(lambda array, a=start, b=stop: array[a:b], self._arrays)

    def check(self, distiller: Distiller) -> None:
        """Refuse what the Distiller's networks do not take."""
        check_inputs(distiller, self._told_as, self._arrays)


class StudentEvaluator:
    """A student beside its teacher, on the same inputs.

    Args:
        distiller: the Distiller.
        sample: the inputs; the teacher is asked of them here, and not again.
        stage: `"hint"`, `"kd"` or `"joint"`; what it does not use is not looked at.
        wanted: the positions of the hint pairs to look at, or None for all.
        eagerly: whether the student runs without a trace.

    Attributes:
        key: the last three arguments.
        provider: what the teacher said of each batch; of a hint also its mask.
        constant_hints: the positions of hints that are the same for every sample.
    """

    def __init__(
        self,
        distiller: Distiller,
        sample: EvaluationData,
        stage: str,
        wanted: Sequence[int] | None,
        eagerly: bool,
    ) -> None:
        self.key = (stage, wanted, eagerly)
        self._distiller, self._sample, self._stage = distiller, sample, stage
        pairs = range(len(distiller.hints)) if wanted is None else wanted
        self._wanted = () if stage == "kd" else tuple(pairs)
        self._output_pairs = {
            i: output_pair
            for i, output_pair in enumerate(distiller.output_pairs)
            if output_pair is not None and stage != "hint"
        }
        self.teacher_outputs = [
            _to_numpy(
                distiller.teacher_outputs.compute(
                    _to_tensors(batch), stage, self._wanted
                )
            )
            for batch in sample
        ]
        self._spreads = {
            i: _total_variance(
                [teacher_outputs.hints[i] for teacher_outputs in self.teacher_outputs]
            )
            for i in self._wanted
        }
        self.constant_hints = [i for i, spread in self._spreads.items() if spread == 0]
        self._student = self._eager if eagerly else self._traced(next(iter(sample)))

    def compute(self) -> dict[str, float]:
        """R² of each pair, and the agreement on each output."""
        missed = dict.fromkeys(self._wanted, 0.0)
        same: dict[int, Any] = {}
        for batch, teacher_outputs in zip(
            self._sample, self.teacher_outputs, strict=True
        ):
            answers, regressed = _map_present(np.asarray, self._student(batch))
            for i, prediction in zip(self._wanted, regressed, strict=True):
                hint, mask = teacher_outputs.hints[i]
                gap, _ = _apply_mask(
                    np.subtract(hint, prediction, dtype="float64"), mask
                )
                missed[i] += np.sum(gap**2)
            for i, (logits, mask) in answers.items():
                activation = self._output_pairs[i].activation
                soft = _choose_classes(self.soft_logits(teacher_outputs, i), activation)
                agreed = soft == _choose_classes(logits, activation)
                right, counts = _apply_mask(agreed, mask)
                same[i] = same.get(i, 0) + np.array([right.sum(), counts.sum()])
        pairs, outputs = len(self._distiller.hints), len(self._distiller.output_pairs)
        return {
            **{
                _name_log("hint_r2", i, pairs): 1 - divide_or_nan(missed[i], spread)
                for i, spread in self._spreads.items()
            },
            **{
                _name_log("agreement", i, outputs): divide_or_nan(*same[i])
                for i in same
            },
        }

    def regressed(self, batch: Any) -> list[Any]:
        """The regressed guided layers for a batch of the sample."""
        return _map_present(np.asarray, self._student(batch)[1])

    def soft_logits(self, teacher_outputs: TeacherOutputs, output: int) -> Any:
        """What the soft targets of an output come from, at the present temperature."""
        members = [
            ops.convert_to_tensor(member[output], "float64")
            for member in teacher_outputs.logits
        ]
        teacher, temperature = self._distiller.teacher, self._distiller.temperature
        activation = self._output_pairs[output].activation
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
            i: (output_pair.student.logits(flat[i]), get_mask(flat[i]))
            for i, output_pair in self._output_pairs.items()
        }
        return answers, [upcast_to_float32(tensor) for tensor in regressed]

    def _eager(self, x: Any) -> Any:
        return self._pass(_to_tensors(x))

    def _traced(self, first: Any) -> Any:
        """The pass as one graph for batches of any size."""
        given = [array for array in keras.tree.flatten(first) if array is not None]
        specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in given]

        def whole(*tensors: Any) -> Any:
            left = iter(tensors)
            return self._pass(_map_present(lambda _: next(left), first))

        traced = tf.function(whole, input_signature=specs, autograph=False)
        return lambda x: traced(*[a for a in keras.tree.flatten(x) if a is not None])


def _choose_classes(logits: Any, activation: str) -> Any:
    """The class, or which of the units are on."""
    if activation == "sigmoid":
        return logits > 0
    return np.argmax(logits, axis=-1, keepdims=True)


def _to_numpy(teacher_outputs: TeacherOutputs) -> TeacherOutputs:
    """A teacher_outputs in NumPy, each hint with its mask."""
    hints = {
        i: _map_present(np.asarray, (h, get_mask(h)))
        for i, h in teacher_outputs.hints.items()
    }
    return TeacherOutputs(_map_present(np.asarray, teacher_outputs.logits), hints)


def _total_variance(hints: Sequence[tuple[Any, Any]]) -> float:
    """Σ ‖u_h - mean(u_h)‖², the mean of each feature over those samples that count."""
    total = count = spread = size = 0.0
    for values, counts in itertools.starmap(_apply_mask, hints):
        total, count = total + values.sum(axis=0), count + counts.sum(axis=0)
    mean = total / np.maximum(count, 1)
    for values, counts in itertools.starmap(_apply_mask, hints):
        spread += np.sum((counts * (values - mean)) ** 2)
        size += np.sum(values**2)
    # Of numbers that are all the same float64 leaves a little.
    return 0.0 if spread <= 1e-20 * size else float(spread)


def _apply_mask(values: Any, mask: Any) -> tuple[Any, Any]:
    """Values in float64, zero where a mask leaves them out, and which of them count."""
    values = np.asarray(values, "float64")
    if mask is None:
        return values, np.ones(values.shape, bool)
    mask = np.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim))
    counts = np.broadcast_to(mask, values.shape)
    return np.where(counts, values, 0.0), counts


def divide_or_nan(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else math.nan


def _name_log(log: str, i: int, count: int) -> str:
    return log if count == 1 else f"{log}_{i}"


def _to_tensors(x: Any) -> Any:
    return _map_present(ops.convert_to_tensor, x)


def _map_present(function: Any, tensors: Any) -> Any:
    """A function of each tensor in a structure, None where there is none."""
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else function(tensor), tensors
    )
