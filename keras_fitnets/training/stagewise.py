"""Training in stages, one after the other, resumable."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets.callbacks.schedules import Annealing
from keras_fitnets.distillation.cached_dataset import is_dataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.hints import describe_layers
from keras_fitnets.distribution import replicas
from keras_fitnets.training import dry_run
from keras_fitnets.training.optimizers import copy_optimizer
from keras_fitnets.training.optimizers import describe_optimizer
from keras_fitnets.training.stage import Stage
from keras_fitnets.training.stage_checkpoint import BestWeights
from keras_fitnets.training.stage_checkpoint import StageCheckpoint
from keras_fitnets.training.stage_csv import StageCSVLogger
from keras_fitnets.training.stage_csv import replace_csv_loggers
from keras_fitnets.utils.checks import list_callbacks
from keras_fitnets.utils.keras_private import get_compiled_optimizer
from keras_fitnets.utils.tensors import flatten_present

# Arguments of earlier versions, each with what a `Stage` has in its place. They still
# work, with a DeprecationWarning.
_DEPRECATED = {
    "hint_optimizer": 'kf.Stage("hint", hint_epochs, optimizer=...)',
    "kd_optimizer": 'kf.Stage("kd", kd_epochs, optimizer=...)',
    "hint_callbacks": 'kf.Stage("hint", hint_epochs, callbacks=...)',
    "kd_callbacks": 'kf.Stage("kd", kd_epochs, callbacks=...)',
    "hint_patience": 'kf.Stage("hint", hint_epochs, patience=...)',
    "kd_patience": 'kf.Stage("kd", kd_epochs, patience=...)',
    "in_turn": 'kf.Stage("hint", hint_epochs, hints=[0]) and one for each other pair',
    "learning_rate_factor": 'kf.Stage("kd", kd_epochs, learning_rate_factor=...)',
}


class _HintAndKD(NamedTuple):
    hint: keras.callbacks.History
    kd: keras.callbacks.History


class StagewiseHistory(_HintAndKD):
    """What `fit_stagewise` returns: the logs of its stages.

    It unpacks into two, as in `hint, kd = fit_stagewise(...)`, however many stages
    there were.

    Args:
        hint: the `keras.callbacks.History` of the stages of kind `"hint"`. Several
            follow each other in it, and its `epoch` counts through.
        kd: the same for the stages of the kinds `"kd"` and `"joint"`.
        stages: a pair `(Stage, History)` for each stage, in their order.

    Example:

    >>> import keras
    >>> first, second = keras.callbacks.History(), keras.callbacks.History()
    >>> history = StagewiseHistory(
    ...     first, second, [(Stage("hint", 5), first), (Stage("kd", 9), second)]
    ... )
    >>> [stage.kind for stage, _ in history.stages]
    ['hint', 'kd']
    >>> history.kd is history.stages[1][1]
    True
    """

    stages: tuple[tuple[Stage, keras.callbacks.History], ...]

    def __new__(
        cls,
        hint: keras.callbacks.History,
        kd: keras.callbacks.History,
        stages: Sequence[tuple[Stage, keras.callbacks.History]] = (),
    ) -> "StagewiseHistory":
        history = super().__new__(cls, hint, kd)
        history.stages = tuple(stages)
        return history


@dataclasses.dataclass
class _StageRun:
    """A stage with everything that its call to `fit` needs."""

    stage: Stage
    # What messages and logs call the stage, and its directory in `checkpoint_dir`.
    name: str
    directory: str
    active_hints: tuple[int, ...]
    optimizer: keras.optimizers.Optimizer
    callbacks: list[keras.callbacks.Callback]
    best: BestWeights | None
    # What ran before this stage, as its checkpoint holds it.
    settings: dict[str, Any]


def fit_stagewise(
    distiller: Distiller,
    x: Any = None,
    y: Any = None,
    hint_epochs: int | None = None,
    kd_epochs: int | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_dir: Any = None,
    stage: str | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    **kwargs: Any,
) -> StagewiseHistory:
    """Train a student as FitNets are: on hints first, then on soft targets.

    The algorithm of Romero et al., "FitNets" (arXiv 1412.6550), section 2.3. Stage 1
    minimises Eq. 3 over the student up to its guided layers; stage 2 starts from
    there and minimises Eq. 2. That is what `hint_epochs` and `kd_epochs` give. Any
    other sequence is a list of `Stage`, for example block by block:
    `stages=[Stage("hint", 20, hints=[0]), Stage("hint", 20, hints=[1]),
    Stage("kd", 60, patience=5)]`. Each stage starts with a fresh optimizer. With
    validation data each stage ends on its best weights.

    Args:
        distiller: a compiled `Distiller`, in whatever stage. Stages of the kinds
            `"hint"` and `"joint"` need one with hints.

            **Data**
        x, y: as for `fit`: arrays, or a dataset as `x` that can be read repeatedly.
        validation_data: as for `fit`.
        **kwargs: for every call to `fit`: `batch_size`, `verbose`, `sample_weight`, …

            **Stages**
        hint_epochs: the epochs of stage 1, 100 by default; 0 leaves it out.
        kd_epochs: the epochs of stage 2, 500 by default.
        stage: the kind of stage 2, `"kd"` (the default) or `"joint"`.
        stages: a list of `Stage` in place of `hint_epochs`, `kd_epochs` and `stage`.
        callbacks: for all stages. A `keras.callbacks.CSVLogger` writes all stages to
            one file, with a further column "stage".

            **Best weights**
        monitor: the validation log by which stages of the kinds `"kd"` and `"joint"`
            end on their best weights; `"val_label_loss"` by default, or
            `"val_kd_loss"` without labels. `val_loss` is a poor judge: it moves with λ
            and τ. Stages of kind `"hint"` end on the best `"val_hint_loss"`.
        mode: `"min"` or `"max"`; needed where the name of `monitor` does not tell.

            **Resuming**
        checkpoint_dir: a directory from which the same call continues after it was
            interrupted, even killed. A checkpoint is written after each epoch; one of
            other networks, hints, epochs, optimizers, λ, τ or schedules is rejected.
            It also holds the state of the callbacks: every attribute of a callback,
            your own included, that is a number, a string, an array, or a list or
            dictionary of these, and that has changed since training began. When the
            run continues, these attributes are set again on the callbacks that you
            pass, which are matched by their position. Several workers need a directory
            that they share.

    Returns:
        A `StagewiseHistory`, with a `History` in `hint` and in `kd`, and one for each
        stage in `stages`.

    Raises:
        TypeError: if `distiller` is no Distiller, or if both `stages` and an argument
            that it replaces are passed.
        ValueError: if the Distiller is not compiled or has no hints, for numbers out
            of range, or if `checkpoint_dir` holds another run.

    Example:

    >>> import keras, numpy as np
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, "relu", name="hidden"),
    ...         keras.layers.Dense(3, name="logits"),
    ...     ])
    >>> distiller = Distiller(net(16), net(2), hints=("hidden", "hidden"))
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> distiller.compile("adam", loss=loss)
    >>> x, y = np.ones((8, 4)), np.ones(8)
    >>> history = fit_stagewise(distiller, x, y, 2, 3, verbose=0)
    >>> len(history.hint.history["hint_loss"]), len(history.kd.history["kd_loss"])
    (2, 3)
    >>> stages = [Stage("hint", 1), Stage("joint", 1), Stage("kd", 2, optimizer="sgd")]
    >>> history = fit_stagewise(distiller, x, y, stages=stages, verbose=0)
    >>> [len(logs.epoch) for _, logs in history.stages]
    [1, 1, 2]
    """
    deprecated = _pop_deprecated(kwargs)
    dry_run.validate_arguments(distiller, kwargs)
    is_usual = stages is None
    if stages is None:
        stages = _create_usual_stages(
            distiller, hint_epochs, kd_epochs, stage, deprecated
        )
    else:
        given = {"hint_epochs": hint_epochs, "kd_epochs": kd_epochs, "stage": stage}
        dry_run.validate_stages(distiller, stages, {**given, **deprecated}, monitor)
    has_validation = validation_data is not None or bool(kwargs.get("validation_split"))
    if not has_validation:
        dry_run.check_needs_no_validation(stages, monitor)
    if deprecated.get("learning_rate_factor") is not None:
        distiller.learning_rate_factor = deprecated["learning_rate_factor"]
    factor = distiller.learning_rate_factor

    # Create everything that can fail before the first stage begins. The optimizers are
    # fresh: moments that belong to one loss would disturb the next.
    compiled = _restore_compiled_optimizer(distiller)
    shared_callbacks = list_callbacks(callbacks)
    dry_run.check_callbacks(shared_callbacks, stages)
    directories = _name_directories(stages, is_usual)
    names = _name_stages(stages)
    csv_loggers: dict[str, StageCSVLogger] = {}
    all_hints = tuple(range(len(distiller.hints)))
    runs: list[_StageRun] = []
    for one, name, directory in zip(stages, names, directories, strict=True):
        best = _create_best_weights(distiller, one, monitor, mode)
        own_callbacks = [*shared_callbacks, *list_callbacks(one.callbacks)]
        run = _StageRun(
            stage=one,
            name=name,
            directory=directory,
            active_hints=all_hints if one.hints is None else tuple(one.hints),
            optimizer=_create_optimizer(one.optimizer or compiled, distiller),
            callbacks=replace_csv_loggers(own_callbacks, csv_loggers),
            best=best if has_validation else None,
            # Without this, a changed earlier stage of no epochs would go unnoticed.
            # The checkpoints of the usual two stages never had it.
            settings={} if is_usual else {"earlier stages": _describe_stages(runs)},
        )
        runs.append(run)
        if checkpoint_dir is not None:
            # It raises now, and not after the stages before, if it cannot.
            describe_optimizer(run.optimizer)

    data = (x, y, kwargs.get("sample_weight"))
    dry_run.dry_run(distiller, data, validation_data, _find_monitors(runs))
    kwargs = {"x": x, "y": y, "validation_data": validation_data, **kwargs}
    histories: list[keras.callbacks.History] = []
    is_resumed = False
    try:
        for run in runs:
            history, is_resumed = _fit_stage(
                distiller, run, checkpoint_dir, factor, is_resumed, kwargs
            )
            histories.append(history)
    finally:
        # The next call starts with all pairs and the Distiller's own factor again.
        if distiller.hints:
            distiller.active_hints = all_hints
        if distiller.learning_rate_factor != factor:
            distiller.learning_rate_factor = factor
    pairs = list(zip(stages, histories, strict=True))
    return StagewiseHistory(
        hint=_join_histories([logs for one, logs in pairs if one.kind == "hint"]),
        kd=_join_histories([logs for one, logs in pairs if one.kind != "hint"]),
        stages=pairs,
    )


def _pop_deprecated(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of earlier versions out of `kwargs`, each with a warning."""
    found = {name: kwargs.pop(name) for name in _DEPRECATED if name in kwargs}
    for name in found:
        # The third frame from here is the user's call of `fit_stagewise`.
        warnings.warn(
            f"`{name}` of `fit_stagewise` is deprecated. Pass `stages`, a list with "
            f"{_DEPRECATED[name]}.",
            DeprecationWarning,
            stacklevel=3,
        )
    return found


def _create_usual_stages(
    distiller: Distiller,
    hint_epochs: int | None,
    kd_epochs: int | None,
    stage: str | None,
    deprecated: dict[str, Any],
) -> list[Stage]:
    """Create the two stages of `hint_epochs` and `kd_epochs`."""
    hint_epochs = 100 if hint_epochs is None else hint_epochs
    kd_epochs = 500 if kd_epochs is None else kd_epochs
    stage = "kd" if stage is None else stage
    dry_run.validate_usual_stages(distiller, hint_epochs, kd_epochs, stage)
    in_turn = deprecated.get("in_turn")
    turns = [[i] for i in range(len(distiller.hints))] if in_turn else [None]
    hint_stages = [
        Stage(
            "hint",
            hint_epochs,
            hints=turn,
            optimizer=deprecated.get("hint_optimizer"),
            callbacks=deprecated.get("hint_callbacks", ()),
            patience=deprecated.get("hint_patience"),
        )
        for turn in turns
    ]
    last_stage = Stage(
        stage,
        kd_epochs,
        optimizer=deprecated.get("kd_optimizer"),
        callbacks=deprecated.get("kd_callbacks", ()),
        patience=deprecated.get("kd_patience"),
    )
    return [*hint_stages, last_stage]


def _name_directories(stages: Sequence[Stage], is_usual: bool) -> list[str]:
    """Name the directory of each stage's checkpoints.

    A list of stages counts them and leaves their kinds out, so that a list that was
    changed finds the checkpoint of what ran in the same place before, and rejects it.
    """
    if not is_usual:
        return [f"stage_{i}" for i in range(1, len(stages) + 1)]
    hints = (
        ["hint"]
        if stages[0].hints is None
        else [f"hint_{i}" for i in range(len(stages) - 1)]
    )
    return [*hints, "kd"]


def _name_stages(stages: Sequence[Stage]) -> list[str]:
    """Name the stages by their kinds, with numbers where a kind comes twice."""
    kinds = [stage.kind for stage in stages]
    if len(set(kinds)) == len(kinds):
        return kinds
    return [f"{kind} {number}" for number, kind in enumerate(kinds, start=1)]


def _describe_stages(runs: Sequence[_StageRun]) -> list[str]:
    return [f"{run.stage.kind} for {run.stage.epochs} epochs" for run in runs]


def _create_best_weights(
    distiller: Distiller, stage: Stage, monitor: str | None, mode: str | None
) -> BestWeights:
    """Create the callback that ends a stage on its best weights."""
    if stage.monitor is not None:
        monitor, mode = stage.monitor, stage.mode
    elif stage.kind == "hint":
        monitor, mode = "val_hint_loss", stage.mode
    else:
        monitor = monitor or ("val_label_loss" if distiller.loss else "val_kd_loss")
        mode = stage.mode or mode
    return BestWeights(monitor, dry_run.find_mode(monitor, mode), stage.patience)


def _find_monitors(runs: Sequence[_StageRun]) -> dict[str, set[str]]:
    """The kinds of stages to try before training, with the logs that each must have."""
    monitors: dict[str, set[str]] = {}
    for run in runs:
        # A hint stage needs nothing but inputs, and always logs its own loss.
        if run.stage.kind == "hint" and run.stage.monitor is None:
            continue
        names = monitors.setdefault(run.stage.kind, set())
        if run.best is not None:
            names.add(run.best.monitor)
    return monitors


def _fit_stage(
    distiller: Distiller,
    run: _StageRun,
    checkpoint_dir: Any,
    factor: float,
    is_resumed: bool,
    kwargs: dict[str, Any],
) -> tuple[keras.callbacks.History, bool]:
    """Train one stage, from its last checkpoint on if there is one.

    Args:
        is_resumed: whether an earlier call has run a stage before this one.

    Returns:
        The stage's logs, and whether an earlier call has run it or one before it.
    """
    stage = run.stage
    distiller.stage = stage.kind
    if distiller.hints:
        distiller.active_hints = run.active_hints
    if stage.learning_rate_factor is not None:
        factor = stage.learning_rate_factor
    if distiller.learning_rate_factor != factor:
        distiller.learning_rate_factor = factor
    with replicas.enter_scope(distiller):
        run.optimizer.build(distiller.trainable_variables)
    distiller.optimizer = run.optimizer
    history = keras.callbacks.History()
    history.history, history.epoch = {}, []
    if stage.epochs == 0:
        return history, is_resumed
    callbacks = list(run.callbacks)
    if run.best is not None:
        callbacks.append(run.best)
    if checkpoint_dir is None:
        _begin_csv_files(run, 0, is_resumed)
        options = {"epochs": stage.epochs, "callbacks": callbacks}
        return distiller.fit(**kwargs, **options), is_resumed

    settings = _describe_run(distiller, run, kwargs)
    directory = Path(checkpoint_dir) / run.directory
    checkpoint = StageCheckpoint(directory, distiller, callbacks, settings)
    checkpoint.restore()
    is_resumed = is_resumed or checkpoint.epoch > 0
    _begin_csv_files(run, checkpoint.epoch, is_resumed)
    history.history = {name: list(log) for name, log in checkpoint.logs.items()}
    history.epoch = list(range(checkpoint.epoch))
    if not checkpoint.done:
        # A stage that was stopped early trains no further epoch: `fit` with none left
        # only runs the callbacks of its beginning and end, which restore the best
        # weights.
        epochs = checkpoint.epoch if checkpoint.stopped else stage.epochs
        rest = distiller.fit(
            **kwargs,
            epochs=epochs,
            initial_epoch=checkpoint.epoch,
            callbacks=[*callbacks, checkpoint],
        )
        history = _join_histories([history, rest])
        checkpoint.finish()
    return history, is_resumed


def _begin_csv_files(run: _StageRun, epoch: int, is_resumed: bool) -> None:
    for callback in run.callbacks:
        if isinstance(callback, StageCSVLogger):
            callback.begin_stage(run.name, epoch, is_resumed)


def _describe_run(
    distiller: Distiller, run: _StageRun, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Describe what a run must have in common with the one that it continues.

    The names are part of the file format: a checkpoint with others is rejected.
    """
    epochs = run.stage.epochs
    schedules = {
        f"{callback.log} in the epochs": callback.values(epochs)
        for callback in run.callbacks
        if isinstance(callback, Annealing)
    }
    return {
        "stage": run.stage.kind,
        "epochs": epochs,
        # The repr of a regressor layer holds a name that Keras counts up from run to
        # run. Its weights are listed below with the others.
        "hints": [
            repr(dataclasses.replace(distiller.hints[i], regressor="auto"))
            for i in run.active_hints
        ],
        "layers of the hints": [
            describe_layers(
                distiller.hints[i], distiller.teacher.models, distiller.student
            )
            for i in run.active_hints
        ],
        "weights": [[w.name, list(w.shape)] for w in distiller.weights],
        "teacher": distiller.teacher.fingerprint(),
        "optimizer": type(run.optimizer).__name__,
        **{
            f"optimizer's {name}": value
            for name, value in describe_optimizer(run.optimizer).items()
        },
        **distiller.initial,
        **schedules,
        "learning_rate_factor": distiller.learning_rate_factor,
        "monitor": None if run.best is None else run.best.monitor,
        "batch_size": kwargs.get("batch_size"),
        "size of the data": _measure_size(kwargs["x"]),
        **run.settings,
    }


def _measure_size(x: Any) -> Any:
    """The number of samples, or of batches in a dataset, negative if unknown."""
    if is_dataset(x):
        return int(x.cardinality())
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    # An optional input of a network may be None.
    return [len(array) for array in flatten_present(x)]


def _create_optimizer(
    optimizer: Any, distiller: Distiller
) -> keras.optimizers.Optimizer:
    """Create an optimizer of the same configuration, without a state.

    In float16 it scales the loss, as `compile` would have it do: gradients below
    6e-8 round to zero there.
    """
    with replicas.enter_scope(distiller):
        if isinstance(optimizer, str):
            try:
                optimizer = keras.optimizers.get(optimizer)
            except ValueError as error:
                raise ValueError(
                    "`optimizer` of a Stage must be a Keras optimizer or its name; "
                    f"received {optimizer!r}. For example keras.optimizers.Adam(0.01)."
                ) from error
        optimizer = copy_optimizer(optimizer)
        is_half = distiller.dtype_policy.name == "mixed_float16"
        if is_half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _restore_compiled_optimizer(distiller: Distiller) -> keras.optimizers.Optimizer:
    """Create the optimizer as it was compiled.

    Callbacks such as ReduceLROnPlateau may have changed `distiller.optimizer` since.
    """
    compiled = get_compiled_optimizer(distiller)
    # A name, or the configuration of a loaded file.
    if not isinstance(compiled, keras.optimizers.Optimizer):
        compiled = keras.optimizers.get(compiled)
    return copy_optimizer(compiled)


def _join_histories(
    histories: Sequence[keras.callbacks.History],
) -> keras.callbacks.History:
    """Join the logs of stages that follow each other; `epoch` counts through."""
    if len(histories) == 1:
        return histories[0]
    joined = keras.callbacks.History()
    joined.history, joined.epoch = {}, []
    for history in histories:
        for name, values in history.history.items():
            joined.history.setdefault(name, []).extend(values)
        joined.epoch = list(range(len(joined.epoch) + len(history.epoch)))
    return joined
