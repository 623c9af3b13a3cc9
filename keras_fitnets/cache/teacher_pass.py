"""The teacher's outputs to batches of inputs, as arrays to be kept."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.inspection import graph

# A graph of TensorFlow's holds up to 2 GB.
MOST_BYTES = 2**30


class TeacherPass:
    """The teacher's outputs as arrays, by fingerprint and name."""

    def __init__(
        self, teacher: Teacher, provider: TeacherOutputProvider, hint_dtype: str
    ) -> None:
        self.hint_dtype = hint_dtype
        self.fingerprints = teacher.fingerprints()
        self.names = provider.all_keys(self.fingerprints)
        self._teacher = teacher
        self._provider = provider
        self._compute = tf.function(self._trace, reduce_retracing=True, autograph=False)
        # ½‖u_h‖² and ½‖u_h - rounded u_h‖², for each hint, and of how many examples.
        self.squared_norms: dict[str, np.ndarray] = {}
        self.examples = 0

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        outputs, halves, flaws = self._compute(inputs)
        for name, flaw in flaws.items():
            not_finite, too_large = flaw.numpy()
            if not_finite:
                raise ValueError(
                    f"The teacher's {format_column(name)} holds NaN or infinity. Look "
                    "at its "
                    "weights and at the inputs; nothing can be learnt from it."
                )
            if too_large:
                raise ValueError(
                    f"The teacher's {format_column(name)} exceeds what "
                    f"{self.hint_dtype} can "
                    'hold, 65504. Pass hint_dtype="float32".'
                )
        for name, half in halves.items():
            self.squared_norms[name] = self.squared_norms.get(name, 0) + half.numpy()
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        self.examples += len(next(iter(arrays.values())))
        return arrays

    def fields(self, inputs: Any) -> list[Any]:
        """Name, dtype and shape of each array, if it can be without running it."""
        traced, *_ = self._compute.get_concrete_function(inputs).structured_outputs
        if any(None in tensor.shape[1:] for tensor in traced.values()):
            traced, *_ = self._compute(inputs)
        return [
            [name, tensor.dtype.as_numpy_dtype().dtype.str, tensor.shape[1:].as_list()]
            for name, tensor in traced.items()
        ]

    def rounding_report(self) -> list[str]:
        """What storing the hints has changed, in the units of the hint loss."""
        return [
            f"{format_column(name)} in {self.hint_dtype}: rounding adds {error:.2g} to "
            "a hint "
            f"loss that is {whole:.3g} for a prediction of zero"
            for name, half in self.squared_norms.items()
            for whole, error in [half / self.examples]
            if error
        ]

    def _trace(self, inputs: Any) -> tuple[dict[str, Any], ...]:
        """The outputs; of hints what rounding does to them; of all what is wrong."""
        outputs, halves, flaws = {}, {}, {}
        with keras.StatelessScope(state_mapping=self._constants()):
            whole = self._provider.compute_all(inputs, self.fingerprints)
        for member, said in whole.items():
            for what, tensor in said.items():
                name = f"{member} {what}"
                outputs[name] = tensor
                if what.startswith("output "):
                    # A class may be ruled out by a logit of -inf.
                    nan = tf.reduce_any(tf.math.is_nan(tensor))
                    flaws[name] = tf.stack([nan, False])
                if what.startswith("hint "):
                    outputs[name] = kept = tf.cast(tensor, self.hint_dtype)
                    dtype = keras.backend.result_type(tensor.dtype, "float32")
                    exact, rounded = tf.cast(tensor, dtype), tf.cast(kept, dtype)
                    losses = [tf.nn.l2_loss(exact), tf.nn.l2_loss(exact - rounded)]
                    halves[name] = tf.stack(losses)
                    finite = [tf.math.is_finite(one) for one in (tensor, kept)]
                    flaws[name] = ~tf.stack([tf.reduce_all(one) for one in finite])
        return outputs, halves, flaws

    def _constants(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """The weights of a teacher with normalisations as constants, if they fit.

        TensorFlow folds the constants of a normalisation into the kernel before it.
        """
        models = self._teacher.models
        layers = [one for model in models for one in graph.get_descendants(model)]
        if not any(isinstance(o, keras.layers.BatchNormalization) for o in layers):
            return []
        weights = {id(w): w for model in models for w in model.variables}.values()
        with tf.init_scope():
            values = [keras.ops.convert_to_numpy(weight) for weight in weights]
        if sum(value.nbytes for value in values) > MOST_BYTES:
            return []
        constants = [tf.constant(value) for value in values]
        return list(zip(weights, constants, strict=True))


def format_column(name: str) -> str:
    """A field's name without the fingerprint."""
    return f"'{name.partition(' ')[2]}'"
