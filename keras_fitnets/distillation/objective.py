"""From a batch to the losses of a stage: what a train step differentiates."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.output_specs import pair_outputs
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.feature_extractors import create_feature_extractor
from keras_fitnets.layers import HintRegressor
from keras_fitnets.losses import hint_loss
from keras_fitnets.losses import soft_target_crossentropy
from keras_fitnets.utils.tensors import get_mask
from keras_fitnets.utils.tensors import zero_masked

TERMS = ("label_loss", "kd_loss", "hint_loss")


class Objective:
    """The terms of Eq. 2 and Eq. 3 for a teacher and a student.

    Everything here is a function of its arguments and of the networks' weights; what
    is trained, and how, is the caller's.

    Args:
        teacher: the `Teacher`.
        student: the student network.
        hints: the `Hint` pairs.
        activation, from_logits, temperature_squared: as for `Distiller`.
        share: from a mean over so many items of a part of a batch to its share of the
            mean over the whole batch; the losses of the parts add up to the batch's.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: keras.Model,
        hints: Sequence[Hint],
        activation: Any,
        from_logits: bool | str,
        temperature_squared: bool,
        share: Callable[[Any, Any], Any],
    ) -> None:
        self._share = share
        self._teacher = teacher
        self._student = student
        self._hints = hints
        self._temperature_squared = temperature_squared
        inputs = _find_common_inputs([*teacher.models, student])
        self.output_pairs = pair_outputs(
            teacher.models,
            student,
            inputs,
            activation,
            members_from_logits=teacher.from_logits,
            student_from_logits=from_logits,
        )
        self.teacher_outputs = TeacherOutputProvider(
            teacher, hints, self.output_pairs, inputs
        )
        guided = [hint.guided_layer for hint in hints]
        self._features: Any = (
            create_feature_extractor(student, guided, inputs) if hints else None
        )
        self.regressors = [
            _create_regressor(hint, teacher, student, hint_shape, guided_shape)
            for hint, hint_shape, guided_shape in zip(
                hints,
                self.teacher_outputs.shapes,
                self._features.shapes if self._features else [],
                strict=True,
            )
        ]

    def student(
        self, x: Any, stage: str, wanted: Sequence[int], training: bool
    ) -> tuple[Any, list[Any]]:
        """The student's outputs and its regressed guided layers, in one pass."""
        if stage == "kd":
            return graph.call_network(self._student, x, training), []
        if stage == "hint":
            outputs, guided = None, self._features.extract(x, training, wanted)
        else:
            outputs, guided = self._features.outputs_and_features(x, training)
        regressed = [
            # Masked steps are zero, or a kernel would mix them with their neighbours.
            graph.call_network(
                self.regressors[i], zero_masked(g, get_mask(g)), training
            )
            for i, g in zip(wanted, guided, strict=True)
        ]
        return outputs, regressed

    def label_loss(self, loss: Any, y: Any, outputs: Any, sample_weight: Any) -> Any:
        """The first term of Eq. 2: what `compile` was given, a mean over samples."""
        flat = keras.tree.flatten(outputs)
        items = ops.shape(flat[0])[0]
        # Keras returns one number for all outputs: they can be weighed only as one.
        if len(flat) == 1 and get_mask(flat[0]) is not None:
            items = ops.sum(ops.cast(get_mask(flat[0]), "int32"))
        return self._share(loss(y, outputs, sample_weight), items)

    def kd_loss(
        self,
        teacher_outputs: TeacherOutputs,
        outputs: Any,
        temperature: Any,
        sample_weight: Any,
    ) -> Any:
        """The second term of Eq. 2, summed over the outputs, a mean over samples."""
        flat = keras.tree.flatten(outputs)
        weights = _weight_per_output(sample_weight, len(flat))
        losses = []
        for i, output_pair in enumerate(self.output_pairs):
            if output_pair is None:
                continue
            logits = _cast_to_widest_dtype(
                [member[i] for member in teacher_outputs.logits]
            )
            values = soft_target_crossentropy(
                self._teacher.soft_logits(logits, temperature, output_pair.activation),
                output_pair.student.logits(flat[i]),
                temperature,
                output_pair.activation,
                temperature_squared=self._temperature_squared,
            )
            losses.append(self._mean(values, weights[i], get_mask(flat[i])))
        return sum(_cast_to_widest_dtype(losses))

    def hint_loss(
        self,
        teacher_outputs: TeacherOutputs,
        regressed: Sequence[Any],
        wanted: Sequence[int],
        sample_weight: Any,
    ) -> Any:
        """Eq. 3, summed over the pairs by their weights, a mean over samples.

        Weights for several outputs or time steps count by their mean per sample.
        """
        weight = _weight_per_sample(sample_weight)
        losses = []
        for i, prediction in zip(wanted, regressed, strict=True):
            hint = teacher_outputs.hints[i]
            pair = self._mean(hint_loss(hint, prediction, get_mask(hint)), weight)
            losses.append(self._hints[i].weight * pair)
        return sum(_cast_to_widest_dtype(losses))

    def penalties(self, stage: str, wanted: Sequence[int]) -> list[Any]:
        """Regularisation and `add_loss` terms of the student's last pass."""
        if stage == "kd":
            return self._student.losses
        regressors = [self.regressors[i].losses for i in wanted]
        if stage == "hint":
            return sum(regressors, self._features.losses(wanted))
        return sum(regressors, self._student.losses)

    def trainable_variables(self, stage: str, wanted: Sequence[int]) -> list[Any]:
        """What a stage trains."""
        if stage == "kd":
            return self._student.trainable_variables
        regressors = [self.regressors[i].trainable_variables for i in wanted]
        if stage == "hint":
            return sum(regressors, self.guided_variables(wanted))
        return sum(regressors, self._student.trainable_variables)

    def guided_variables(self, wanted: Sequence[int]) -> list[Any]:
        """The student's trainable variables up to its guided layers."""
        return self._features.trainable_variables(wanted)

    def _mean(self, values: Any, weight: Any = None, mask: Any = None) -> Any:
        """The mean over samples, and over those time steps that the mask leaves."""
        count = ops.cast(ops.prod(ops.shape(values)), values.dtype)
        if mask is not None:
            mask = ops.cast(_expand_to_rank(mask, values), values.dtype)
            count = ops.sum(mask * ops.ones_like(values))
            values = zero_masked(values, ops.cast(mask, "bool"))
        if weight is not None:
            values = values * ops.cast(_expand_to_rank(weight, values), values.dtype)
        return self._share(ops.divide_no_nan(ops.sum(values), count), count)


def _find_common_inputs(networks: Sequence[keras.Model]) -> Any:
    """Symbolic inputs that fit all networks, or None if none shows its own."""
    for network in networks:
        if not network.built:
            raise ValueError(
                f"Network '{network.name}' has no weights yet, since its input shape "
                "is unknown. Start it with keras.Input(...), or call "
                "`build(input_shape)` on it, before it is distilled."
            )
    known = [(n, i) for n in networks if (i := graph.get_inputs(n)) is not None]
    for network, inputs in known[:-1]:
        student, expected = known[-1]
        if not graph.has_same_structure(inputs, expected):
            raise ValueError(
                "Teacher and student must take the same inputs; "
                f"'{network.name}' takes {graph.format_shapes(inputs)}, "
                f"'{student.name}' "
                f"takes {graph.format_shapes(expected)}. Put a resizing or reshaping "
                "layer "
                "in front of one."
            )
    return known[0][1] if known else None


def _create_regressor(
    hint: Hint,
    teacher: Teacher,
    student: keras.Model,
    hint_shape: tuple[int | None, ...],
    guided_shape: tuple[int | None, ...],
) -> keras.layers.Layer:
    """The regressor of a pair, built for the shapes of its layers."""
    network = teacher.models[hint.member]
    regressor = hint.regressor
    if isinstance(regressor, str):
        regressor = HintRegressor(
            hint_shape,
            kind=regressor,
            data_format=activations.data_format(student, hint.guided_layer),
            target_data_format=activations.data_format(network, hint.hint_layer),
            dtype=graph.find_layer(student, hint.guided_layer).dtype_policy,
            **activations.nonlinearity(network, hint.hint_layer),
        )
    try:
        # A symbolic call creates the weights of any layer, with or without a `build`.
        guided = keras.KerasTensor((None, *guided_shape), dtype=regressor.compute_dtype)
        given = tuple(regressor(guided).shape)[1:]
        if not graph.has_same_shapes([given], [hint_shape]):
            raise ValueError(f"The regressor gives {given}.")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Guided layer '{hint.guided_layer}' of student '{student.name}', of shape "
            f"{guided_shape}, cannot be led to hint layer '{hint.hint_layer}' of "
            f"teacher '{network.name}', of shape {hint_shape}. {error}"
        ) from error
    return regressor


def _cast_to_widest_dtype(tensors: list[Any]) -> list[Any]:
    dtype = keras.backend.result_type(*(tensor.dtype for tensor in tensors))
    return [ops.cast(tensor, dtype) for tensor in tensors]


def _expand_to_rank(weight: Any, values: Any) -> Any:
    weight = ops.convert_to_tensor(weight)
    if len(weight.shape) == len(values.shape) + 1 and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, -1)
    while len(weight.shape) < len(values.shape):
        weight = ops.expand_dims(weight, -1)
    if len(weight.shape) > len(values.shape):
        raise ValueError(
            f"A sample weight or mask of shape {tuple(weight.shape)} does not fit "
            f"losses of shape {tuple(values.shape)}. Pass a weight for each sample, or "
            "for each sample and time step."
        )
    return weight


def _weight_per_output(sample_weight: Any, count: int) -> list[Any]:
    if not keras.tree.is_nested(sample_weight):
        return [sample_weight] * count
    flat = keras.tree.flatten(sample_weight)
    if len(flat) != count:
        raise ValueError(
            f"`sample_weight` holds {len(flat)} arrays for a student with {count} "
            "output(s). Pass one array for all outputs, or one for each."
        )
    return flat


def _weight_per_sample(sample_weight: Any) -> Any:
    flat = [w for w in keras.tree.flatten(sample_weight) if w is not None]
    if not flat:
        return None
    means = []
    for weight in flat:
        weight = ops.cast(weight, "float32")
        axes = tuple(range(1, len(weight.shape)))
        means.append(ops.mean(weight, axis=axes) if axes else weight)
    return sum(means) / len(means)
