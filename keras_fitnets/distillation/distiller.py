"""`Distiller`: a `keras.Model` whose training step is that of FitNets.

The step itself is short. `train_step` takes the teacher's outputs, runs the student
once (`Objective.run_student`), evaluates the terms of the stage's loss
(`Distiller._evaluate`, where λ and `hint_weight` multiply them), and applies the
gradients. The terms are in `objective.py`; what several replicas, or an empty one,
have to add up is in `keras_fitnets.distribution.replicas`.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_fitnets import backend
from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.compiled_loss import evaluate_compiled_loss
from keras_fitnets.distillation.finite_guard import FiniteGuard
from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.distillation.hints import serialize_hint
from keras_fitnets.distillation.monitors import set_directions
from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distillation.objective import Objective
from keras_fitnets.distillation.output_names import align_to_outputs
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.soft_losses import check_soft_loss
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.distillation.teacher_outputs import unwrap_inputs
from keras_fitnets.distillation.validate_data import check_casts
from keras_fitnets.distillation.validate_data import check_data
from keras_fitnets.distillation.validate_data import guard_casts
from keras_fitnets.distillation.validate_data import is_source
from keras_fitnets.distillation.validate_labels import check_labels
from keras_fitnets.distribution import replicas
from keras_fitnets.distribution.multi_worker import step_results
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.preprocessors import check_no_preprocessor
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.checks import list_callbacks
from keras_fitnets.utils.keras_private import FitsOnWorkers
from keras_fitnets.utils.keras_private import get_loss_weights
from keras_fitnets.utils.keras_private import is_legacy_file
from keras_fitnets.utils.keras_private import is_validation_of_fit
from keras_fitnets.utils.keras_private import scale_learning_rate
from keras_fitnets.utils.keras_private import serialize_loss
from keras_fitnets.utils.keras_private import to_portable_optimizer
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.network_state import load_state
from keras_fitnets.utils.network_state import save_state
from keras_fitnets.utils.tensors import convert_text
from keras_fitnets.utils.tensors import find_widest_dtype
from keras_fitnets.utils.tensors import flatten_present

STAGES = ("hint", "kd", "joint")

_NO_HDF5 = (
    "An HDF5 file cannot hold the teacher of a Distiller, and one with another teacher "
    "would be loaded; {}. Save `distiller.keras`; `distiller.student.save` takes "
    "any format of Keras."
)


class _FloatVariable:
    """A float argument of `Distiller` that a traced step reads from a variable.

    A Python float would be baked into the traced step as a constant, and assigning
    another would go unnoticed. The attribute reads as a float, checks what is assigned
    to it, and keeps it in the scalar variable `attribute` of the Distiller.

    Args:
        attribute: the name of the Distiller's attribute that holds the variable.
        doc: the docstring of the argument in the reference.
        sign: `"positive"` or `"non-negative"`.
    """

    def __init__(self, attribute: str, doc: str, sign: str = "non-negative") -> None:
        self._attribute = attribute
        self._sign = sign
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, distiller: Any, owner: type | None = None) -> Any:
        # Python passes None when the attribute is read from the class.
        if distiller is None:
            return self
        backend.sync_variables(distiller)
        value = ops.convert_to_numpy(getattr(distiller, self._attribute))
        # NumPy prints the shortest decimal that rounds to this float32. That is the
        # number that was assigned: 0.1, where float() would give 0.10000000149.
        return float(str(value))

    def __set__(self, distiller: Any, value: Any) -> None:
        variable = getattr(distiller, self._attribute)
        value = check_number(self._name, value, self._sign)
        # Otherwise the state that a step on JAX hands on would take its place again.
        backend.sync_variables(distiller)
        variable.assign(value)


@keras.saving.register_keras_serializable(package="keras_fitnets")
class Distiller(FitsOnWorkers):
    """Trains a student on the hints and soft targets of a frozen teacher.

    Use it as any Keras model: `compile` it with the optimizer, label loss and metrics
    that the student would have alone, then call `fit`. For the paper's two stages one
    after the other use `fit_stagewise`. The trained network is `distiller.student`.

    The stages are those of Romero et al., "FitNets" (arXiv 1412.6550), with `H` the
    label loss given to `compile`, `H_τ` the cross-entropy at temperature τ, and the
    hint loss summed over the pairs:

    - `"hint"`: `½ ‖u_h(x) - r(v_g(x))‖²` (Eq. 3). Only the student up to its guided
      layers, and the regressors, are run and trained. Labels are not needed.
    - `"kd"`: `H(y, P_S) + λ H_τ(P_T, P_S)` (Eq. 2), on the whole student.
    - `"joint"`: both, `Eq. 2 + hint_weight · Eq. 3`.

    Sample weights, class weights and masks apply to every term. The student's
    regularisers and `add_loss` terms are added; on several replicas they count as
    means over the samples. Without a loss in `compile` there is no label term. With
    several outputs the soft term is the sum over the outputs, which are matched by
    their names. The logs hold `loss` and
    those of `label_loss`, `kd_loss` and `hint_loss` that the stage has. Each is the
    mean over the samples, before it is multiplied by λ or `hint_weight`.

    Args:
        teacher: a `keras.Model`, a list of them (an ensemble), or a `Teacher`.
        student: a `keras.Model` with the teacher's inputs and outputs.
        hints: `("hint_layer", "guided_layer")`, a `Hint`, a list of either,
            `"middle"` for the middle layer of each network, or None.
        temperature: τ, a positive number. Reads as a float; an assigned value holds
            from the next step on.
        lambda_: λ, a number of at least 0. Reads and can be assigned likewise.
        stage: `"hint"`, `"kd"` or `"joint"`; by default `"joint"` with hints and
            `"kd"` without. Can be assigned between calls to `fit`.
        hint_weight: the factor of the hint loss in stage `"joint"`, at least 0. Eq. 3
            is a sum over all features of the hints, often thousands; `"auto"` divides
            by their number, so that the hint loss is of the size of the others.
        activation: what the outputs mean: `"softmax"` (classes), `"sigmoid"`
            (independent units), `"linear"` (numbers of a regression, compared by their
            squared difference, without τ), or `"auto"`: a softmax or sigmoid at the end
            tells, else the label loss given to `compile`, else the loss that a network
            was trained with; without any loss several units are classes. For several
            outputs also one of these for each, by name; None leaves an output out of
            the soft targets, or all of them.
        from_logits: whether networks that do not show it return logits rather than
            probabilities; `"auto"` reads it from their graphs.
        temperature_squared: whether to multiply the soft term by τ², as Hinton et al.
            (arXiv 1503.02531) do.
        learning_rate_factor: in stages `"kd"` and `"joint"`, a factor on the learning
            rate of the layers up to the guided ones, which stage `"hint"` has trained.
            A decoupled weight decay is a part of the learning rate's step, and is
            multiplied too.
        soft_loss: in place of the cross-entropy, or of the squared difference, a
            `keras.losses.Loss` or a function of the teacher's logits, the student's
            logits, `(batch, ..., units)`, and τ, that returns a value for each sample;
            by output as `activation`.
        soft_weights: the factor of each output's soft term, by name; by default the
            `loss_weights` given to `compile`.
        **kwargs: `name`, as for any `keras.Model`.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if networks, layers or numbers do not fit; the message names them.

    Example:

    >>> import keras, numpy as np
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, "relu", name="hidden"),
    ...         keras.layers.Dense(3, name="logits"),
    ...     ])
    >>> distiller = Distiller(net(16), net(2), hints=("hidden", "hidden"), stage="kd")
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> distiller.compile("adam", loss=loss)
    >>> history = distiller.fit(np.ones((8, 4)), np.ones(8), verbose=0)
    >>> sorted(history.history)
    ['kd_loss', 'label_loss', 'loss']
    """

    # Keras' trainers make these.
    train_function: Any
    test_function: Any

    # ── Construction ──────────────────────────────────────────────────────────────

    def __init__(
        self,
        teacher: Any,
        student: keras.Model,
        hints: Any = None,
        temperature: float = 3.0,
        lambda_: float = 4.0,
        stage: str | None = None,
        hint_weight: float | str = "auto",
        activation: Any = "auto",
        from_logits: bool | str = "auto",
        temperature_squared: bool = False,
        learning_rate_factor: float = 1.0,
        soft_loss: Any = None,
        soft_weights: Any = None,
        **kwargs: Any,
    ) -> None:
        teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
        _check_networks(teacher, student)
        if not isinstance(temperature_squared, bool):
            raise ValueError(
                "`temperature_squared` must be True or False; received "
                f"{temperature_squared!r}. The paper has no such factor: False."
            )
        pairs = parse_hints(hints, teacher.models, student)
        regressors = [pair.regressor for pair in pairs]
        policy = graph.choose_dtype_policy([student, *regressors])
        # Keras must not cast the inputs: each network casts them to its own dtype.
        super().__init__(autocast=False, dtype=policy, **kwargs)
        self._teacher = teacher
        self.student = student
        self._hints = pairs
        self._activation = activation
        self._from_logits = from_logits
        self._temperature_squared = temperature_squared
        self._soft_loss = soft_loss
        self._soft_weights = soft_weights
        self._active_hints = tuple(range(len(pairs)))
        self.supports_jit = graph.has_jit_support(teacher.models)
        # Running means belong to an epoch and not to a checkpoint. Keras tracks the
        # metrics that it finds in attributes, lists and dictionaries, but not those
        # in a mapping proxy.
        self._trackers = types.MappingProxyType(
            {
                name: keras.metrics.Mean(name=name, dtype=self._float_dtype())
                for name in ("loss", *TERMS)
            }
        )
        self._finite_guard = FiniteGuard()
        # Set while `fit` or `evaluate` runs: see `_hash_teacher_once`.
        self._get_fingerprints: Callable[[], list[str]] | None = None
        self._objective = Objective(
            teacher,
            student,
            pairs,
            activation=activation,
            from_logits=from_logits,
            temperature_squared=temperature_squared,
            soft_loss=soft_loss,
            get_output_pairs=lambda: self.output_pairs,
            share=replicas.replica_share,
        )
        self._objective.outputs.align(soft_weights, "soft_weights")
        # Keras saves the regressors under this name, and the three scalars below in
        # the order in which they are made: files of earlier versions rely on both.
        self.regressors = self._objective.regressors
        self._temperature = self._add_scalar("temperature")
        self._lambda = self._add_scalar("lambda")
        self._hint_weight = self._add_scalar("hint_weight")
        self.temperature = temperature
        self.lambda_ = lambda_
        # Where sizes are unknown until a batch comes, the factor is completed then.
        self._is_hint_weight_per_position = False
        if hint_weight == "auto":
            hint_weight, is_complete = self._objective.choose_hint_weight()
            self._is_hint_weight_per_position = not is_complete
        self.hint_weight = hint_weight
        if stage is None:
            stage = "joint" if pairs else "kd"
        self.stage = stage
        self.learning_rate_factor = learning_rate_factor
        # `fit_stagewise` compares these with those of the run that it resumes. The
        # attributes themselves may have been changed by a callback since.
        self.initial = {
            "temperature": self.temperature,
            "lambda_": self.lambda_,
            "hint_weight": self.hint_weight,
        }
        # Every variable exists now, so that Keras needs no batch to build the model.
        self.built = True

    def _add_scalar(self, name: str) -> Any:
        return self.add_weight(
            shape=(),
            name=name,
            dtype=self._float_dtype(),
            trainable=False,
            autocast=False,
        )

    def _float_dtype(self) -> str:
        """Return the dtype of the scalars and running means of this Distiller."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    # ── Arguments: fixed at construction ──────────────────────────────────────────

    @property
    def teacher(self) -> Teacher:
        """The `Teacher`; its networks are `teacher.models`."""
        return self._teacher

    @property
    def hints(self) -> tuple[Hint, ...]:
        """The pairs of layers, a tuple of `Hint`."""
        return self._hints

    @property
    def activation(self) -> Any:
        """The argument `activation`, as it was passed."""
        return self._activation

    @property
    def from_logits(self) -> bool | str:
        """The argument `from_logits`, as it was passed."""
        return self._from_logits

    @property
    def temperature_squared(self) -> bool:
        """The argument `temperature_squared`, as it was passed."""
        return self._temperature_squared

    @property
    def soft_loss(self) -> Any:
        """The argument `soft_loss`, as it was passed."""
        return self._soft_loss

    @property
    def soft_weights(self) -> Any:
        """The argument `soft_weights`, as it was passed."""
        return self._soft_weights

    # ── Arguments: can be assigned ────────────────────────────────────────────────

    temperature = _FloatVariable(
        "_temperature", "τ, the temperature of the soft targets.", sign="positive"
    )
    lambda_ = _FloatVariable("_lambda", "λ, the weight of the soft targets.")
    hint_weight = _FloatVariable(
        "_hint_weight", 'The weight of the hint loss in stage "joint".'
    )

    @property
    def is_hint_weight_per_position(self) -> bool:
        """Whether a step divides `hint_weight` by the sizes that only a batch tells."""
        return self._is_hint_weight_per_position

    # The setters below change what a step computes, not only a number in it, so they
    # have Keras trace the step again.

    @property
    def stage(self) -> str:
        """The stage of training: "hint", "kd" or "joint"."""
        return self._stage

    @stage.setter
    def stage(self, value: str) -> None:
        check_choice("stage", value, STAGES)
        if value != "kd" and not self.hints:
            raise ValueError(
                f'Stage "{value}" needs hints, and this Distiller has none. Pass '
                'hints=("hint_layer", "guided_layer"), or use stage="kd".'
            )
        # Stage "hint" looks at no output, so that only here they must agree.
        if value != "hint":
            self._check_outputs(value)
        self._objective.check_augmentation(value)
        self._stage = value
        self._retrace_steps()

    @property
    def active_hints(self) -> tuple[int, ...]:
        """The positions of the pairs that stage "hint" trains; all by default."""
        return self._active_hints

    @active_hints.setter
    def active_hints(self, value: Any) -> None:
        value = tuple(value) if isinstance(value, (list, tuple, range)) else value
        if (
            not isinstance(value, tuple)
            or not value
            or any(i not in range(len(self.hints)) for i in value)
        ):
            raise ValueError(
                f"`active_hints` must hold positions among the {len(self.hints)} "
                f"pairs of hints, counted from 0; received {value!r}. For example (0,)."
            )
        self._active_hints = value
        self._retrace_steps()

    @property
    def learning_rate_factor(self) -> float:
        """The factor on the learning rate of the layers that stage "hint" trains."""
        return self._learning_rate_factor

    @learning_rate_factor.setter
    def learning_rate_factor(self, value: float) -> None:
        value = check_number("learning_rate_factor", value)
        if value != 1 and not self.hints:
            raise ValueError(
                "`learning_rate_factor` slows the layers up to the guided ones, and "
                f"this Distiller has no hints; received {value}. Leave it at 1."
            )
        self._learning_rate_factor = value
        self._retrace_steps()

    @property
    def check_numerics(self) -> bool:
        """Whether steps look for NaN and infinity; `CheckNumerics` switches it on."""
        return self._finite_guard.is_on

    @check_numerics.setter
    def check_numerics(self, value: bool) -> None:
        backend.sync_variables(self)
        self._finite_guard.reset()
        if value != self._finite_guard.is_on:
            self._finite_guard.is_on = value
            self._retrace_steps()

    @property
    def first_not_finite(self) -> tuple[int, list[str]] | None:
        """The first step in which a NaN or infinity was found, and where it was."""
        backend.sync_variables(self)
        return self._finite_guard.first_failure()

    def _retrace_steps(self) -> None:
        """Have Keras trace the steps again; a `fit` under way uses the new ones."""
        if self.train_function is not None:
            self.make_train_function(force=True)
        if self.test_function is not None:
            self.make_test_function(force=True)

    # ── The networks' outputs ─────────────────────────────────────────────────────

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._run_on_samples(
            lambda x: graph.call_network(self.student, x, bool(training)),
            unwrap_inputs(inputs),
        )

    def _run_on_samples(self, run: Callable[[Any], Any], x: Any) -> Any:
        """Run networks on a batch, which may be empty on one of several replicas."""
        if backend.num_replicas() == 1:
            return run(x)
        layers = graph.get_descendants(self.student)
        return replicas.run_on_samples(run, x, layers)

    @property
    def output_names(self) -> list[str] | None:
        """The names of the student's outputs, by which `compile` and `fit` take them.

        None if the outputs have no names, as those of a list in a subclassed network.
        """
        # Keras asks for the names of every model while it makes its base class.
        objective = vars(self).get("_objective")
        return None if objective is None else objective.outputs.names

    @property
    def output_pairs(self) -> list[OutputPair | None]:
        """How each output is compared; None for one that is left out.

        Where the networks do not show what an output means, the label loss says it,
        once the Distiller is compiled.
        """
        loss = self.loss if self.compiled else None
        return self._objective.outputs.pair(loss, self.compiled)

    @property
    def pairings(self) -> list[OutputPair | None]:
        """The name of `output_pairs` in earlier versions."""
        return self.output_pairs

    def _check_outputs(self, stage: str) -> None:
        """Raise if a stage needs soft targets and the outputs do not allow them."""
        pairs = self.output_pairs
        if stage == "kd" and not any(pairs):
            raise ValueError(
                "`activation` leaves out every output, so that the teacher has nothing "
                f'to teach in stage "kd"; received {self.activation!r}. Use stage '
                '"hint", which looks at no output, or leave an output in.'
            )
        for i, pair in enumerate(pairs):
            own = self._objective.outputs.soft_losses[i]
            if pair is not None and own is not None:
                check_soft_loss(own, pair, self._objective.outputs.shapes[i])

    @property
    def teacher_outputs(self) -> TeacherOutputProvider:
        """Computes the teacher's outputs for a batch, or looks them up in a cache."""
        return self._objective.teacher_outputs

    @property
    def objective(self) -> Objective:
        """Runs the student on a batch and evaluates the terms of the losses."""
        return self._objective

    def with_teacher_outputs(self, x: Any) -> CachedInputs:
        """Return a batch of inputs together with all outputs of the teacher for it."""
        outputs = self.teacher_outputs.compute_all(x, self._fingerprints())
        return CachedInputs(x, outputs)

    def lookup_teacher_outputs(self, x: CachedInputs) -> TeacherOutputs:
        """Look up the teacher outputs that the stage needs among those of a batch.

        Raises:
            ValueError: if a different teacher computed them, or a layer is missing.
        """
        return self.teacher_outputs.lookup(
            x.teacher_outputs, self._fingerprints(), self.stage, self._active_pairs()
        )

    # ── Entry points: fit, evaluate and predict ───────────────────────────────────

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        with self._hash_teacher_once():
            check_data(self, **arguments, training=True)
            x = arguments.get("x")
            if isinstance(x, CachedDataset):
                # Its views and order follow the epoch, also where a run is resumed.
                callbacks = list_callbacks(arguments.get("callbacks"))
                arguments["callbacks"] = [*callbacks, x.epoch_counter]
            set_directions(list_callbacks(arguments.get("callbacks")))
            for name in ("x", "validation_data"):
                if name in arguments:
                    data = self._select_columns(arguments[name])
                    arguments[name] = guard_casts(self, f"`{name}`", data)
            return super().fit(**arguments)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(super().evaluate).bind(*args, **kwargs)
        with self._hash_teacher_once():
            check_data(self, **bound.arguments)
            data = self._select_columns(bound.arguments.get("x"))
            # `fit` has looked at its validation data already.
            if not is_validation_of_fit(bound.arguments):
                data = guard_casts(self, "`x`", data)
            bound.arguments["x"] = data
            return super().evaluate(*bound.args, **bound.kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(super().predict).bind(*args, **kwargs)
        x = bound.arguments["x"]
        if isinstance(x, CachedDataset):
            bound.arguments["x"] = x.as_tf_dataset([])
        elif not is_source(x):
            check_casts(self, "`x`", x)
            bound.arguments["x"] = convert_text(x)
        return super().predict(*bound.args, **bound.kwargs)

    def _select_columns(self, data: Any) -> Any:
        """Return what Keras reads; of a cached dataset the stage's columns alone."""
        if is_tf_dataset(data) and isinstance(data.element_spec, CachedInputs):
            # Keras would take a named tuple for inputs and labels.
            return data.map(lambda cached: (cached,))
        if not isinstance(data, CachedDataset):
            return convert_text(data)
        return data.as_tf_dataset(
            self.teacher_outputs.keys(
                self._fingerprints(), self.stage, self._active_pairs()
            )
        )

    @contextlib.contextmanager
    def _hash_teacher_once(self) -> Iterator[None]:
        """Hash the teacher's weights at most once in this block.

        The checks of the data, the choice of columns and every trace of a step need
        the fingerprints. They are not kept any longer, so that a teacher that was
        trained between two calls of `fit` is noticed.
        """
        before = self._get_fingerprints
        # `evaluate` within `fit` goes on with the hashes that `fit` has.
        if before is None:
            self._get_fingerprints = functools.cache(self.teacher.fingerprints)
        try:
            yield
        finally:
            self._get_fingerprints = before

    def _fingerprints(self) -> list[str]:
        """Return the fingerprint of each of the teacher's networks."""
        # A digest needs the values of the weights.
        with backend.outside_step():
            if self._get_fingerprints is None:
                return self.teacher.fingerprints()
            return self._get_fingerprints()

    # ── The training step ─────────────────────────────────────────────────────────

    # Keras passes a step the data, and on JAX the state of all variables before them.

    def train_step(self, *args: Any) -> Any:
        return backend.run_step(self, self._train, *args)

    def test_step(self, *args: Any) -> Any:
        return backend.run_step(self, self._test, *args)

    def make_train_function(self, force: bool = False) -> None:
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = backend.keep_variables(self, self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = backend.keep_variables(self, self.test_function)

    @property
    def non_trainable_variables(self) -> list[Any]:
        variables = super().non_trainable_variables
        if not backend.is_stateless():
            return variables
        # The rest of what a step reads belongs to no layer that Keras saves.
        known = {id(variable) for variable in [*variables, *self.trainable_variables]}
        others = [*self.teacher.variables, *self._finite_guard.variables]
        return [*variables, *(one for one in others if id(one) not in known)]

    def _train(self, data: Any) -> dict[str, Any]:
        """Train on a batch, and return the logs."""
        data = replicas.match_sizes(data)
        x, y, sample_weight, teacher_outputs = self._unpack(data)
        optimizer = self.optimizer
        if not optimizer.built:
            # For the variables of all stages, so that the stage can change later.
            optimizer.build(self.trainable_variables)
        state = [*self._state(), *optimizer.variables]
        before = self._finite_guard.snapshot(state)

        def evaluate() -> tuple[Any, Any]:
            y_pred, terms = self._evaluate(x, y, sample_weight, teacher_outputs, True)
            # In half precision small gradients would underflow to zero: a
            # `LossScaleOptimizer` multiplies the loss and divides the gradients again.
            # Other optimizers return the loss as it is.
            return optimizer.scale_loss(terms["loss"]), (y_pred, terms)

        variables = self._objective.trainable_variables(
            self.stage, self._active_pairs()
        )
        gradients, (y_pred, terms) = backend.compute_gradients(
            evaluate, variables, first=teacher_outputs
        )
        self._apply(
            replicas.reduce_gradients(gradients, _batch_size(x), optimizer), variables
        )
        # With loss scaling a gradient that overflows is normal: the optimizer skips
        # the step and lowers its scale. Without it, it is a failure.
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        places = {
            "data": data,
            "teacher's outputs": teacher_outputs.logits,
            "hints": teacher_outputs.hints,
            "student's outputs": y_pred,
            **terms,
            "gradients": None if is_scaled else gradients,
        }
        self._finite_guard.check_and_rollback(
            optimizer.iterations, places, state, before
        )
        return self._log(x, y, y_pred, sample_weight, terms)

    def _test(self, data: Any) -> dict[str, Any]:
        """Evaluate a batch, and return the logs."""
        data = replicas.match_sizes(data)
        x, y, sample_weight, teacher_outputs = self._unpack(data)
        y_pred, terms = self._evaluate(x, y, sample_weight, teacher_outputs, False)
        return self._log(x, y, y_pred, sample_weight, terms)

    def _unpack(self, data: Any) -> tuple[Any, Any, Any, TeacherOutputs]:
        """Return inputs, labels, sample weights and teacher outputs of a batch.

        The teacher outputs come from the cache if the batch holds cached ones;
        otherwise the teacher is run here, outside the gradient tape.
        """
        # Cached inputs are a named tuple, which Keras would unpack as (x, y).
        if isinstance(data, CachedInputs):
            data = (data,)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y, sample_weight = self._order_labels(y, sample_weight)
        if isinstance(x, CachedInputs):
            teacher_outputs = self.lookup_teacher_outputs(x)
        else:
            stage, active = self.stage, self._active_pairs()
            with backend.no_gradients():
                teacher_outputs = self._run_on_samples(
                    lambda x: self.teacher_outputs.compute(x, stage, active), x
                )
        return unwrap_inputs(x), y, sample_weight, teacher_outputs

    def _order_labels(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return labels and weights that are given by name in the outputs' order."""
        outputs = self._objective.outputs
        return outputs.order(y, "y"), outputs.order(sample_weight, "sample_weight")

    def _evaluate(
        self, x: Any, y: Any, sample_weight: Any, teacher_outputs: Any, training: bool
    ) -> tuple[Any, dict[str, Any]]:
        """Run the student and evaluate the loss; λ and `hint_weight` enter it here.

        Returns:
            The student's outputs (None in stage "hint"), and a dictionary with each
            term and the weighted sum `"loss"`. On several replicas each number is this
            replica's share: the shares add up to the mean over the global batch.
        """
        check_labels(self, y)
        objective = self._objective
        active = self._active_pairs()
        samples = _batch_size(x)
        # Keras would leave each replica its own moving statistics, and NaN where a
        # replica is empty; this averages the updates by their numbers of samples.
        with replicas.sync_state_updates(self._state(), samples):
            y_pred, regressed = self._run_on_samples(
                lambda x: objective.run_student(x, self.stage, active, training), x
            )
            penalties = objective.penalties(self.stage, active)
        terms, weights = {}, {}
        # The label loss is evaluated last: Keras' own message for a sample weight of
        # the wrong shape is less clear than that of the other terms.
        for term in reversed(self._terms()):
            if term == "label_loss":
                label_loss = functools.partial(self._call_label_loss, x, training)
                value = objective.label_loss(label_loss, y, y_pred, sample_weight)
                weight = 1.0
            elif term == "kd_loss":
                value = objective.kd_loss(
                    teacher_outputs,
                    y_pred,
                    ops.convert_to_tensor(self._temperature),
                    sample_weight,
                    self._get_output_weights(),
                    x,
                )
                weight = self._lambda
            else:
                value = objective.hint_loss(
                    teacher_outputs, regressed, active, sample_weight
                )
                weight = 1.0 if self.stage == "hint" else self._hint_weight
                if self.stage == "joint" and self._is_hint_weight_per_position:
                    weight = weight / objective.count_positions(teacher_outputs, active)
            terms[term], weights[term] = value, weight
        dtype = find_widest_dtype(*(value.dtype for value in terms.values()))
        loss = sum(
            ops.cast(weight, dtype) * ops.cast(terms[term], dtype)
            for term, weight in weights.items()
        )
        # Regularisers do not depend on the batch, so that every replica has the whole
        # penalty. Each adds its share of it, or the sum would hold it several times.
        if penalties:
            penalty = sum(ops.cast(ops.sum(p), dtype) for p in penalties)
            loss += replicas.replica_share(penalty, samples)
        return y_pred, {**terms, "loss": loss}

    def _apply(self, gradients: list[Any], variables: list[Any]) -> None:
        """Apply the gradients, those below the guided layers at their own rate."""
        if self.stage == "hint":
            # Without a graph it is unknown which layers are below the guided one, and
            # those above it have no gradient.
            pairs = zip(gradients, variables, strict=True)
            reached = [(g, v) for g, v in pairs if g is not None]
            gradients, variables = [g for g, _ in reached], [v for _, v in reached]
        if not variables:
            raise ValueError(
                f'Stage "{self.stage}" has nothing to train: every layer it would '
                f"train in student '{self.student.name}' is frozen. Set "
                "`layer.trainable = True` and compile again."
            )
        slow: list[Any] = []
        if self.stage != "hint" and self.learning_rate_factor != 1:
            slow = self._objective.guided_variables(range(len(self.hints)))
        # The factor is on the learning rate and not on the gradient: Adam and RMSprop
        # divide a gradient by its own size, so that a factor on it would cancel.
        with scale_learning_rate(self.optimizer, slow, self.learning_rate_factor):
            backend.apply_gradients(
                self.optimizer, gradients, variables, self.trainable_variables
            )

    def _active_pairs(self) -> tuple[int, ...]:
        """Return the positions of the hint pairs that the stage uses."""
        if self.stage == "hint":
            return self._active_hints
        return tuple(range(len(self.hints)))

    def _terms(self) -> list[str]:
        """Return the names of the terms in the stage's loss, as they are logged."""
        if self.stage == "hint":
            return ["hint_loss"]
        has_own_loss = type(self).compute_loss is not Distiller.compute_loss
        terms = [] if self.loss is None and not has_own_loss else ["label_loss"]
        if any(wanted is not None for wanted in self._objective.outputs.wanted):
            terms.append("kd_loss")
        return [*terms, "hint_loss"] if self.stage == "joint" else terms

    def _state(self) -> list[Any]:
        """Return all variables that a step may change, but for the optimizer's."""
        layers = [self.student, *self.regressors]
        return [variable for layer in layers for variable in layer.variables]

    # ── Logs ──────────────────────────────────────────────────────────────────────

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        own = [self._trackers[name] for name in ("loss", *self._terms())]
        if self.stage == "hint" or not self.compiled:
            return own
        # Keras tracks a "loss" too. Ours takes its place.
        return [*own, *(m for m in super().metrics if m.name != "loss")]

    def _log(
        self,
        x: Any,
        y: Any,
        y_pred: Any,
        sample_weight: Any,
        terms: dict[str, Any],
    ) -> dict[str, Any]:
        """Add a batch to the running means and metrics, and return their results."""
        # Summed over the replicas the shares are means over the global batch. A
        # replica weighs its copy of them by its own number of samples, and Keras adds
        # up the totals of all replicas: an empty replica adds nothing.
        for name, mean in replicas.all_reduce_sum(terms).items():
            self._trackers[name].update_state(mean, sample_weight=_batch_size(x))
        return step_results(self.compute_metrics(x, y, y_pred, sample_weight))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the label loss of a batch, a mean over its samples.

        Override it to add a term to the label loss, as in any Keras model. λ and the
        soft targets, the hints and the student's regularisers are added by the step. On
        several replicas each calls it for its part of the batch, and the means over
        these are weighted by their samples.
        """
        # Keras calls this once, to build the compiled loss, in every stage: also where
        # there is no label loss and there may be no labels.
        check_labels(self, y)
        if self.loss is None or self.stage == "hint":
            return ops.zeros(())
        names = self._objective.outputs.names
        return evaluate_compiled_loss(self, names, y, y_pred, sample_weight)

    def _call_label_loss(
        self, x: Any, training: bool, y: Any, y_pred: Any, sample_weight: Any
    ) -> Any:
        """Call `compute_loss`, which a subclass may override."""
        # An override may have been written before Keras passed `training`.
        arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        parameters = inspect.signature(self.compute_loss).parameters.values()
        if any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters):
            arguments["training"] = training
        return self.compute_loss(**arguments)

    def _get_output_weights(self) -> list[Any]:
        """Return the factor of the soft term of each output, None where it is 1."""
        outputs = self._objective.outputs
        if self._soft_weights is not None:
            return outputs.align(self._soft_weights, "soft_weights")
        weights = None if self.loss is None else get_loss_weights(self)
        if isinstance(weights, (list, tuple)) and len(weights) != outputs.count:
            # Keras takes several losses, and weights, for a single output.
            return [None] * outputs.count
        return align_to_outputs(weights, outputs.names, outputs.count, "loss_weights")

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        check_labels(self, y)
        y, sample_weight = self._order_labels(y, sample_weight)
        # Stage "hint" has neither outputs nor labels to update the metrics with.
        if self.stage == "hint":
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Any]:
        # Keras calls this after each epoch as well as in each step. After an epoch,
        # which is outside any trace, a count of 0 means that there was no batch; the
        # logs would be zeros that look like results.
        count = self._trackers["loss"].count
        is_after_epoch = not backend.is_traced() and backend.num_replicas() == 1
        if is_after_epoch and ops.convert_to_numpy(count) == 0:
            raise ValueError(
                "The data gave no batch: there was nothing to learn from, or to "
                "evaluate. Pass at least one; see what `.filter()` or `.skip()` leaves "
                "of the dataset."
            )
        return super().get_metrics_result()

    # ── Saving ────────────────────────────────────────────────────────────────────

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Save all of the Distiller, its teacher included, to a `.keras` file."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(_NO_HDF5.format(f"received '{filepath}'"))
        super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Export the student, as `keras.Model.export` does.

        `keras_fitnets.export.export_student` also compares the file with the student.
        """
        student = self.student
        bound = inspect.signature(student.export).bind(filepath, *args, **kwargs)
        inputs = graph.get_inputs(student)
        if bound.arguments.get("input_signature") is None and inputs is not None:
            # Keras wants it of a network that was never called as a whole, and hint
            # stages run the layers of a student alone.
            bound.arguments["input_signature"] = [
                keras.tree.map_structure(
                    lambda one: keras.InputSpec(one.dtype, one.shape, name=one.name),
                    inputs,
                )
            ]
        student.export(*bound.args, **bound.kwargs)

    def save_assets(self, dir_path: str) -> None:
        # The teacher is not among the tracked layers, so that it is in no weight file
        # and no checkpoint. A `.keras` file must be complete and takes it as assets:
        # all of its state, since lookup layers keep theirs outside of weights.
        for i, member in enumerate(self.teacher.models):
            save_state(member, Path(dir_path) / f"teacher_{i}.keras")

    def load_assets(self, dir_path: str) -> None:
        for i, member in enumerate(self.teacher.models):
            path = Path(dir_path) / f"teacher_{i}.keras"
            # Earlier versions saved the weights alone.
            weights = path.with_suffix(".weights.h5")
            if weights.exists():
                member.load_weights(weights)
            else:
                load_state(member, path)

    def get_config(self) -> dict[str, Any]:
        if is_legacy_file():
            raise ValueError(_NO_HDF5.format("Keras asked for what to write into one"))
        serialize = keras.saving.serialize_keras_object
        return {
            "teacher": serialize(self.teacher),
            "student": serialize(self.student),
            "hints": [
                serialize_hint(hint, self.teacher.models, self.student)
                for hint in self.hints
            ]
            or None,
            "temperature": self.temperature,
            "lambda_": self.lambda_,
            "stage": self.stage,
            "hint_weight": "auto"
            if self._is_hint_weight_per_position
            else self.hint_weight,
            "activation": self.activation,
            "from_logits": self.from_logits,
            "temperature_squared": self.temperature_squared,
            "learning_rate_factor": self.learning_rate_factor,
            "soft_loss": _map_losses(serialize_loss, self._soft_loss),
            "soft_weights": self._soft_weights,
            "name": self.name,
        }

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        if config and "optimizer" in config:
            config["optimizer"] = to_portable_optimizer(config["optimizer"])
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distiller":
        if is_legacy_file():
            raise ValueError(_NO_HDF5.format("one of an earlier version was loaded"))
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["teacher"] = deserialize(config["teacher"])
        config["student"] = deserialize(config["student"])
        if config["hints"] is not None:
            config["hints"] = [deserialize(hint) for hint in config["hints"]]
        config["soft_loss"] = _map_losses(deserialize, config.get("soft_loss"))
        return cls(**config)


def _map_losses(function: Callable[[Any], Any], losses: Any) -> Any:
    """Apply a function to each loss in a structure by output, serialised or not."""
    is_serialized = isinstance(losses, dict) and "class_name" in losses
    if isinstance(losses, dict) and not is_serialized:
        return {name: _map_losses(function, loss) for name, loss in losses.items()}
    if isinstance(losses, (list, tuple)):
        return [_map_losses(function, loss) for loss in losses]
    return None if losses is None else function(losses)


def _check_networks(teacher: Teacher, student: Any) -> None:
    """Raise if the student is no network of its own, or in another scope."""
    if not isinstance(student, keras.Model):
        raise TypeError(f"`student` must be a keras.Model; received {student!r}.")
    for network in (*teacher.models, student):
        check_no_preprocessor(network)
    if any(member is student for member in teacher.models):
        raise ValueError(
            f"Network '{student.name}' is both teacher and student. Give the "
            "student a network of its own: keras.models.clone_model makes one."
        )
    replicas.check_scope(student, teacher.models)


def _batch_size(x: Any) -> Any:
    """Return the number of samples in a batch, a scalar tensor."""
    # An optional input of a network may be None.
    return ops.shape(flatten_present(x)[0])[0]
