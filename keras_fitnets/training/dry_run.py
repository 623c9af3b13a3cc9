"""The checks of `fit_stagewise`: mistakes show before training, not after stage 1."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.distillation.cached_dataset import is_dataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.validate_data import check_source
from keras_fitnets.distillation.validate_data import is_source
from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.inspection import graph
from keras_fitnets.training.stage import Stage
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_integer


def find_mode(monitor: str, mode: str | None) -> str:
    """Whether `monitor` is better when it is smaller ("min") or larger ("max")."""
    check_choice("mode", mode, ("min", "max", None))
    if mode is not None:
        return mode
    words = {"loss": "min", "error": "min", "acc": "max", "auc": "max", "f1": "max"}
    modes = {mode for word, mode in words.items() if word in monitor.lower()}
    if len(modes) != 1:
        raise ValueError(
            f"The name monitor={monitor!r} does not tell whether smaller or larger "
            'values are better. Pass mode="max" or mode="min" with it.'
        )
    return modes.pop()


def validate_arguments(distiller: Any, kwargs: dict[str, Any]) -> None:
    """Check what `fit_stagewise` needs for any stages.

    Args:
        distiller: what was passed as the Distiller.
        kwargs: the arguments that go to `fit`.
    """
    if not isinstance(distiller, Distiller):
        raise TypeError(
            f"`fit_stagewise` trains a keras_fitnets.Distiller; received {distiller!r}."
        )
    if not distiller.compiled:
        raise ValueError(
            "The Distiller is not compiled. Call "
            "`distiller.compile(optimizer, loss=...)` before `fit_stagewise`."
        )
    given = {"epochs", "initial_epoch"} & kwargs.keys()
    if given:
        raise TypeError(
            f"`fit_stagewise` counts the epochs itself; received {sorted(given)}. Pass "
            "`hint_epochs` and `kd_epochs`, or the epochs of each Stage."
        )


def validate_usual_stages(
    distiller: Distiller, hint_epochs: Any, kd_epochs: Any, stage: Any
) -> None:
    """Check the arguments of the usual two stages."""
    if not distiller.hints:
        raise ValueError(
            "`fit_stagewise` starts with a hint stage, and this Distiller has no "
            'hints. Pass it hints=("hint_layer", "guided_layer"), or call its `fit`.'
        )
    if not isinstance(stage, str) or stage not in ("kd", "joint"):
        raise ValueError(
            f'Stage 2 must be "kd" or "joint"; received stage={stage!r}. Stage 1 is '
            'always "hint".'
        )
    for name, epochs in {"hint_epochs": hint_epochs, "kd_epochs": kd_epochs}.items():
        check_integer(name, epochs, minimum=0, advice="It is a number of epochs.")


def validate_stages(
    distiller: Distiller, stages: Any, replaced: dict[str, Any], monitor: str | None
) -> None:
    """Check a list of `Stage`.

    Args:
        distiller: the Distiller that is to be trained.
        stages: what was passed as the list.
        replaced: the arguments in place of which `stages` stands, None if not passed.
        monitor: the log that stages of the kinds "kd" and "joint" end on the best of.
    """
    is_list = isinstance(stages, (list, tuple))
    if not is_list or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(
            "`stages` must be a list of keras_fitnets.Stage; received "
            f'{stages!r}. For example [kf.Stage("hint", 10), kf.Stage("kd", 50)].'
        )
    if not stages:
        raise ValueError(
            "`stages` must hold at least one Stage; received an empty list. For the "
            "usual two stages pass `hint_epochs` and `kd_epochs` instead."
        )
    given = sorted(name for name, value in replaced.items() if value is not None)
    if given:
        raise TypeError(
            f"`stages` stands in place of {given}; received both. Leave out {given}, "
            "and give each Stage what it needs."
        )
    for stage in stages:
        if stage.kind != "kd" and not distiller.hints:
            raise ValueError(
                f"{stage} needs hints, and this Distiller has none. Pass it "
                'hints=("hint_layer", "guided_layer"), or use stages of kind "kd".'
            )
        if any(i >= len(distiller.hints) for i in stage.hints or ()):
            raise ValueError(
                f"{stage} asks for hints at the positions {list(stage.hints)}, and the "
                f"Distiller has {len(distiller.hints)} pair(s) of hints, counted from "
                "0."
            )
    if monitor is not None and all(stage.kind == "hint" for stage in stages):
        raise ValueError(
            f'monitor={monitor!r} is for stages of the kinds "kd" and "joint", and '
            "`stages` holds none. Pass it to a Stage."
        )


def check_needs_no_validation(stages: Sequence[Stage], monitor: str | None) -> None:
    """Raise if a stage asks for a comparison that only validation data allow."""
    is_needed = monitor is not None or any(
        stage.patience is not None or stage.monitor is not None for stage in stages
    )
    if is_needed:
        raise ValueError(
            "`patience` and `monitor` compare epochs by validation data, and there are "
            "none. Pass `validation_data=(x, y)`, or a dataset."
        )


def check_callbacks(callbacks: Sequence[Any], stages: Sequence[Stage]) -> None:
    """Raise for callbacks that would take one stage for another.

    Args:
        callbacks: those of all stages.
        stages: the stages.
    """
    has_backup = any(
        isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks
    )
    if has_backup and sum(stage.epochs > 0 for stage in stages) > 1:
        raise ValueError(
            "`callbacks` holds a BackupAndRestore, which knows nothing of stages: "
            "after an interruption stage 1 would begin with the weights and the epoch "
            "of the stage that was interrupted. Pass `checkpoint_dir` instead, which "
            "resumes every stage."
        )


def dry_run(
    distiller: Distiller,
    data: Sequence[Any],
    validation_data: Any,
    monitors: dict[str, set[str]],
) -> None:
    """Check the data of later stages, and evaluate one batch, before the first stage.

    Args:
        distiller: the compiled Distiller. It ends in the stage that it was in.
        data: `x`, `y` and `sample_weight`, as for `fit`.
        validation_data: as for `fit`.
        monitors: the kinds of stages to try, each with the logs that it must have.

    Raises:
        ValueError, TypeError: as the stages would, and if a log is missing.
    """
    sources = {"`x`": data}
    if validation_data is not None:
        name = "`validation_data`"
        sources[name] = unpack_batch(name, validation_data)
    for name, source in sources.items():
        _check_readable(name, source[0])
    batches: dict[str, Any] = {}
    before = distiller.stage
    is_eager = distiller.run_eagerly
    # Tracing takes longer than one eager step on one sample. On several replicas the
    # step must be traced: TensorFlow distributes nothing eagerly.
    strategy = backend.get_strategy(distiller)
    is_single = strategy is None or strategy.num_replicas_in_sync == 1
    distiller.run_eagerly = is_single or is_eager
    try:
        for kind, names in monitors.items():
            distiller.stage = kind
            for name, source in sources.items():
                check_source(distiller, name, *source)
                # One batch serves all kinds: each pass of a shuffled dataset draws
                # random numbers, and the training should not depend on this check.
                if name not in batches:
                    size = graph.get_batch_size(distiller.student) or 1
                    batches[name] = _take_batch(name, size, *source)
                batch = batches[name]
                check_source(distiller, f"a batch of {name}", *batch)
                logs = distiller.test_on_batch(*batch, return_dict=True)
            _check_monitors(kind, names, logs)
    finally:
        distiller.reset_metrics()
        distiller.run_eagerly = is_eager
        # Assigning the stage discards the step that was made for this check.
        distiller.stage = before


def _check_monitors(kind: str, names: set[str], logs: dict[str, Any]) -> None:
    """Raise if a stage does not log what it is to be compared by."""
    logged = sorted(f"val_{name}" for name in logs)
    for name in sorted(names - set(logged)):
        raise ValueError(
            f'Stage "{kind}" does not log monitor={name!r}; it logs {logged}. Pass one '
            "of these."
        )


def _check_readable(name: str, source: Any) -> None:
    """Raise for a generator: each stage reads the data, and this check does."""
    is_repeatable = is_dataset(source) or isinstance(source, keras.utils.PyDataset)
    if not is_repeatable and is_source(source):
        raise TypeError(
            f"{name} is read in both stages, and {source!r} may be read only once. "
            "Pass arrays, a tf.data.Dataset or a keras.utils.PyDataset."
        )


def _take_batch(
    name: str, size: int, x: Any, y: Any = None, sample_weight: Any = None
) -> tuple[Any, ...]:
    """Take the first batch of a dataset, or the first `size` samples of arrays."""
    if isinstance(x, keras.utils.PyDataset):
        return unpack_batch(name, x[0])
    if is_dataset(x):
        for batch in x:
            return unpack_batch(name, backend.from_tf_dataset(batch))
        raise ValueError(
            f"{name} is a dataset that turned out to be empty. Pass one with at least "
            "one batch: see what `.filter()` or `.skip()` leaves of it."
        )
    arrays = (x, y, sample_weight)
    return keras.tree.map_structure(lambda a: None if a is None else a[:size], arrays)
