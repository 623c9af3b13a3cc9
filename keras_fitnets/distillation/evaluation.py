"""Compares a student with its teacher on inputs that are not trained on.

`StudentMonitor` logs the result after each epoch, and the plots draw it. The teacher's
outputs are computed once and kept; of the student nothing is changed.
"""

import itertools
import math
import operator
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets import backend
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.output_specs import check_decided
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.distillation.teacher_outputs import unwrap_inputs
from keras_fitnets.distillation.validate_data import check_inputs
from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.tensors import combine_masks
from keras_fitnets.utils.tensors import flatten_present
from keras_fitnets.utils.tensors import upcast_to_float32


class EvaluationData:
    """Inputs in memory, to iterate over batch by batch.

    Args:
        owner: the name of the function or class that has the argument `x`, for errors.
        x: arrays, `(samples, ...)`, in the structure that the networks take.
        batch_size: the largest number of samples in a batch.

    Raises:
        TypeError: if `x` is no array and no structure of arrays.
        ValueError: if there are no samples, or not the same number of each input.
    """

    def __init__(self, owner: str, x: Any, batch_size: int) -> None:
        self._batch_size = check_integer("batch_size", batch_size)
        self._description = f"`x` of {owner}"
        # An optional input of a network may be None.
        flat = flatten_present(unwrap_inputs(x))
        if not flat or not all(len(getattr(array, "shape", ())) for array in flat):
            raise TypeError(
                f"{self._description} must be an array of inputs, or a structure of "
                f"arrays; received {x!r:.80}. Of a dataset pass a batch of inputs: "
                "`x, y = next(iter(dataset.unbatch().batch(300)))`."
            )
        sizes = sorted({len(array) for array in flat})
        if sizes[0] == 0 or len(sizes) > 1:
            raise ValueError(
                f"{self._description} must hold samples, the same number of each "
                f"input; received {' and '.join(map(str, sizes))}. Some hundred are "
                "enough."
            )
        self._arrays = _map_present(np.asarray, unwrap_inputs(x))
        self._size = sizes[0]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._size, self._batch_size):
            batch = slice(start, start + self._batch_size)
            yield _map_present(operator.itemgetter(batch), self._arrays)

    def check(self, distiller: Distiller) -> None:
        """Raise if the Distiller's networks do not take these inputs.

        Where the networks are fixed to a size of batch, the batches have that size.
        """
        check_inputs(distiller, self._description, self._arrays)
        fixed = graph.get_batch_size(distiller.student)
        self._batch_size = self._batch_size if fixed is None else fixed


class StudentEvaluator:
    """Measures how well a student predicts the hints and the outputs of its teacher.

    Args:
        distiller: the Distiller.
        data: the inputs. The teacher is run on them here, once.
        stage: `"hint"`, `"kd"` or `"joint"`; only what the stage uses is measured.
        active: the positions of the hint pairs to measure, or None for all.
        eagerly: whether the student runs eagerly rather than as a traced graph.

    Attributes:
        key: the last three arguments; an evaluator can be used again where they agree.
        teacher_outputs: the `TeacherOutputs` of each batch as NumPy arrays.
        constant_hints: the positions of hints that are the same for every sample.
    """

    def __init__(
        self,
        distiller: Distiller,
        data: EvaluationData,
        stage: str,
        active: Sequence[int] | None,
        eagerly: bool,
    ) -> None:
        self.key = (stage, active, eagerly)
        self._distiller = distiller
        self._data = data
        self._stage = stage
        pairs = range(len(distiller.hints)) if active is None else active
        self._active = () if stage == "kd" else tuple(pairs)
        # Stage "hint" looks at no output, and its outputs need not even agree.
        output_pairs = distiller.output_pairs if stage != "hint" else []
        check_decided(output_pairs)
        self._output_pairs = {
            i: output_pair
            for i, output_pair in enumerate(output_pairs)
            if output_pair is not None
        }
        self.teacher_outputs: list[TeacherOutputs] = []
        for batch in data:
            outputs = distiller.teacher_outputs.compute(
                _to_tensors(batch), stage, self._active
            )
            logits = _map_present(ops.convert_to_numpy, outputs.logits)
            hints = _map_present(ops.convert_to_numpy, outputs.hints)
            self.teacher_outputs.append(TeacherOutputs(logits, hints))
        # What R² divides by. It depends on the teacher alone, unless the student has a
        # mask. A hint and a prediction of different shapes have no R².
        self._variances = {
            i: _total_variance([outputs.hints[i] for outputs in self.teacher_outputs])
            for i in self._active
            if distiller.objective.can_compare[i]
        }
        # Numbers of a regression have no class to agree on.
        self._output_variances = {
            i: _total_variance(
                [
                    (self.soft_logits(outputs, i), None)
                    for outputs in self.teacher_outputs
                ]
            )
            for i, output_pair in self._output_pairs.items()
            if output_pair.activation == "linear"
        }
        self.constant_hints = [i for i, v in self._variances.items() if v == 0]
        if eagerly:
            self._student = self._run_eagerly
        else:
            self._student = self._trace(next(iter(data)))

    def compute(self) -> dict[str, float]:
        """Return R² of each pair, and the agreement on each output, by their logs.

        R² is `1 - Σ ‖u_h - r(v_g)‖² / Σ ‖u_h - mean(u_h)‖²`, with sums over the samples
        and those of their steps that the masks of hint and guided layer leave. The
        agreement is the fraction of the samples for which teacher and student choose
        the same class. An output of numbers has an R² in its place.
        """
        squared_errors = dict.fromkeys(self._variances, 0.0)
        output_errors = dict.fromkeys(self._output_variances, 0.0)
        # The hints with the masks of both sides, where the student has one.
        masked: dict[int, list[tuple[Any, Any]]] = {}
        # For each output how often the choices are the same, and out of how many.
        agreed: dict[int, Any] = {}
        for batch, outputs in zip(self._data, self.teacher_outputs, strict=True):
            found = self._student(batch)
            student_logits, regressed = _map_present(ops.convert_to_numpy, found)
            for i, (prediction, own_mask) in zip(self._active, regressed, strict=True):
                if i not in self._variances:
                    continue
                hint, mask = outputs.hints[i]
                self._check_same_shape(i, hint, prediction)
                if own_mask is not None:
                    mask = ops.convert_to_numpy(combine_masks(mask, own_mask))
                    masked.setdefault(i, []).append((hint, mask))
                # Sums over thousands of samples lose digits in float32.
                error = np.subtract(hint, prediction, dtype="float64")
                squared_errors[i] += np.sum(_apply_mask(error, mask)[0] ** 2)
            for i, (logits, mask) in student_logits.items():
                activation = self._output_pairs[i].activation
                target = self.soft_logits(outputs, i)
                if activation == "linear":
                    error = np.subtract(target, logits, dtype="float64")
                    output_errors[i] += np.sum(error**2)
                    continue
                is_same = _choose_classes(target, activation) == _choose_classes(
                    logits, activation
                )
                same, counted = _apply_mask(is_same, mask)
                agreed[i] = agreed.get(i, 0) + np.array([same.sum(), counted.sum()])
        variances = {
            i: _total_variance(masked[i]) if i in masked else variance
            for i, variance in self._variances.items()
        }
        num_pairs = len(self._distiller.hints)
        num_outputs = self._distiller.objective.outputs.count
        return {
            **{
                _name_log("hint_r2", i, num_pairs): 1
                - divide_or_nan(squared_errors[i], variance)
                for i, variance in variances.items()
            },
            **{
                _name_log("agreement", i, num_outputs): divide_or_nan(same, counted)
                for i, (same, counted) in agreed.items()
            },
            **{
                _name_log("output_r2", i, num_outputs): 1
                - divide_or_nan(output_errors[i], variance)
                for i, variance in self._output_variances.items()
            },
        }

    def _check_same_shape(self, i: int, hint: Any, prediction: Any) -> None:
        """Raise if NumPy would broadcast one of them, of a size unknown until now."""
        if hint.shape != prediction.shape:
            raise ValueError(
                f"{self._distiller.hints[i]} compares a hint of shape {hint.shape} "
                f"with a prediction of shape {prediction.shape}: teacher and student "
                "reduce the size of these inputs differently. Let their strides agree."
            )

    def predict_hints(self, batch: Any) -> list[tuple[Any, Any]]:
        """Return each pair's regressed guided layer, and its mask, for a batch."""
        return _map_present(ops.convert_to_numpy, self._student(batch)[1])

    def soft_logits(self, teacher_outputs: TeacherOutputs, output: int) -> Any:
        """Return an output's logits for the whole ensemble, at the present τ."""
        members = [
            ops.convert_to_tensor(member[output], backend.widest_float())
            for member in teacher_outputs.logits
        ]
        teacher, temperature = self._distiller.teacher, self._distiller.temperature
        activation = self._output_pairs[output].activation
        logits = teacher.soft_logits(members, temperature, activation)
        return ops.convert_to_numpy(logits)

    def _run(self, x: Any) -> tuple[dict[int, Any], list[Any]]:
        """Run the student; return logits with their masks, and regressed layers."""
        run_student = self._distiller.objective.run_student
        mask_output = self._distiller.objective.mask_output
        outputs, regressed = run_student(x, self._stage, self._active, training=False)
        flat = keras.tree.flatten(outputs)
        logits = {
            i: (output_pair.student.logits(flat[i]), mask_output(i, flat[i], x))
            for i, output_pair in self._output_pairs.items()
        }
        return logits, [(upcast_to_float32(tensor), mask) for tensor, mask in regressed]

    def _run_eagerly(self, x: Any) -> Any:
        # What a layer assigns to its variables meanwhile, such as the state of a seed
        # generator, is dropped, as in a compiled function.
        with keras.StatelessScope():
            return self._run(_to_tensors(x))

    def _trace(self, example: Any) -> Any:
        """Return `_run` as one graph for batches of any size like this one."""

        # Inputs that are None cannot be arguments of a graph: only the arrays are
        # passed, and put back into the structure inside.
        def run(*tensors: Any) -> Any:
            remaining = iter(tensors)
            return self._run(_map_present(lambda _: next(remaining), example))

        distiller = self._distiller
        variables = [*distiller.variables, *distiller.teacher.variables]
        compiled = backend.compile_function(run, variables)
        return lambda x: compiled(*flatten_present(x))


def _choose_classes(logits: Any, activation: str) -> Any:
    """Return the most likely class, or which of the independent units are on.

    A unit is on where its probability is above 1/2, that is, its logit above 0.
    """
    if activation == "sigmoid":
        return logits > 0
    return np.argmax(logits, axis=-1, keepdims=True)


def _total_variance(hints: Sequence[tuple[Any, Any]]) -> float:
    """Return Σ ‖u_h - mean(u_h)‖² over the batches of a hint, each with its mask.

    The mean is that of each feature over the samples and steps that the masks leave.
    """
    # Two passes: Σ u² - (Σ u)² / n would be a difference of two large numbers.
    total = count = variance = size = 0.0
    for values, counts in itertools.starmap(_apply_mask, hints):
        total, count = total + values.sum(axis=0), count + counts.sum(axis=0)
    mean = total / np.maximum(count, 1)
    for values, counts in itertools.starmap(_apply_mask, hints):
        variance += np.sum((counts * (values - mean)) ** 2)
        size += np.sum(values**2)
    # Where all samples are the same, the rounding of their mean leaves a relative error
    # of about 1e-16 in float64, whose square is below this bound.
    return 0.0 if variance <= 1e-20 * size else float(variance)


def _apply_mask(values: Any, mask: Any) -> tuple[Any, Any]:
    """Return values in float64, zero where masked, and which of them count."""
    values = np.asarray(values, "float64")
    if mask is None:
        return values, np.ones(values.shape, bool)
    # The mask has an axis for the steps and none for the features.
    mask = np.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim))
    counts = np.broadcast_to(mask, values.shape)
    return np.where(counts, values, 0.0), counts


def divide_or_nan(part: Any, whole: Any) -> float:
    """Return `part / whole`, NaN where there is nothing to divide by."""
    return float(part) / float(whole) if whole else math.nan


def _name_log(log: str, i: int, count: int) -> str:
    """Return the name of a log; only where there are several is it numbered."""
    return log if count == 1 else f"{log}_{i}"


def _to_tensors(x: Any) -> Any:
    return _map_present(ops.convert_to_tensor, x)


def _map_present(function: Any, tensors: Any) -> Any:
    """Apply a function to each tensor in a structure and leave each None as it is."""
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else function(tensor), tensors
    )
