"""What `fit_stagewise` finds out before stage 1 rather than after all its epochs."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.distillation.cached_dataset import DATASETS
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.validate_data import check_source
from keras_fitnets.distillation.validate_data import is_source
from keras_fitnets.distillation.validate_data import unpack_batch
from keras_fitnets.utils.checks import check_integer


def find_mode(monitor: str, mode: str | None) -> str:
    """Whether a small or a large value of `monitor` is the better one."""
    if isinstance(mode, str) and mode in ("min", "max"):
        return mode
    if mode is not None:
        raise ValueError(f'`mode` must be "min", "max" or None; received {mode!r}.')
    words = {"loss": "min", "error": "min", "acc": "max", "auc": "max", "f1": "max"}
    modes = {mode for word, mode in words.items() if word in monitor.lower()}
    if len(modes) != 1:
        raise ValueError(
            f"It cannot be seen whether monitor={monitor!r} should be large or small. "
            'Pass mode="max" or mode="min" with it.'
        )
    return modes.pop()


def validate_arguments(
    distiller: Any,
    hint_epochs: int,
    kd_epochs: int,
    stage: str,
    patiences: dict[str, int | None],
    kwargs: dict[str, Any],
) -> None:
    """Refuse arguments of `fit_stagewise` that cannot be meant."""
    if not isinstance(distiller, Distiller):
        raise TypeError(
            f"`fit_stagewise` trains a keras_fitnets.Distiller; received {distiller!r}."
        )
    if not distiller.hints:
        raise ValueError(
            "`fit_stagewise` starts with a hint stage, and this Distiller has no "
            'hints. Pass it hints=("hint_layer", "guided_layer"), or call its `fit`.'
        )
    if not distiller.compiled:
        raise ValueError(
            "The Distiller is not compiled. Call "
            "`distiller.compile(optimizer, loss=...)` before `fit_stagewise`."
        )
    if not isinstance(stage, str) or stage not in ("kd", "joint"):
        raise ValueError(
            f'Stage 2 must be "kd" or "joint"; received stage={stage!r}. Stage 1 is '
            'always "hint".'
        )
    for name, epochs in {"hint_epochs": hint_epochs, "kd_epochs": kd_epochs}.items():
        check_integer(name, epochs, minimum=0, advice="It is a number of epochs.")
    for name, patience in patiences.items():
        if patience is not None:
            check_integer(name, patience, minimum=0, advice="Or None: never stop.")
    given = {"epochs", "initial_epoch"} & kwargs.keys()
    if given:
        raise TypeError(
            f"`fit_stagewise` counts the epochs itself; received {sorted(given)}. Pass "
            "`hint_epochs` and `kd_epochs`."
        )


def dry_run(
    distiller: Distiller,
    stage: str,
    data: Sequence[Any],
    validation_data: Any,
    monitor: str | None,
) -> None:
    """Look at the data of stage 2, and evaluate a little of it, before stage 1.

    Raises:
        ValueError, TypeError: as stage 2 would, and if nothing logged is `monitor`.
    """
    sources = {"`x`": data}
    if validation_data is not None:
        name = "`validation_data`"
        sources[name] = unpack_batch(name, validation_data)
    eagerly = distiller.run_eagerly
    # One step is not worth a trace, unless TensorFlow has to share it out.
    alone = distiller.distribute_strategy.num_replicas_in_sync == 1
    distiller.run_eagerly, distiller.stage = alone or eagerly, stage
    try:
        for name, source in sources.items():
            _check_readable(name, source[0])
            check_source(distiller, name, *source)
            batch = _take_batch(name, *source)
            check_source(distiller, f"a batch of {name}", *batch)
            logs = distiller.test_on_batch(*batch, return_dict=True)
    finally:
        distiller.reset_metrics()
        distiller.run_eagerly = eagerly
        distiller.stage = stage
    logged = sorted(f"val_{name}" for name in logs)
    if monitor is not None and monitor not in logged:
        raise ValueError(
            f"Stage 2 does not log what monitor={monitor!r} asks for; it logs "
            f"{logged}. Pass one of these."
        )


def _check_readable(name: str, source: Any) -> None:
    """Refuse what cannot be read in both stages, and once more before them."""
    batches = isinstance(source, (*DATASETS, keras.utils.PyDataset))
    if not batches and is_source(source):
        raise TypeError(
            f"{name} is read in both stages, and {source!r} may be read only once. "
            "Pass arrays, a tf.data.Dataset or a keras.utils.PyDataset."
        )


def _take_batch(
    name: str, x: Any, y: Any = None, sample_weight: Any = None
) -> tuple[Any, ...]:
    """A batch as `test_on_batch` takes it; of arrays, their first sample."""
    if isinstance(x, keras.utils.PyDataset):
        return unpack_batch(name, x[0])
    if isinstance(x, DATASETS):
        for batch in x:
            return unpack_batch(name, batch)
        raise ValueError(
            f"{name} is a dataset that turned out to be empty. Pass one with at least "
            "one batch: see what `.filter()` or `.skip()` leaves of it."
        )
    arrays = (x, y, sample_weight)
    return keras.tree.map_structure(lambda a: None if a is None else a[:1], arrays)
