"""The two stages of FitNets one after the other."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets.callbacks.schedules import Annealing
from keras_fitnets.distillation.cached_dataset import DATASETS
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.training import dry_run
from keras_fitnets.training.stage_checkpoint import BestWeights
from keras_fitnets.training.stage_checkpoint import StageCheckpoint
from keras_fitnets.utils.checks import list_callbacks


class StagewiseHistory(NamedTuple):
    """What `fit_stagewise` returns.

    Args:
        hint: the `keras.callbacks.History` of stage 1; pairs that were trained in turn
            follow each other in it, and its `epoch` counts through.
        kd: the `History` of stage 2.

    Example:

    >>> import keras
    >>> history = StagewiseHistory(keras.callbacks.History(), keras.callbacks.History())
    >>> history._fields
    ('hint', 'kd')
    """

    hint: keras.callbacks.History
    kd: keras.callbacks.History


class _Stage(NamedTuple):
    name: str
    stage: str
    active_hints: tuple[int, ...]
    epochs: int
    optimizer: Any
    callbacks: list[keras.callbacks.Callback]
    best: BestWeights | None


def fit_stagewise(
    distiller: Distiller,
    x: Any = None,
    y: Any = None,
    hint_epochs: int = 100,
    kd_epochs: int = 500,
    *,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_dir: Any = None,
    stage: str = "kd",
    in_turn: bool = False,
    learning_rate_factor: float | None = None,
    hint_optimizer: Any = None,
    kd_optimizer: Any = None,
    hint_callbacks: Sequence[keras.callbacks.Callback] = (),
    kd_callbacks: Sequence[keras.callbacks.Callback] = (),
    hint_patience: int | None = None,
    kd_patience: int | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    **kwargs: Any,
) -> StagewiseHistory:
    """Train a student as FitNets are: on hints first, then on soft targets.

    The algorithm of Romero et al., "FitNets" (arXiv 1412.6550), section 2.3. Stage 1
    minimises Eq. 3 over the student up to its guided layers; stage 2 starts from
    there and minimises Eq. 2. Each stage has a fresh optimizer. With validation data
    each stage ends on its best weights: by `val_hint_loss`, then by `monitor`.

    Args:
        distiller: a compiled `Distiller` with hints, in whatever stage.
        x, y: as for `fit`: arrays, or a dataset as `x` that can be read repeatedly.
        hint_epochs: the epochs of stage 1, for each turn; 0 leaves it out.
        kd_epochs: the epochs of stage 2.
        validation_data: as for `fit`.
        callbacks: for both stages.
        checkpoint_dir: a directory from which the same call goes on after it was
            interrupted, even killed. A checkpoint is written after each epoch; one of
            other networks, hints, epochs, optimizers, λ, τ or schedules is refused.
            Of your own callbacks it holds the attributes that are numbers, strings
            or arrays. Several workers need one that they share.
        stage: what stage 2 is, `"kd"` or `"joint"`.
        in_turn: train the hint pairs of stage 1 one after the other, rather than all
            together.
        learning_rate_factor: in stage 2, a factor on the steps of the layers that
            stage 1 has trained; the distiller's own by default.
        hint_optimizer, kd_optimizer: a stage's optimizer, a Keras optimizer or its
            name; by default one with the configuration of the compiled one.
        hint_callbacks, kd_callbacks: for one stage alone.
        hint_patience, kd_patience: stop a stage after so many epochs without a better
            validation value.
        monitor: what stage 2 ends on the best of; `"val_label_loss"` by default.
            `val_loss` is a poor judge: it moves with λ and τ.
        mode: `"min"` or `"max"`; needed where the name of `monitor` does not tell.
        **kwargs: for both calls to `fit`: `batch_size`, `verbose`, `sample_weight`, …

    Returns:
        A `StagewiseHistory`, with a `History` in `hint` and in `kd`.

    Raises:
        TypeError: if `distiller` is no Distiller.
        ValueError: if it is not compiled or has no hints, for numbers out of range,
            or if `checkpoint_dir` holds another run.

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
    >>> history = fit_stagewise(
    ...     distiller, np.ones((8, 4)), np.ones(8), 2, 3, verbose=0
    ... )
    >>> len(history.hint.history["hint_loss"]), len(history.kd.history["kd_loss"])
    (2, 3)
    """
    patiences = {"hint_patience": hint_patience, "kd_patience": kd_patience}
    dry_run.validate_arguments(
        distiller, hint_epochs, kd_epochs, stage, patiences, kwargs
    )
    judged = validation_data is not None or bool(kwargs.get("validation_split"))
    if not judged and not (hint_patience is kd_patience is monitor is None):
        raise ValueError(
            "`hint_patience`, `kd_patience` and `monitor` judge by validation data, "
            "and there is none. Pass `validation_data=(x, y)`, or a dataset."
        )
    monitor = monitor or ("val_label_loss" if distiller.loss else "val_kd_loss")
    judge_hint = judge_kd = None
    if judged:
        judge_hint = ("val_hint_loss", "min", hint_patience)
        judge_kd = (monitor, dry_run.find_mode(monitor, mode), kd_patience)
    everything = tuple(range(len(distiller.hints)))
    turns = [(i,) for i in everything] if in_turn else [everything]
    compiled = _restore_compiled_optimizer(distiller)
    optimizers = [hint_optimizer or compiled] * len(turns) + [kd_optimizer or compiled]
    optimizers = [_create_optimizer(optimizer, distiller) for optimizer in optimizers]
    stages = [
        _Stage(
            name=f"hint_{i}" if in_turn else "hint",
            stage="hint",
            active_hints=turn,
            epochs=hint_epochs,
            optimizer=optimizers[i],
            callbacks=list_callbacks(callbacks) + list_callbacks(hint_callbacks),
            best=judge_hint and BestWeights(*judge_hint),
        )
        for i, turn in enumerate(turns)
    ]
    stages.append(
        _Stage(
            name="kd",
            stage=stage,
            active_hints=everything,
            epochs=kd_epochs,
            optimizer=optimizers[-1],
            callbacks=list_callbacks(callbacks) + list_callbacks(kd_callbacks),
            best=judge_kd and BestWeights(*judge_kd),
        )
    )
    if learning_rate_factor is not None:
        distiller.learning_rate_factor = learning_rate_factor
    kwargs = {"x": x, "y": y, "validation_data": validation_data, **kwargs}
    data = (x, y, kwargs.get("sample_weight"))
    dry_run.dry_run(distiller, stage, data, validation_data, judge_kd and judge_kd[0])
    try:
        histories = [
            _fit_stage(distiller, one, checkpoint_dir, kwargs) for one in stages
        ]
    finally:
        distiller.active_hints = everything
    return StagewiseHistory(_join_histories(histories[:-1]), histories[-1])


def _fit_stage(
    distiller: Distiller, stage: _Stage, checkpoint_dir: Any, kwargs: dict[str, Any]
) -> keras.callbacks.History:
    """One stage, from its last checkpoint on if there is one."""
    distiller.stage = stage.stage
    distiller.active_hints = stage.active_hints
    with distiller.distribute_strategy.scope():
        stage.optimizer.build(distiller.trainable_variables)
    distiller.optimizer = stage.optimizer
    history = keras.callbacks.History()
    history.history, history.epoch = {}, []
    if stage.epochs == 0:
        return history
    callbacks = [*stage.callbacks, *([stage.best] if stage.best else [])]
    if checkpoint_dir is None:
        return distiller.fit(**kwargs, epochs=stage.epochs, callbacks=callbacks)
    settings = _describe_run(distiller, stage, kwargs)
    directory = Path(checkpoint_dir) / stage.name
    checkpoint = StageCheckpoint(directory, distiller, callbacks, settings)
    checkpoint.restore()
    history.history = {name: list(log) for name, log in checkpoint.logs.items()}
    history.epoch = list(range(checkpoint.epoch))
    if not checkpoint.done:
        # A stage that was stopped early has only its end before it.
        epochs = checkpoint.epoch if checkpoint.stopped else stage.epochs
        now = distiller.fit(
            **kwargs,
            epochs=epochs,
            initial_epoch=checkpoint.epoch,
            callbacks=[*callbacks, checkpoint],
        )
        history = _join_histories([history, now])
        checkpoint.finish()
    return history


def _describe_run(
    distiller: Distiller, stage: _Stage, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on from."""
    schedules = {
        f"{callback.log} in the epochs": callback.values(stage.epochs)
        for callback in stage.callbacks
        if isinstance(callback, Annealing)
    }
    return {
        "stage": stage.stage,
        "epochs": stage.epochs,
        # A regressor's own layer is counted among the weights.
        "hints": [
            repr(dataclasses.replace(distiller.hints[i], regressor="auto"))
            for i in stage.active_hints
        ],
        "weights": [[w.name, list(w.shape)] for w in distiller.weights],
        "teacher": distiller.teacher.fingerprint(),
        "optimizer": type(stage.optimizer).__name__,
        **_describe_optimizer(stage.optimizer),
        **distiller.initial,
        **schedules,
        "learning_rate_factor": distiller.learning_rate_factor,
        "monitor": stage.best and stage.best.monitor,
        "batch_size": kwargs.get("batch_size"),
        "size of the data": _measure_size(kwargs["x"]),
    }


def _measure_size(x: Any) -> Any:
    """The number of samples, or of batches in a dataset, as far as it is known."""
    if isinstance(x, DATASETS):
        return int(x.cardinality())
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    return [len(array) for array in keras.tree.flatten(x)]


def _create_optimizer(
    optimizer: Any, distiller: Distiller
) -> keras.optimizers.Optimizer:
    """A new optimizer of the same configuration, scaling the loss where that is due."""
    with distiller.distribute_strategy.scope():
        if isinstance(optimizer, str):
            with contextlib.suppress(ValueError):
                optimizer = keras.optimizers.get(optimizer)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "A stage's optimizer must be a Keras optimizer or its name; received "
                f"{optimizer!r}. For example keras.optimizers.Adam(0.01)."
            )
        optimizer = type(optimizer).from_config(optimizer.get_config())
        half = distiller.dtype_policy.name == "mixed_float16"
        if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _describe_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The optimizer's configuration but for its name, which counts its kind up."""
    config = optimizer.get_config()
    return {f"optimizer's {key}": config[key] for key in config.keys() - {"name"}}


def _restore_compiled_optimizer(distiller: Distiller) -> keras.optimizers.Optimizer:
    """As it was compiled, whatever has become of its learning rate since."""
    config = distiller.get_compile_config()["optimizer"]
    own = type(distiller.optimizer)
    return keras.optimizers.deserialize(config, custom_objects={own.__name__: own})


def _join_histories(
    histories: Sequence[keras.callbacks.History],
) -> keras.callbacks.History:
    joined = keras.callbacks.History()
    joined.history, joined.epoch = {}, []
    for history in histories:
        for name, values in history.history.items():
            joined.history.setdefault(name, []).extend(values)
        joined.epoch = list(range(len(joined.epoch) + len(history.epoch)))
    return joined
