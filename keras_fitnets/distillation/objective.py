"""The terms of Eq. 2 and Eq. 3: what a training step differentiates.

`Objective.run_student` runs the student on a batch, with the regressors on its guided
layers. `label_loss`, `kd_loss` and `hint_loss` compare the result with the labels and
with the `TeacherOutputs`. Each term is a mean over the samples of the global batch;
`Distiller._evaluate` multiplies the terms by λ and `hint_weight` and adds them up.

On several replicas each holds a part of the batch, perhaps an empty one. `share`
(`keras_fitnets.distribution.replicas.replica_share`) scales the mean of a part so that
the sum over the replicas is the mean over the global batch; that of an empty replica
is 0.
"""

import functools
import logging
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_fitnets.distillation.hint_losses import check_own_loss
from keras_fitnets.distillation.hint_losses import evaluate_own_loss
from keras_fitnets.distillation.hint_losses import is_free
from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.output_names import align_to_outputs
from keras_fitnets.distillation.output_specs import OutputMatcher
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.padding import find_padding_of_hint
from keras_fitnets.distillation.padding import find_padding_of_output
from keras_fitnets.distillation.padding import has_steps_of
from keras_fitnets.distillation.padding import read_padding
from keras_fitnets.distillation.shared_layers import check_shared_layers
from keras_fitnets.distillation.shared_layers import find_assigned_weights
from keras_fitnets.distillation.soft_losses import soft_loss
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.augmentation import find_mixing_layers
from keras_fitnets.inspection.augmentation import find_moving_layers
from keras_fitnets.inspection.feature_extractors import create_feature_extractor
from keras_fitnets.layers import HintRegressor
from keras_fitnets.losses import hint_loss
from keras_fitnets.utils.keras_private import get_mask
from keras_fitnets.utils.runtime_checks import check_same_shape
from keras_fitnets.utils.tensors import cast_to_widest_dtype
from keras_fitnets.utils.tensors import combine_masks
from keras_fitnets.utils.tensors import divide_or_zero
from keras_fitnets.utils.tensors import flatten_present
from keras_fitnets.utils.tensors import upcast_to_float32
from keras_fitnets.utils.tensors import zero_masked

TERMS = ("label_loss", "kd_loss", "hint_loss")


class Objective:
    """The terms of Eq. 2 and Eq. 3 for a teacher and a student.

    The methods depend on their arguments and on the networks' weights alone, and
    change nothing. The caller decides what is trained, and how.

    Args:
        teacher: the `Teacher`.
        student: the student network.
        hints: the `Hint` pairs.
        activation, from_logits, temperature_squared, soft_loss, soft_weights: as for
            `Distiller`.
        get_output_pairs: returns how each output is compared, None for one that is left
            out. The label loss may decide it, which is known when it is compiled.
        share: a function of the mean over the items on one replica and their number;
            returns its share of the mean over all replicas. The shares add up to it.

    Attributes:
        outputs: the `OutputMatcher`, which says how each output is compared.
        teacher_outputs: the `TeacherOutputProvider`.
        regressors: the regressor of each pair, built.
        can_compare: for each pair whether the hint and its prediction have one shape.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: keras.Model,
        hints: Sequence[Hint],
        activation: Any,
        from_logits: bool | str,
        temperature_squared: bool,
        soft_loss: Any,
        get_output_pairs: Callable[[], list[OutputPair | None]],
        share: Callable[[Any, Any], Any],
    ) -> None:
        self._share = share
        self._teacher = teacher
        self._student = student
        self._hints = hints
        self._temperature_squared = temperature_squared
        self._get_output_pairs = get_output_pairs
        inputs = _find_common_inputs([*teacher.models, student])
        self.outputs = OutputMatcher(
            teacher.models,
            student,
            inputs,
            activation,
            members_from_logits=teacher.from_logits,
            student_from_logits=from_logits,
            soft_loss=soft_loss,
        )
        self.teacher_outputs = TeacherOutputProvider(
            teacher, hints, get_output_pairs, inputs
        )
        self.regressors: list[keras.layers.Layer] = []
        self.can_compare: list[bool] = []
        # Without hints nothing asks for the student's features.
        self._features: Any = None
        if hints:
            guided = [hint.guided_layer for hint in hints]
            self._features = create_feature_extractor(student, guided, inputs)
            hint_shapes = self.teacher_outputs.shapes
            for hint, hint_shape, guided_shape in zip(
                hints, hint_shapes, self._features.shapes, strict=True
            ):
                regressor, prediction_shape = _create_regressor(
                    hint, teacher, student, hint_shape, guided_shape
                )
                self.regressors.append(regressor)
                self.can_compare.append(
                    graph.has_same_shapes([prediction_shape], [hint_shape])
                )
                _note_large_regressor(
                    hint.guided_layer,
                    student.name,
                    _count_weights(regressor.trainable_variables),
                    _count_weights(student.trainable_variables),
                )
        shared = check_shared_layers(teacher.models, [student, *self.regressors])
        self._has_shared_layers = bool(shared)
        self._assigned = find_assigned_weights(student, inputs, shared)
        self._paddings = [
            find_padding_of_hint(hint, inputs, hint_shape)
            for hint, hint_shape in zip(hints, self.teacher_outputs.shapes, strict=True)
        ]
        # A loss of the user's own may have no value for each step.
        self._output_paddings = [
            find_padding_of_output(inputs, shape) if own is None else None
            for shape, own in zip(
                self.outputs.shapes, self.outputs.soft_losses, strict=True
            )
        ]

    def run_student(
        self, x: Any, stage: str, active: Sequence[int], training: bool
    ) -> tuple[Any, list[Any]]:
        """Run the student once, and the regressors on its guided layers.

        Args:
            x: a batch of plain inputs.
            stage: `"hint"`, `"kd"` or `"joint"`.
            active: the positions of the pairs that the stage uses.
            training: whether the layers run in training mode.

        Returns:
            The student's outputs, None in stage "hint", which runs no layer above the
            guided ones; and for each active pair the regressed guided layer, in the
            shape of the hint, with the mask of its steps, or None.

        Raises:
            ValueError: if a layer that the teacher shares was unfrozen since.
        """
        if training and self._has_shared_layers:
            check_shared_layers(self._teacher.models, [self._student, *self.regressors])
        # Layers that the teacher shares may change its weights, though they are frozen.
        before = [
            (weight, ops.copy(weight))
            for weight in (self._assigned if training else ())
        ]
        outputs, guided = self._run_networks(x, stage, active, training)
        for weight, value in before:
            weight.assign(value)
        regressed = []
        # Stage "kd" looks at no hint.
        active = () if stage == "kd" else active
        for i, features in zip(active, guided, strict=True):
            padding = read_padding(self._paddings[i], x)
            mask = get_mask(features)
            if has_steps_of(padding, features):
                mask = combine_masks(mask, padding)
            # Zero the masked time steps first: the regressor's convolution would
            # otherwise mix padding into the valid steps beside it.
            features = zero_masked(features, mask)
            prediction = graph.call_network(self.regressors[i], features, training)
            mask = _mask_prediction(self.regressors[i], features, prediction, mask)
            if has_steps_of(padding, prediction):
                mask = combine_masks(mask, padding)
            regressed.append((prediction, mask))
        return outputs, regressed

    def _run_networks(
        self, x: Any, stage: str, active: Sequence[int], training: bool
    ) -> tuple[Any, list[Any]]:
        """Return the student's outputs and guided layers, as far as they are run."""
        if stage == "kd":
            return graph.call_network(self._student, x, training), []
        if stage == "hint":
            return None, self._features.extract(x, training, active)
        return self._features.outputs_and_features(x, training)

    def label_loss(self, loss: Any, y: Any, outputs: Any, sample_weight: Any) -> Any:
        """Evaluate the label loss, the first term of Eq. 2.

        Args:
            loss: a function of labels, outputs and sample weights that returns the
                mean over this replica's samples.
            y: the labels, in the structure of the outputs.
            outputs: the student's outputs.
            sample_weight: None, or weights as `fit` takes them.
        """
        samples = ops.shape(keras.tree.flatten(outputs)[0])[0]
        return self._share(loss(y, outputs, sample_weight), samples)

    def kd_loss(
        self,
        teacher_outputs: TeacherOutputs,
        outputs: Any,
        temperature: Any,
        sample_weight: Any,
        output_weights: Sequence[Any],
        x: Any,
    ) -> Any:
        """Evaluate the soft-target loss, the second term of Eq. 2, without λ.

        Args:
            teacher_outputs: those of the batch.
            outputs: the student's outputs.
            temperature: τ, a scalar tensor.
            sample_weight: None, or weights as `fit` takes them.
            output_weights: the factor of each output's loss; None is 1.
            x: the batch of plain inputs, which may say what is padding.

        Returns:
            The weighted sum over the outputs of their means over samples, or, of a
            sequence, over the samples' valid steps. With weights for the steps, an
            input that says what is padding is not asked.
        """
        flat = keras.tree.flatten(outputs)
        names = self.outputs.names
        weights = align_to_outputs(sample_weight, names, len(flat), "sample_weight")
        losses = []
        for i, output_pair in enumerate(self._get_output_pairs()):
            if output_pair is None:
                continue
            # The networks of an ensemble may compute in different precisions.
            member_logits = cast_to_widest_dtype(
                [member[i] for member in teacher_outputs.logits]
            )
            values = soft_loss(
                self._teacher.soft_logits(
                    member_logits, temperature, output_pair.activation
                ),
                output_pair.student.logits(flat[i]),
                temperature,
                output_pair,
                self._temperature_squared,
                own=self.outputs.soft_losses[i],
            )
            # Weights of the steps say which of them count, as for the label loss, which
            # no input masks: both terms must weigh a step alike.
            mask = (
                get_mask(flat[i])
                if _has_steps(weights[i])
                else self.mask_output(i, flat[i], x)
            )
            mean = self._mean(values, weights[i], mask)
            factor = output_weights[i]
            losses.append(mean if factor is None else mean * factor)
        return sum(cast_to_widest_dtype(losses))

    def mask_output(self, i: int, output: Any, x: Any) -> Any:
        """Return the mask of an output's steps, None without one.

        Args:
            i: the position of the output.
            output: one of the student's outputs.
            x: the batch of plain inputs.
        """
        padding = read_padding(self._output_paddings[i], x)
        return combine_masks(get_mask(output), padding)

    def hint_loss(
        self,
        teacher_outputs: TeacherOutputs,
        regressed: Sequence[Any],
        active: Sequence[int],
        sample_weight: Any,
    ) -> Any:
        """Evaluate the hint loss, Eq. 3, without `hint_weight`.

        Args:
            teacher_outputs: those of the batch.
            regressed: the regressed guided layers with their masks, as `run_student`
                returns them.
            active: the positions of their pairs.
            sample_weight: None, or weights as `fit` takes them. Of weights for several
                outputs or time steps the mean of each sample counts.

        Returns:
            The sum over the pairs, each with its own weight, of the means over samples.
        """
        weight = _weight_per_sample(sample_weight)
        losses = []
        for i, (prediction, own_mask) in zip(active, regressed, strict=True):
            hint, mask = teacher_outputs.hints[i]
            # What either side rules out is padding.
            mask = combine_masks(mask, own_mask)
            if self.can_compare[i]:
                hint = check_same_shape(hint, prediction, self._describe_pair(i))
            if self._hints[i].loss is None:
                values = hint_loss(hint, prediction, mask)
            else:
                values = evaluate_own_loss(self._hints[i].loss, hint, prediction, mask)
            pair_loss = self._mean(values, weight)
            losses.append(self._hints[i].weight * pair_loss)
        return sum(cast_to_widest_dtype(losses))

    def _describe_pair(self, i: int) -> str:
        """Return what a message calls a hint and its prediction."""
        hint = self._hints[i]
        return (
            f"hint layer '{hint.hint_layer}' of teacher "
            f"'{self._teacher.models[hint.member].name}' and guided layer "
            f"'{hint.guided_layer}' of student '{self._student.name}'"
        )

    def check_augmentation(self, stage: str) -> None:
        """Raise if the student alone moves the pixels that a stage compares.

        Raises:
            ValueError: naming the layer, and where it would be right.
        """
        for layer, what in self._iterate_moved(stage):
            raise ValueError(
                f"Layer '{layer.name}', a {type(layer).__name__}, moves the "
                f"pixels of student '{self._student.name}' at random in training, and "
                f"the teacher is given the images as they are: {what}. Move the layer "
                "into the data pipeline, `dataset.map(...)`, so that both networks see "
                "the same images."
            )

    def _iterate_moved(self, stage: str) -> Iterator[tuple[Any, str]]:
        """Yield the layers that move what a stage compares, and what that is."""
        layers = graph.get_descendants(self._student)
        for layer in find_mixing_layers(layers):
            yield layer, "its outputs are those of other images"
        moving = find_moving_layers(layers)
        # The class of an image is the same wherever its pixels are; a label map is not.
        has_maps = any(
            wanted is not None and len(shape) > 2
            for wanted, shape in zip(
                self.outputs.wanted, self.outputs.shapes, strict=True
            )
        )
        for layer in moving if has_maps and stage != "hint" else ():
            yield layer, "its outputs have a value for each place"
        for i, hint in enumerate(self._hints if moving and stage != "kd" else ()):
            below = {id(layer) for layer in self._features.layers_before([i])}
            for layer in moving:
                if id(layer) in below:
                    what = f"the hint for guided layer '{hint.guided_layer}'"
                    yield layer, f"{what} is of other pixels"

    def choose_hint_weight(self) -> tuple[float, bool]:
        """Return a factor that makes the hint loss a mean over the hints' features.

        Eq. 3 adds up thousands of features, beside label losses of about 2.

        Returns:
            1 / the number of features of all hints, and whether all are counted: where
            sizes are unknown until a batch comes, only the known ones are.
        """
        shapes = [self._summed_shape(i) for i in range(len(self._hints))]
        counts = [math.prod(d for d in shape if d is not None) for shape in shapes]
        is_complete = all(None not in shape for shape in shapes)
        return 1 / max(sum(counts), 1), is_complete

    def count_positions(
        self, teacher_outputs: TeacherOutputs, active: Sequence[int]
    ) -> Any:
        """Return how many features of unknown number the hints of a batch have.

        The mean over the pairs, for the factor of `choose_hint_weight`.
        """
        counts = []
        for i in active:
            hint, _ = teacher_outputs.hints[i]
            sizes = [
                ops.shape(hint)[1 + axis]
                for axis, known in enumerate(self._summed_shape(i))
                if known is None
            ]
            counts.append(
                ops.cast(ops.prod(ops.stack(sizes)), "float32") if sizes else 1.0
            )
        return sum(counts) / len(counts)

    def _summed_shape(self, i: int) -> tuple[int | None, ...]:
        """Return the shape over which the loss of a pair adds up."""
        # A loss of the user's own is a mean already.
        is_sum = self._hints[i].loss is None
        return self.teacher_outputs.shapes[i] if is_sum else ()

    def penalties(self, stage: str, active: Sequence[int]) -> list[Any]:
        """Return the regularisation and `add_loss` terms of the student's last run."""
        if stage == "kd":
            return self._student.losses
        regressors = [self.regressors[i].losses for i in active]
        if stage == "hint":
            return sum(regressors, self._features.losses(active))
        return sum(regressors, self._student.losses)

    def trainable_variables(self, stage: str, active: Sequence[int]) -> list[Any]:
        """Return the variables that a stage trains."""
        if stage == "kd":
            return self._student.trainable_variables
        regressors = [self.regressors[i].trainable_variables for i in active]
        if stage == "hint":
            return sum(regressors, self.guided_variables(active))
        return sum(regressors, self._student.trainable_variables)

    def guided_variables(self, active: Sequence[int]) -> list[Any]:
        """Return the student's trainable variables up to its guided layers."""
        return self._features.trainable_variables(active)

    def _mean(self, values: Any, weight: Any = None, mask: Any = None) -> Any:
        """Return this replica's share of the mean over samples and unmasked steps."""
        # As in Keras the mean divides by the number of items, not by the sum of the
        # weights: a batch of half-weights has half the loss.
        count = ops.cast(ops.prod(ops.shape(values)), values.dtype)
        if mask is not None:
            mask = ops.cast(_expand_to_rank(mask, values), values.dtype)
            # The mask may lack axes that the values have.
            count = ops.sum(mask * ops.ones_like(values))
            # Zero and not multiply: a masked value may be infinite, and inf · 0 is NaN.
            values = zero_masked(values, ops.cast(mask, "bool"))
        if weight is not None:
            values = values * ops.cast(_expand_to_rank(weight, values), values.dtype)
        # An empty replica, or one whose steps are all masked, has the mean 0 / 0.
        return self._share(divide_or_zero(ops.sum(values), count), count)


def _has_steps(weight: Any) -> bool:
    """Whether sample weights are given for each step of the samples."""
    return weight is not None and len(weight.shape) > 1 and weight.shape[1] != 1


def _find_common_inputs(networks: Sequence[keras.Model]) -> Any:
    """Return symbolic inputs that fit all networks, or None if none shows its own."""
    for network in networks:
        if not network.built:
            raise ValueError(
                f"Network '{network.name}' has no weights yet, since its input shape "
                "is unknown. Begin it with keras.Input(...), or call "
                "`build(input_shape)` on it, before making the Distiller."
            )
    # A subclassed network shows no inputs: it is assumed to take those of the others.
    known = [(n, i) for n in networks if (i := graph.get_inputs(n)) is not None]
    sizes = {n.name: graph.get_batch_size(n) for n in networks}
    if len(set(sizes.values()) - {None}) > 1:
        raise ValueError(
            "Teacher and student must take batches of the same size; received networks "
            f"with the sizes {sizes}. Leave out `batch_size` in one of them, or give "
            "both the same."
        )
    for network, inputs in known[:-1]:
        student, expected = known[-1]
        if not graph.has_same_structure(inputs, expected):
            raise ValueError(
                "Teacher and student must take the same inputs; "
                f"'{network.name}' takes {graph.format_shapes(inputs)}, "
                f"'{student.name}' takes {graph.format_shapes(expected)}. Put a "
                "resizing or reshaping layer in front of one."
            )
    return known[0][1] if known else None


def _create_regressor(
    hint: Hint,
    teacher: Teacher,
    student: keras.Model,
    hint_shape: tuple[int | None, ...],
    guided_shape: tuple[int | None, ...],
) -> tuple[keras.layers.Layer, tuple[int | None, ...]]:
    """Return the regressor of a pair, built for the shapes of its layers.

    Returns:
        The regressor, and the shape of its output without the batch.

    Raises:
        ValueError: if it cannot map the guided layer to the shape of the hint.
    """
    network = teacher.models[hint.member]
    regressor = hint.regressor
    if isinstance(regressor, str):
        # Eq. 3 asks the regressor for the hint layer's own non-linearity: a hint
        # behind a ReLU is never negative, and a linear regressor could not match it.
        regressor = HintRegressor(
            hint_shape,
            kind=regressor,
            data_format=activations.data_format(student, hint.guided_layer),
            target_data_format=activations.data_format(network, hint.hint_layer),
            dtype=graph.get_plain_policy(graph.find_layer(student, hint.guided_layer)),
            **activations.nonlinearity(network, hint.hint_layer),
        )
    try:
        # All weights must exist when the Distiller is made. A symbolic call creates
        # those of any layer, also of one without a `build` method.
        guided = keras.KerasTensor((None, *guided_shape), dtype=regressor.compute_dtype)
        shape = tuple(regressor(guided).shape)[1:]
        # A function of the user's own may compare other shapes, if the regressor is
        # the user's own as well.
        has_same_shape = graph.has_same_shapes([shape], [hint_shape])
        if not is_free(hint.loss) and not has_same_shape:
            raise ValueError(f"The regressor gives {shape}.")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Guided layer '{hint.guided_layer}' of student '{student.name}', of shape "
            f"{guided_shape}, cannot be mapped to hint layer '{hint.hint_layer}' of "
            f"teacher '{network.name}', of shape {hint_shape}. {error}"
        ) from error
    if hint.loss is not None:
        check_own_loss(hint.loss, hint_shape, shape)
    return regressor, shape


@functools.cache
def _note_large_regressor(
    guided_layer: str, student: str, regressor_weights: int, student_weights: int
) -> None:
    """Tell once of a regressor that is larger than the student itself."""
    if regressor_weights > student_weights:
        logging.getLogger("keras_fitnets").warning(
            "The regressor of guided layer '%s' has %d weights to train, more than all "
            "of student '%s', which has %d: the regressor may learn the hint in the "
            "student's place. Choose layers of nearly the same size, or a "
            'regressor="conv".',
            *(guided_layer, regressor_weights, student, student_weights),
        )


def _count_weights(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _mask_prediction(
    regressor: keras.layers.Layer, features: Any, prediction: Any, mask: Any
) -> Any:
    """Return the mask of a regressor's output, None without one."""
    if isinstance(regressor, HintRegressor):
        return regressor.compute_mask(features, mask)
    # A regressor of the user's own keeps the steps, or it has none.
    return mask if has_steps_of(mask, prediction) else None


def _expand_to_rank(weight: Any, values: Any) -> Any:
    """Append axes to weights or a mask until they have the rank of the values."""
    weight = ops.convert_to_tensor(weight)
    # Keras accepts weights of shape (batch, 1) for losses of shape (batch,).
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


def _weight_per_sample(sample_weight: Any) -> Any:
    """Return one weight for each sample: the mean over outputs and time steps."""
    flat = flatten_present(sample_weight)
    if not flat:
        return None
    means = []
    for weight in flat:
        weight = upcast_to_float32(weight)
        axes = tuple(range(1, len(weight.shape)))
        means.append(ops.mean(weight, axis=axes) if axes else weight)
    return sum(cast_to_widest_dtype(means)) / len(means)
