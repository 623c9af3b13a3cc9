"""A stage of training on disk: its state after every epoch, and its way back."""

import contextlib
import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets import backend
from keras_fitnets.distillation.finite_guard import find_not_finite_weights
from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distribution import multi_worker
from keras_fitnets.distribution import replicas
from keras_fitnets.training.checkpoint_file import CheckpointFile
from keras_fitnets.training.checkpoint_file import from_storable
from keras_fitnets.training.checkpoint_file import to_storable
from keras_fitnets.utils.keras_private import get_keras_arguments


class BestWeights(keras.callbacks.EarlyStopping):
    """`EarlyStopping` that always ends on the best weights."""

    def __init__(self, monitor: str, mode: str, patience: int | None) -> None:
        # Without patience no number of epochs is too many.
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=math.inf if patience is None else patience,
            restore_best_weights=True,
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # With `validation_freq` some epochs have no value. NaN compares as false: as
        # the first value it would stay the best one.
        if not math.isnan((logs or {}).get(self.monitor, math.nan)):
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        # λ and τ are kept in weights, which EarlyStopping restores to the best epoch.
        # They belong to the schedule, and keep their values of the last epoch.
        model = self.model
        last = model.lambda_, model.temperature, model.hint_weight
        super().on_train_end(logs)
        model.lambda_, model.temperature, model.hint_weight = last


class StageCheckpoint(keras.callbacks.Callback):
    """Saves a stage after every epoch.

    A checkpoint holds the student, the regressors, λ, τ, the optimizer, the logs of
    the epochs so far and the state of the other callbacks, but nothing of the teacher.
    It comes last among the callbacks, so that it saves what the others have done.

    Args:
        directory: where the checkpoints of this stage lie.
        distiller: the Distiller in this stage, with the stage's optimizer built.
        callbacks: the other callbacks of the stage, in their order.
        settings: what must be the same for a run to go on, by its name.
    """

    def __init__(
        self,
        directory: Path,
        distiller: Any,
        callbacks: Sequence[keras.callbacks.Callback],
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self._distiller = distiller
        self._callbacks = callbacks
        self._fresh: list[dict[str, str]] = []
        self._saved: list[dict[str, Any]] = []
        self._random_state: dict[str, np.ndarray] = {}
        self._settings = json.loads(json.dumps(settings, default=str))
        # `variables` includes the states of random seeds, which `weights` leaves out:
        # without them dropout would draw other masks after a resume.
        self._variables = [*distiller.variables, *distiller.optimizer.variables]
        try:
            self._file = CheckpointFile(directory)
        except OSError as error:
            raise ValueError(
                "`checkpoint_dir` must be a directory that can be written to; "
                f"'{directory.parent}' cannot: {error}. Pass another."
            ) from error
        self.logs: dict[str, list[float]] = {}
        self.epoch = 0
        self.stopped = False
        self.done = False

    def restore(self) -> None:
        """Load the newest checkpoint, if there is one.

        Raises:
            ValueError: if it belongs to another run, naming what differs, if it is
                damaged, or if not all workers see the same one.
        """
        latest, directory = self._file.find(), str(self._file.directory)
        multi_worker.check_agreement(
            backend.get_strategy(self._distiller), latest, directory
        )
        if latest is None:
            return
        try:
            saved, arrays = self._file.read(latest)
        except _DAMAGE_ERRORS as error:
            raise _describe_damage(latest) from error
        # Variables of other shapes would not load, and the message should name the
        # setting that differs.
        _check_same(directory, saved["settings"], self._settings)
        try:
            self._assign_variables(arrays)
        except _DAMAGE_ERRORS as error:
            raise _describe_damage(latest) from error
        self.logs, self.epoch = saved["logs"], saved["epoch"]
        self.stopped, self.done = saved["stopped"], saved["done"]
        self._saved = [
            {name: _unpack_value(text, arrays) for name, text in texts.items()}
            for texts in saved["callbacks"]
        ]
        if self.done:
            self._restore_callbacks()
            # The next stage goes on with the random numbers.
            self._restore_random_state()

    def on_train_begin(self, logs: Any = None) -> None:
        self._fresh = [
            _get_callback_state(callback, {}) for callback in self._callbacks
        ]
        self._restore_callbacks()
        # Not earlier: to build a model Keras may draw a first order of the samples.
        self._restore_random_state()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        self._check_numbers(epoch, logs)
        for name, value in logs.items():
            self.logs.setdefault(name, []).append(float(value))
        self.epoch = epoch + 1
        self.stopped = self.model.stop_training
        self._save()

    def finish(self) -> None:
        """Save that the stage is complete."""
        self.done = True
        self._save()

    def _assign_variables(self, arrays: dict[str, np.ndarray]) -> None:
        """Set the variables to their saved values, all of them or none."""
        values = [
            from_storable(
                arrays[f"variable {i}"], ops.convert_to_numpy(variable).dtype
            ).reshape(variable.shape)
            for i, variable in enumerate(self._variables)
        ]
        kind = "random "
        self._random_state = {
            n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)
        }
        with replicas.enter_scope(self._distiller):
            for variable, value in zip(self._variables, values, strict=True):
                variable.assign(value)

    def _restore_random_state(self) -> None:
        backend.set_random_state(self._random_state)
        self._random_state = {}

    def _restore_callbacks(self) -> None:
        """Set the attributes of the callbacks to their saved values."""
        for callback, known in zip(self._callbacks, self._saved, strict=False):
            for name, value in known.items():
                setattr(callback, name, value)
        self._saved = []

    def _save(self) -> None:
        if not multi_worker.is_chief(backend.get_strategy(self._distiller)):
            return
        arrays: dict[str, np.ndarray] = {}
        known = [_get_callback_state(callback, arrays) for callback in self._callbacks]
        changed = [
            {name: text for name, text in now.items() if fresh.get(name) != text}
            for now, fresh in zip(known, self._fresh, strict=True)
        ]
        text = json.dumps(changed)
        values = [ops.convert_to_numpy(variable) for variable in self._variables]
        # The end of a stage has a number of its own, one beyond the last epoch.
        self._file.write(
            self.epoch + 1 if self.done else self.epoch,
            {
                "settings": self._settings,
                "logs": self.logs,
                "epoch": self.epoch,
                "stopped": self.stopped,
                "done": self.done,
                "callbacks": changed,
            },
            {digest: array for digest, array in arrays.items() if digest in text}
            | to_storable(values, "variable")
            | {f"random {n}": a for n, a in backend.get_random_state().items()},
        )

    def _check_numbers(self, epoch: int, logs: dict[str, Any]) -> None:
        """Raise before NaN or infinity would replace a checkpoint without them."""
        terms = {name: logs[name] for name in logs if name in (*TERMS, "loss")}
        bad = [f"{name} is {v}" for name, v in terms.items() if not math.isfinite(v)]
        bad += [
            f"weight '{w.path}' is not finite"
            for w in find_not_finite_weights(self._distiller)
        ]
        if bad:
            kept = f"that of epoch {self.epoch}" if self.epoch else "none yet"
            raise FloatingPointError(
                f'Stage "{self.model.stage}" was stopped after epoch {epoch + 1}: '
                f"{', '.join(bad)}. The checkpoint in '{self._file.directory}' is "
                f"from before it: {kept}. Pass callbacks=[kf.CheckNumerics()] to learn "
                "in which step it begins, and from what."
            )


_DAMAGE_ERRORS = (zipfile.BadZipFile, OSError, EOFError, ValueError, LookupError)


def _describe_damage(latest: Path) -> ValueError:
    directory = latest.parent
    return ValueError(
        f"The checkpoint '{latest}' cannot be read: one of its files is damaged or "
        f"missing. Bring it back from a copy, or delete '{directory}' to train this "
        "stage anew; the other stages keep theirs."
    )


def _check_same(directory: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    # Names that Keras made up may be those of other layers in another process. Where
    # the checkpoint says which layers they were, that is compared in place of the
    # names; checkpoints of earlier versions have the names alone.
    names = ("hints", "layers of the hints")
    ignored = names[0] if names[1] in saved else names[1]
    others = [
        n for n in {**wanted, **saved} if saved.get(n) != wanted.get(n) and n != ignored
    ]
    if not others:
        return
    name = others[0]
    before, now = saved.get(name), wanted.get(name)
    name = names[0] if name == names[1] else name
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        at = next(i for i in range(len(now)) if before[i] != now[i])
        name, before, now = f"{name} at position {at}", before[at], now[at]
    raise ValueError(
        f"The checkpoint in '{directory}' is of another run: its {name} is {before}, "
        f"now it is {now}. Use another `checkpoint_dir`, or delete this one to start "
        "anew."
    )


def _get_callback_state(callback: Any, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Return a callback's numbers, strings and arrays, each as JSON text.

    Args:
        callback: any callback.
        arrays: gets the arrays, which stand in the text by their digest.
    """

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if type(value) is list:
            return [plain(item) for item in value]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
            form = f"{value.dtype} {value.shape}".encode()
            digest = hashlib.sha256(form + value.tobytes()).hexdigest()
            arrays[digest] = np.asarray(value)
            return {"array": digest}
        raise TypeError

    # Keras' own callbacks rewrite some of their arguments as training goes on. Those
    # come from the constructor, whose present values the user has just passed.
    known = {}
    for name in vars(callback).keys() - get_keras_arguments(callback):
        value = getattr(callback, name)
        with contextlib.suppress(TypeError):
            known[name] = json.dumps(plain(value))
    return known


def _unpack_value(text: str, arrays: dict[str, np.ndarray]) -> Any:
    def whole(value: dict[str, Any]) -> Any:
        return arrays[value["array"]] if value.keys() == {"array"} else value

    return json.loads(text, object_hook=whole)
