"""The train step of FitNets, as a `keras.Model`."""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.finite_guard import FiniteGuard
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distillation.objective import Objective
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.settings import Settings
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.distillation.teacher_outputs import TeacherOutputs
from keras_fitnets.distillation.teacher_outputs import unwrap_inputs
from keras_fitnets.distillation.validate_data import check_data
from keras_fitnets.distillation.validate_labels import check_labels
from keras_fitnets.distribution import replicas
from keras_fitnets.distribution.multi_worker import FitsOnWorkers
from keras_fitnets.distribution.multi_worker import step_results
from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import list_callbacks


@keras.saving.register_keras_serializable(package="keras_fitnets")
class Distiller(FitsOnWorkers, Settings):
    """Trains a student on the hints and soft targets of a frozen teacher.

    The stages of Romero et al., "FitNets" (arXiv 1412.6550), with `H` the label loss
    that `compile` is given, `H_τ` the cross-entropy at temperature τ, and the hint
    loss a sum over the pairs:

    - `"hint"`: `½ ‖u_h(x) - r(v_g(x))‖²` (Eq. 3). Only the student up to its guided
      layers, and the regressors, are run and trained. Labels are not needed.
    - `"kd"`: `H(y, P_S) + λ H_τ(P_T, P_S)` (Eq. 2), on the whole student.
    - `"joint"`: the two together, `Eq. 2 + hint_weight · Eq. 3`.

    Sample weights, class weights and masks weigh every term; the student's regularisers
    and `add_loss` terms are added, taken as means over the samples where several
    replicas add them up. Compiled without a loss there is no label term. With
    several outputs the soft term is the sum of theirs. The logs hold `loss`, and
    `label_loss`, `kd_loss` and `hint_loss` as far as the stage has them, each the mean
    over the samples before λ and `hint_weight`.

    Args:
        teacher: a `keras.Model`, a list of them (an ensemble), or a `Teacher`.
        student: a `keras.Model` with the teacher's inputs and outputs.
        hints: `("hint_layer", "guided_layer")`, a `Hint`, a list of either,
            `"middle"` for the middle layer of each network, or None.
        temperature: τ, positive. Reads as a float; assigning it holds from the next
            step on.
        lambda_: λ, at least 0, likewise.
        stage: `"hint"`, `"kd"` or `"joint"`; by default `"joint"` with hints and
            `"kd"` without. Can be assigned between calls to `fit`.
        hint_weight: the factor of the hint loss in stage `"joint"`, at least 0.
        activation: `"softmax"`, `"sigmoid"` (independent units) or `"auto"`, which
            sees it from the end of the networks: logits of one unit are sigmoid, of
            several softmax. A structure like the outputs says it for each; None in
            it leaves an output out of the soft targets.
        from_logits: whether the student returns logits rather than probabilities;
            `"auto"` sees it from the graph of the student, as far as that is clear.
        temperature_squared: multiply the soft term by τ², as Hinton et al. (arXiv
            1503.02531) do.
        learning_rate_factor: in stages `"kd"` and `"joint"`, a factor on the steps of
            the layers up to the guided ones, which stage 1 has trained.
        **kwargs: `name`, as for any `keras.Model`.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for networks, layers or numbers that do not fit, naming them.

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

    def __init__(
        self,
        teacher: Any,
        student: keras.Model,
        hints: Any = None,
        temperature: float = 3.0,
        lambda_: float = 4.0,
        stage: str | None = None,
        hint_weight: float = 1.0,
        activation: Any = "auto",
        from_logits: bool | str = "auto",
        temperature_squared: bool = False,
        learning_rate_factor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
        if not isinstance(student, keras.Model):
            raise TypeError(f"`student` must be a keras.Model; received {student!r}.")
        if any(member is student for member in teacher.models):
            raise ValueError(
                f"Network '{student.name}' is both teacher and student. Give the "
                "student a network of its own: keras.models.clone_model makes one."
            )
        if not isinstance(temperature_squared, bool):
            raise ValueError(
                "`temperature_squared` must be True or False; received "
                f"{temperature_squared!r}. The paper has no such factor: False."
            )
        replicas.check_scope(student, teacher.models)
        pairs = parse_hints(hints, teacher.models, student)
        regressors = [pair.regressor for pair in pairs]
        policy = graph.choose_dtype_policy([student, *regressors])
        super().__init__(autocast=False, dtype=policy, **kwargs)
        self._teacher = teacher
        self.student = student
        self._hints = pairs
        self._activation = activation
        self._from_logits = from_logits
        self._temperature_squared = temperature_squared
        self.supports_jit = graph.has_jit_support(teacher.models)
        # A mapping that Keras does not track: checkpoints need no running means.
        self._trackers = types.MappingProxyType(
            {name: keras.metrics.Mean(name=name, dtype=self._float()) for name in TERMS}
        )
        self._finite_guard = FiniteGuard()
        # Set while `fit` or `evaluate` runs: see `_hash_teacher_once`.
        self._get_fingerprints: Callable[[], list[str]] | None = None
        self._objective = Objective(
            teacher,
            student,
            self.hints,
            activation=activation,
            from_logits=from_logits,
            temperature_squared=temperature_squared,
            share=replicas.replica_share,
        )
        self.regressors = self._objective.regressors
        self._start(temperature, lambda_, hint_weight, stage, learning_rate_factor)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return graph.call_network(self.student, unwrap_inputs(inputs), bool(training))

    @property
    def output_pairs(self) -> list[OutputPair | None]:
        """How each output is read; None for one that is left out."""
        return self._objective.output_pairs

    @property
    def teacher_outputs(self) -> TeacherOutputProvider:
        """What the teacher can be asked."""
        return self._objective.teacher_outputs

    @property
    def objective(self) -> Objective:
        """From a batch to the student's outputs, and to the terms of its losses."""
        return self._objective

    def with_teacher_outputs(self, x: Any) -> CachedInputs:
        """A batch of inputs with all that the teacher says of it, for later use."""
        outputs = self.teacher_outputs.compute_all(x, self._fingerprints())
        return CachedInputs(x, outputs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        compiled = super().metrics if self.compiled else []
        terms = [self._trackers[term] for term in self._terms()]
        rest = [] if self.stage == "hint" else compiled[1:]
        return [*compiled[:1], *terms, *rest]

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        with self._hash_teacher_once():
            check_data(self, **given, training=True)
            x = given.get("x")
            if isinstance(x, CachedDataset):
                # Its views and order follow the epoch, also where a run is resumed.
                callbacks = list_callbacks(given.get("callbacks"))
                given["callbacks"] = [*callbacks, x.epoch_counter]
            for name in ("x", "validation_data"):
                if name in given:
                    given[name] = self._select_columns(given[name])
            return super().fit(**given)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(super().evaluate).bind(*args, **kwargs)
        with self._hash_teacher_once():
            check_data(self, **bound.arguments)
            bound.arguments["x"] = self._select_columns(bound.arguments.get("x"))
            return super().evaluate(*bound.args, **bound.kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(super().predict).bind(*args, **kwargs)
        x = bound.arguments["x"]
        if isinstance(x, CachedDataset):
            bound.arguments["x"] = x.as_tf_dataset([])
        return super().predict(*bound.args, **bound.kwargs)

    def _select_columns(self, data: Any) -> Any:
        """Return what Keras reads; of a cached dataset the stage's columns alone."""
        if not isinstance(data, CachedDataset):
            return data
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
        """The fingerprint of each of the teacher's networks."""
        # The weights are read eagerly, also while a step is traced.
        with tf.init_scope():
            return (self._get_fingerprints or self.teacher.fingerprints)()

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight, teacher_outputs = self._unpack(data)
        if not self.optimizer.built:
            # On all that any stage trains, so that stages can change under it.
            self.optimizer.build(self.trainable_variables)
        optimizer, state = self.optimizer, [*self._state(), *self.optimizer.variables]
        before = self._finite_guard.snapshot(state)
        # The teacher first, or its activations are alive beside the student's.
        said = [t for t in tf.nest.flatten(tuple(teacher_outputs)) if tf.is_tensor(t)]
        with tf.control_dependencies(said), tf.GradientTape() as tape:
            y_pred, terms = self._evaluate(x, y, sample_weight, teacher_outputs, True)
            loss = optimizer.scale_loss(terms["loss"])
        variables = self._objective.trainable_variables(
            self.stage, self._active_pairs()
        )
        gradients = tape.gradient(loss, variables)
        self._apply(
            replicas.reduce_gradients(gradients, _batch_size(x), optimizer), variables
        )
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        places = {
            "data": data,
            "teacher's outputs": teacher_outputs.logits,
            "hints": teacher_outputs.hints,
            "student's outputs": y_pred,
            **terms,
            # Loss scaling searches for its scale by gradients that overflow.
            "gradients": None if scaled else gradients,
        }
        self._finite_guard.check_and_rollback(
            optimizer.iterations, places, state, before
        )
        return self._log(x, y, y_pred, sample_weight, terms)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight, teacher_outputs = self._unpack(data)
        y_pred, terms = self._evaluate(x, y, sample_weight, teacher_outputs, False)
        return self._log(x, y, y_pred, sample_weight, terms)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        # Keras calls this to build the label loss, also where a stage has none.
        check_labels(self, y)
        if "label_loss" not in self._terms():
            return ops.zeros(())
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        check_labels(self, y)
        if self.stage == "hint" or self._compile_metrics is None:
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Any]:
        # Keras asks after an epoch too, and then there must have been batches.
        count = self._trackers[self._terms()[0]].count
        apart = tf.executing_eagerly() and replicas.num_replicas() == 1
        if apart and ops.convert_to_numpy(count) == 0:
            raise ValueError(
                "The data gave no batch: there was nothing to learn from, or to "
                "evaluate. Pass at least one; see what `.filter()` or `.skip()` leaves "
                "of the dataset."
            )
        return super().get_metrics_result()

    def _active_pairs(self) -> tuple[int, ...]:
        """The pairs that the stage uses."""
        return self._active_hints if self.stage == "hint" else _all(self.hints)

    def _terms(self) -> list[str]:
        """The names of the stage's terms."""
        if self.stage == "hint":
            return ["hint_loss"]
        labels = ["label_loss"] if self.loss is not None else []
        return [*labels, "kd_loss", *(["hint_loss"] if self.stage == "joint" else [])]

    def _state(self) -> list[Any]:
        """All variables that a step may change, but for the optimizer's."""
        layers = [self.student, *self.regressors]
        return [variable for layer in layers for variable in layer.variables]

    def _evaluate(
        self, x: Any, y: Any, sample_weight: Any, teacher_outputs: Any, training: bool
    ) -> tuple[Any, dict[str, Any]]:
        """The student's outputs; each term and the stage's "loss", as shares."""
        check_labels(self, y)
        objective, wanted, samples = (
            self._objective,
            self._active_pairs(),
            _batch_size(x),
        )
        with replicas.sync_state_updates(self._state(), samples):
            y_pred, regressed = objective.student(x, self.stage, wanted, training)
            penalties = objective.penalties(self.stage, wanted)
        terms, weights = {}, {}
        # The label loss last: it would not say what is wrong with a sample weight.
        for term in reversed(self._terms()):
            if term == "label_loss":
                label_loss = replicas.per_replica_loss(self._compile_loss, self.loss)
                value = objective.label_loss(label_loss, y, y_pred, sample_weight)
                weight = 1.0
            elif term == "kd_loss":
                temperature = ops.convert_to_tensor(self._temperature)
                value = objective.kd_loss(
                    teacher_outputs, y_pred, temperature, sample_weight
                )
                weight = self._lambda
            else:
                value = objective.hint_loss(
                    teacher_outputs, regressed, wanted, sample_weight
                )
                weight = 1.0 if self.stage == "hint" else self._hint_weight
            terms[term], weights[term] = value, weight
        dtype = keras.backend.result_type(*(value.dtype for value in terms.values()))
        loss = sum(
            ops.cast(weight, dtype) * ops.cast(terms[term], dtype)
            for term, weight in weights.items()
        )
        if penalties:
            penalty = sum(ops.cast(ops.sum(p), dtype) for p in penalties)
            loss += replicas.replica_share(penalty, samples)
        return y_pred, {**terms, "loss": loss}

    def _unpack(self, data: Any) -> tuple[Any, Any, Any, TeacherOutputs]:
        """Inputs, labels and sample weights of a batch, and what is said of it."""
        if isinstance(data, CachedInputs):
            data = (data,)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, CachedInputs):
            teacher_outputs = self.lookup_teacher_outputs(x)
        else:
            teacher_outputs = self.teacher_outputs.compute(
                x, self.stage, self._active_pairs()
            )
        return unwrap_inputs(x), y, sample_weight, teacher_outputs

    def lookup_teacher_outputs(self, x: CachedInputs) -> TeacherOutputs:
        """What was said of a batch, as far as the stage wants to know.

        Raises:
            ValueError: if it was said by another teacher, or of other layers.
        """
        return self.teacher_outputs.lookup(
            x.teacher_outputs, self._fingerprints(), self.stage, self._active_pairs()
        )

    def _apply(self, gradients: list[Any], variables: list[Any]) -> None:
        if self.stage == "hint":
            # A network that shows no graph may offer more than its hints depend on.
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
            slow = self._objective.guided_variables(_all(self.hints))
        # This slows any optimizer; scaled gradients would not slow Adam or RMSprop,
        # which divide them by their own size.
        with replicas.scale_updates(slow, self.learning_rate_factor):
            self.optimizer.apply(gradients, variables)

    def _log(
        self,
        x: Any,
        y: Any,
        y_pred: Any,
        sample_weight: Any,
        terms: dict[str, Any],
    ) -> dict[str, Any]:
        means = replicas.all_reduce_sum(terms)
        for metric in self.metrics[: len(means)]:
            metric.update_state(means[metric.name], sample_weight=_batch_size(x))
        return step_results(self.compute_metrics(x, y, y_pred, sample_weight))


def _all(hints: Any) -> tuple[int, ...]:
    return tuple(range(len(hints)))


def _batch_size(x: Any) -> Any:
    return ops.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0]
