"""Runs the teacher on batches of inputs and returns its outputs as arrays to store."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets import backend
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.distillation.teacher_outputs import find_cached
from keras_fitnets.inspection import graph
from keras_fitnets.utils.tensors import upcast_to_float32


class TeacherPass:
    """The teacher's forward pass; its outputs are columns, `"<fingerprint> <name>"`.

    Args:
        teacher: the `Teacher`.
        provider: computes its outputs.
        hint_dtype: what hints are rounded to.

    Attributes:
        fingerprints: that of each of the teacher's networks.
        keys: the fingerprint and the name of each output, but for masks.
        squared_norms: for each hint the sums of `½‖u_h‖²` and of
            `½‖u_h - round(u_h)‖²` over the examples so far.
    """

    def __init__(
        self, teacher: Teacher, provider: TeacherOutputProvider, hint_dtype: str
    ) -> None:
        self.hint_dtype = hint_dtype
        self.fingerprints = teacher.fingerprints()
        self.keys = provider.all_keys(self.fingerprints)
        self.squared_norms: dict[str, np.ndarray] = {}
        self._num_examples = 0
        self._teacher = teacher
        self._provider = provider
        # Without a normalisation there is nothing to gain from constant weights.
        has_normalization = any(
            isinstance(layer, keras.layers.BatchNormalization)
            for model in teacher.models
            for layer in graph.get_descendants(model)
        )
        self._compute = backend.compile_function(
            self._run, teacher.variables, fold=has_normalization
        )

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        """Return the columns for a batch of inputs.

        Raises:
            ValueError: for outputs that are not finite, or too large for `hint_dtype`.
        """
        # Faults are found in the same graph, and raised here, where Python can.
        outputs, squared_norms, faults = self._compute(inputs)
        for name, fault in faults.items():
            is_not_finite, is_too_large = ops.convert_to_numpy(fault)
            if is_not_finite:
                raise ValueError(
                    f"The teacher's {format_column(name)} holds NaN or infinity, of "
                    "which nothing can be learnt. Look at its weights and at the "
                    "inputs."
                )
            if is_too_large:
                raise ValueError(
                    f"The teacher's {format_column(name)} exceeds 65504, the largest "
                    f'number in {self.hint_dtype}. Pass hint_dtype="float32".'
                )
        for name, norms in squared_norms.items():
            total = self.squared_norms.get(name, 0) + ops.convert_to_numpy(norms)
            self.squared_norms[name] = total
        arrays = {name: ops.convert_to_numpy(one) for name, one in outputs.items()}
        self._num_examples += len(next(iter(arrays.values())))
        return arrays

    def columns(self, inputs: Any) -> list[Any]:
        """Return `[name, dtype, shape]` of each column; the shape is that of a row."""
        traced, *_ = backend.describe_outputs(self._compute, inputs)
        if any(None in tensor.shape[1:] for tensor in traced.values()):
            # A shape that is not known before the teacher has run.
            traced, *_ = self._compute(inputs)
        return [
            [
                name,
                np.dtype(keras.backend.standardize_dtype(tensor.dtype)).str,
                list(tensor.shape[1:]),
            ]
            for name, tensor in traced.items()
        ]

    def rename(self, column: str) -> str:
        """Return the name that a column of a cache has in this process."""
        fingerprint, _, what = column.partition(" ")
        is_mask = what.startswith("mask ")
        wanted = what.replace("mask ", "hint ", 1) if is_mask else what
        known = [name for network, name in self.keys if network == fingerprint]
        found = find_cached(wanted, known)
        if found is None:
            return column
        found = found.replace("hint ", "mask ", 1) if is_mask else found
        return f"{fingerprint} {found}"

    def rounding_report(self) -> list[str]:
        """Return what storing the hints has changed, in units of the hint loss."""
        return [
            f"{format_column(name)} in {self.hint_dtype}: rounding adds {error:.2g} to "
            f"a hint loss that is {whole:.3g} for a prediction of zero"
            for name, norms in self.squared_norms.items()
            for whole, error in [norms / self._num_examples]
            if error
        ]

    def _run(self, inputs: Any) -> tuple[dict[str, Any], ...]:
        """Compute the columns, the squared norms of hints, and what is wrong."""
        columns, squared_norms, faults = {}, {}, {}
        outputs = self._provider.compute_all(inputs, self.fingerprints)
        for fingerprint, by_name in outputs.items():
            for what, tensor in by_name.items():
                name = f"{fingerprint} {what}"
                columns[name] = tensor
                if what.startswith("output "):
                    # Infinity is no fault: a logit of -inf rules a class out.
                    is_nan = ops.any(ops.isnan(tensor))
                    faults[name] = ops.stack([is_nan, ops.zeros_like(is_nan)])
                if what.startswith("hint "):
                    columns[name] = rounded = ops.cast(tensor, self.hint_dtype)
                    # The rounding is measured in float32 at least, or in float16 the
                    # squares would overflow.
                    exact = upcast_to_float32(tensor)
                    error = exact - ops.cast(rounded, exact.dtype)
                    norms = [0.5 * ops.sum(ops.square(one)) for one in (exact, error)]
                    squared_norms[name] = ops.stack(norms)
                    finite = [ops.all(ops.isfinite(one)) for one in (tensor, rounded)]
                    faults[name] = ops.logical_not(ops.stack(finite))
        return columns, squared_norms, faults


def format_column(name: str) -> str:
    """Return a column's name for messages: without the fingerprint, in quotes."""
    return f"'{name.partition(' ')[2]}'"
