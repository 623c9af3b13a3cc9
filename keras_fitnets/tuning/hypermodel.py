"""A FitNet as the model of a search."""

import collections
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_fitnets.distillation.cached_dataset import is_dataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.hints import parse_hints
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.distribution import replicas
from keras_fitnets.training import dry_run
from keras_fitnets.tuning.atomic_save import save_atomically
from keras_fitnets.tuning.search_data import to_arrays
from keras_fitnets.tuning.search_space import NO_HINT
from keras_fitnets.tuning.search_space import declare_hyperparameter
from keras_fitnets.tuning.search_space import parse_candidates
from keras_fitnets.tuning.search_space import parse_numbers
from keras_fitnets.tuning.shared_stages import SharedStages

# These losses change with λ, τ or the hint even for one and the same student.
MOVING_OBJECTIVES = ("val_loss", "val_kd_loss", "val_hint_loss")


def fail_search(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn argument errors into fatal errors that end the search.

    KerasTuner would otherwise count them as failures of a trial, and go on to the next.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except keras_tuner.errors.FatalError:
            raise
        except TypeError as error:
            raise keras_tuner.errors.FatalTypeError(str(error)) from error
        except ValueError as error:
            raise keras_tuner.errors.FatalValueError(str(error)) from error

    return wrapped


class FitNetHyperModel(keras_tuner.HyperModel):
    """A student and its two stages of training, for any tuner of KerasTuner.

    `build(hp)` makes the student, and that is what a trial keeps and what
    `get_best_models` returns. `fit` trains it as `fit_stagewise` does: stage 1 on the
    hint, then stage 2 on Eq. 2 of Romero et al., "FitNets" (arXiv 1412.6550), whose
    epochs the tuner sees. Nothing is done twice: the teacher is run once, into a cache,
    and stage 1, in which λ and τ have no say, is trained once for each student, hint
    pair and learning rate. Both lie on disk, for all trials and processes.

    The hyperparameters are `"lambda"`, `"temperature"`, `"learning_rate"`, `"hint"`,
    `"hint_learning_rate"`, and what `build_student` declares. Of the four numbers each
    is searched if it is a range `(low, high)`, by its logarithm if `low` is positive,
    or a list of values; a single value takes it out of the search.

    Args:
        teacher: as for `Distiller`.
        build_student: `build_student(hp)` returns a new `keras.Model`.
        hints: a list of candidates, each what `Distiller` takes as `hints`: a pair, a
            `Hint`, a list of these, `"middle"`, or None for distillation alone. A
            single candidate, not in a list, takes the hint out of the search.
        lambda_, temperature: λ, at least 0, and τ, positive.
        learning_rate: that of stage 2.
        hint_learning_rate: that of stage 1; each value has a stage 1 of its own.
        loss, metrics: of the student, as for `compile`.
        optimizer: the name of a Keras optimizer, or a function of a learning rate that
            makes one.
        annealing: from a trial's λ to a callback, such as
            `lambda start: LambdaAnnealing(start, 1.0, epochs=30)`; without it λ stays.
        seed: of the order of the examples, and of the first weights of student and
            regressors; for these, each further execution of a trial adds one.
        directory: where the teacher's outputs and the first stages are kept; by
            default in the tuner's project. Searches with one directory share them.
        cache: whether to keep the teacher's outputs. False runs the teacher in each
            step, for data that cannot be cached: text, batches of shapes of their own,
            or data that are drawn anew in each pass. Stage 1 is shared all the same.
        name, tunable: as for any `keras_tuner.HyperModel`.
        **options: the other arguments of `Distiller`.

    Raises:
        TypeError, ValueError: for arguments that cannot be meant.

    Example:

    >>> import keras, keras_tuner
    >>> from keras_fitnets.tuning import FitNetHyperModel
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, "relu", name="hidden"),
    ...         keras.layers.Dense(3, name="logits"),
    ...     ])
    >>> hypermodel = FitNetHyperModel(
    ...     net(16),
    ...     lambda hp: net(hp.Int("width", 2, 4)),
    ...     hints=[("hidden", "hidden"), None],
    ...     temperature=3.0,
    ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ...     metrics=["accuracy"],
    ... )
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).count_params()
    19
    >>> sorted(hp.values)
    ['hint', 'hint_learning_rate', 'lambda', 'learning_rate', 'temperature', 'width']
    """

    def __init__(
        self,
        teacher: Any,
        build_student: Callable[[Any], keras.Model],
        hints: Any = None,
        lambda_: Any = (1.0, 8.0),
        temperature: Any = (1.0, 10.0),
        learning_rate: Any = (1e-4, 1e-2),
        hint_learning_rate: Any = 1e-3,
        *,
        loss: Any,
        metrics: Any = None,
        optimizer: Any = "rmsprop",
        annealing: Callable[[float], Any] | None = None,
        seed: int = 0,
        directory: Any = None,
        cache: bool = True,
        name: str | None = None,
        tunable: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name, tunable)
        self.teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
        self.build_student = _function("build_student", build_student)
        self.candidates = parse_candidates(hints, self.teacher.models)
        self.numbers = {
            "lambda": parse_numbers("lambda_", lambda_, "non-negative"),
            "temperature": parse_numbers("temperature", temperature),
            "learning_rate": parse_numbers("learning_rate", learning_rate),
        }
        self.hint_learning_rate = parse_numbers(
            "hint_learning_rate", hint_learning_rate
        )
        self.loss = loss
        self.metrics = metrics
        named = isinstance(optimizer, str)
        self.optimizer = optimizer if named else _function("optimizer", optimizer)
        self.annealing = annealing and _function("annealing", annealing)
        self.seed = seed
        self.directory = directory
        if not isinstance(cache, bool):
            raise TypeError(f"`cache` must be True or False; received {cache!r}.")
        self.cache = cache
        self.options = options
        self._shared_stages = SharedStages(
            self.teacher, [*self.candidates.values()], seed
        )
        self._executions: collections.Counter[str] = collections.Counter()

    def build(self, hp: Any) -> keras.Model:
        """The student of some hyperparameters, compiled and untrained."""
        for name, space in self.numbers.items():
            declare_hyperparameter(hp, name, space)
        declare_hyperparameter(hp, "hint", [*self.candidates])
        hinted = [name for name in self.candidates if name != NO_HINT]
        if hinted:
            with hp.conditional_scope("hint", hinted):
                declare_hyperparameter(
                    hp, "hint_learning_rate", self.hint_learning_rate
                )
        keras.utils.set_random_seed(self.seed)
        student = self.build_student(hp)
        if not isinstance(student, keras.Model):
            raise keras_tuner.errors.FatalTypeError(
                f"`build_student` must return a keras.Model; it returned {student!r}."
            )
        # The student is compiled to be evaluated only; the Distiller is trained.
        # An optimizer without a state keeps the checkpoints small.
        self._compile(student, keras.optimizers.SGD(hp.get("learning_rate")))
        return student

    @fail_search
    def fit(
        self,
        hp: Any,
        model: keras.Model,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation_data: Any = None,
        hint_epochs: int = 10,
        epochs: int = 10,
        initial_epoch: int = 0,
        batch_size: int | None = None,
        shuffle: bool = True,
        verbose: Any = "auto",
        callbacks: Any = (),
        **options: Any,
    ) -> keras.callbacks.History:
        """Train a student that `build` made; `tuner.search` passes its arguments on.

        Args:
            hp: its hyperparameters.
            model: the student.
            x, y, sample_weight, validation_data: as for `Distiller.fit`. Unless
                `cache` is False, a dataset must be the same in every pass, or one that
                `cache_teacher` gave back.
            hint_epochs: those of stage 1.
            epochs, initial_epoch: those of stage 2. Where Hyperband goes on with a
                student, from another epoch than 0, there is no stage 1.
            batch_size: of arrays; 32 by default.
            shuffle: whether the examples come in another order in each epoch.
            verbose: as in `fit`.
            callbacks: for stage 2.
            **options: the other arguments of `Distiller.fit`, for both stages.

        Returns:
            The history of stage 2.

        Raises:
            keras_tuner.errors.FatalError: for what is wrong with the arguments of the
                tuner, of the hypermodel or of `search`; it ends the search at once.
        """
        # The tuner adds a callback that refers to it. Without that callback `fit` was
        # called by hand, outside a search.
        own = next((c for c in callbacks if hasattr(c, "tuner")), None)
        monitors = _monitors(own.tuner, validation_data) if own else []
        pairs = parse_hints(self.candidates[hp.get("hint")], self.teacher.models, model)
        # A regressor passed as a layer is copied: its weights belong to one trial.
        hints = [
            dataclasses.replace(pair, regressor=_copy_layer(pair.regressor))
            for pair in pairs
        ]
        if own is not None:
            save_atomically(own.tuner)
        with replicas.enter_scope(model):
            self._begin(model, hp, None if initial_epoch else own)
            distiller = Distiller(self.teacher, model, hints or None, **self.options)
            self._compile(distiller, self._optimizer(hp.get("learning_rate")))
        data: tuple[Any, ...] = (x, y, sample_weight)
        folder = self._folder(own)
        if folder is None or not self.cache:
            data = tuple(to_arrays(part) for part in data)
            if isinstance(validation_data, (list, tuple)):
                validation_data = to_arrays(validation_data)
            # A dataset has an order of its own, and Keras warns of another wish.
            shuffle = shuffle and not is_dataset(x)
        else:
            keep = functools.partial(
                self._shared_stages.cached_dataset, folder, distiller=distiller
            )
            size = {"batch_size": batch_size, "verbose": verbose}
            data = (keep("training", data=data, shuffle=shuffle, **size), None, None)
            if validation_data is not None:
                given = unpack_batch("`validation_data`", validation_data)
                validation_data = keep("validation", data=given, shuffle=False, **size)
            batch_size, shuffle = None, False
        if monitors:
            dry_run.dry_run(distiller, data, validation_data, {"kd": set(monitors)})
        options |= {"x": data[0], "y": data[1], "sample_weight": data[2]}
        options |= {"validation_data": validation_data, "batch_size": batch_size}
        options |= {"shuffle": shuffle, "verbose": verbose}
        if hints and not initial_epoch:
            # Stage 1 takes the configuration of the compiled optimizer, which keeps the
            # strategy in whose scope it was made.
            with replicas.enter_scope(distiller):
                optimizer = self._optimizer(hp.get("hint_learning_rate"))
                self._compile(distiller, optimizer)
            self._shared_stages.train_hint_stage(
                *(folder, distiller, optimizer, hint_epochs, options)
            )
        distiller.stage = "kd"
        distiller.lambda_ = hp.get("lambda")
        distiller.temperature = hp.get("temperature")
        with replicas.enter_scope(distiller):
            self._compile(distiller, self._optimizer(hp.get("learning_rate")))
        annealing = [self.annealing(distiller.lambda_)] if self.annealing else []
        return distiller.fit(
            **options,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=[
                *annealing,
                *(_redirect_to_student(model, one) for one in callbacks),
            ],
        )

    def _compile(self, model: keras.Model, optimizer: Any) -> None:
        def fresh(metric: Any) -> Any:
            # A metric keeps sums of what it has seen, so that each model needs its own.
            of_keras = isinstance(metric, keras.metrics.Metric)
            return type(metric).from_config(metric.get_config()) if of_keras else metric

        metrics = keras.tree.map_structure(fresh, self.metrics)
        model.compile(optimizer, self.loss, metrics=metrics)

    def _optimizer(self, learning_rate: float) -> keras.optimizers.Optimizer:
        if not isinstance(self.optimizer, str):
            return self.optimizer(learning_rate)
        optimizer = keras.optimizers.get(self.optimizer)
        optimizer.learning_rate = learning_rate
        return optimizer

    def _begin(self, model: keras.Model, hp: Any, own: Any) -> None:
        """Set the seed, and draw new initial weights for a repeated execution."""
        execution = 0
        if own is not None:
            trial = own.trial.trial_id
            execution = self._executions[trial] % own.tuner.executions_per_trial
            self._executions[trial] += 1
        keras.utils.set_random_seed(self.seed + execution)
        if execution:
            model.set_weights(self.build_student(hp).get_weights())

    def _folder(self, own: Any) -> Path | None:
        """Return the folder for what trials share, or None to share nothing."""
        if self.directory is not None:
            return Path(self.directory)
        return Path(own.tuner.project_dir) / "shared" if own else None


def _function(argument: str, value: Any) -> Any:
    # A network can be called as well, but it returns a tensor.
    if not callable(value) or isinstance(value, keras.Model):
        raise TypeError(
            f"`{argument}` must be a function; received {value!r}. "
            "help(keras_fitnets.tuning.FitNetHyperModel) lists its arguments."
        )
    return value


def _copy_layer(layer: Any) -> Any:
    """Return a new layer of the same arguments; a word in its place as it is."""
    # Neither way looks the class up, so that it need not be registered with Keras.
    if isinstance(layer, (keras.Sequential, keras.Function)):
        return keras.models.clone_model(layer)
    is_layer = isinstance(layer, keras.layers.Layer)
    return type(layer).from_config(layer.get_config()) if is_layer else layer


def _monitors(tuner: Any, validation_data: Any) -> list[str]:
    """Return the names of a tuner's objectives; raise if they cannot compare trials."""
    objective = tuner.oracle.objective
    names = [*getattr(objective, "name_to_direction", [objective.name])]
    for name in names:
        if name in MOVING_OBJECTIVES or not name.startswith("val_"):
            raise ValueError(
                f"Trials cannot be compared by the objective {name!r}: λ, τ and the "
                "hint are factors of the losses, so that a trial with a small λ has a "
                "small loss. Pass the tuner a metric of the student on validation data:"
                ' objective="val_accuracy", or keras_tuner.Objective("val_label_loss", '
                '"min").'
            )
    if validation_data is None:
        raise ValueError(
            f"The objective {names[0]!r} is measured on validation data, and there are "
            "none. Pass `validation_data=(x, y)`, or a dataset, to `tuner.search`."
        )
    if tuner.optimizer or tuner.loss or tuner.metrics:
        raise ValueError(
            "The tuner has an `optimizer`, a `loss` or `metrics` to compile with. Pass "
            "them to FitNetHyperModel, which compiles student and Distiller alike."
        )
    return names


def _redirect_to_student(student: keras.Model, callback: Any) -> Any:
    """Let KerasTuner's own callbacks act on the student, which a trial saves."""
    if not type(callback).__module__.startswith("keras_tuner."):
        return callback
    # `fit` would set the Distiller as the callback's model. It does so on a stand-in,
    # whose hooks are those of the callback.
    callback.set_model(student)
    stand_in = keras.callbacks.Callback()
    for name in dir(callback):
        if name.startswith("on_"):
            setattr(stand_in, name, getattr(callback, name))
    return stand_in
