"""A stage of training on disk: its state after every epoch, and its way back."""

import contextlib
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fitnets.distillation.finite_guard import find_not_finite_weights
from keras_fitnets.distillation.objective import TERMS
from keras_fitnets.distribution import multi_worker
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
    """Saves a stage after every epoch with `tf.train.CheckpointManager`.

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
        self._settings = json.loads(json.dumps(settings, default=str))
        self._state = _PackedState()
        # `variables` includes the states of random seeds, which `weights` leaves out:
        # without them dropout would draw other masks after a resume.
        variables = [*distiller.variables, *distiller.optimizer.variables]
        checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables], state=self._state
        )
        try:
            tf.io.gfile.makedirs(str(directory))
            self._manager = tf.train.CheckpointManager(
                checkpoint, directory, max_to_keep=1
            )
        except (OSError, tf.errors.OpError) as error:
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
        latest = self._manager.latest_checkpoint
        multi_worker.check_agreement(
            self._distiller.distribute_strategy, latest, self._manager.directory
        )
        if latest is None:
            return
        try:
            # Read the settings alone first: variables of other shapes would not load,
            # and the message should name the setting that differs.
            tf.train.Checkpoint(state=self._state).restore(latest).expect_partial()
            saved, arrays = self._state.unpack()
        except _DAMAGE_ERRORS as error:
            raise _describe_damage(latest) from error
        _check_same(self._manager.directory, saved["settings"], self._settings)
        try:
            self._manager.checkpoint.restore(latest).assert_consumed()
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

    def on_train_begin(self, logs: Any = None) -> None:
        self._fresh = [
            _get_callback_state(callback, {}) for callback in self._callbacks
        ]
        self._restore_callbacks()

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

    def _restore_callbacks(self) -> None:
        """Set the attributes of the callbacks to their saved values."""
        for callback, known in zip(self._callbacks, self._saved, strict=False):
            for name, value in known.items():
                setattr(callback, name, value)
        self._saved = []

    def _save(self) -> None:
        if not multi_worker.is_chief(self._distiller.distribute_strategy):
            return
        arrays: dict[str, np.ndarray] = {}
        known = [_get_callback_state(callback, arrays) for callback in self._callbacks]
        changed = [
            {name: text for name, text in now.items() if fresh.get(name) != text}
            for now, fresh in zip(known, self._fresh, strict=True)
        ]
        text = json.dumps(changed)
        self._state.pack(
            {
                "settings": self._settings,
                "logs": self.logs,
                "epoch": self.epoch,
                "stopped": self.stopped,
                "done": self.done,
                "callbacks": changed,
            },
            {digest: array for digest, array in arrays.items() if digest in text},
        )
        # The end of a stage has a number of its own, one beyond the last epoch. Saving
        # under the same number would overwrite the checkpoint while writing it.
        self._manager.save(self.epoch + 1 if self.done else self.epoch)

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
                f"{', '.join(bad)}. The checkpoint in '{self._manager.directory}' is "
                f"from before it: {kept}. Pass callbacks=[kf.CheckNumerics()] to learn "
                "in which step it begins, and from what."
            )


class _PackedState(tf.train.experimental.PythonState):
    """JSON and arrays stored inside a TensorFlow checkpoint."""

    def __init__(self) -> None:
        self._bytes = b""

    def serialize(self) -> bytes:
        return self._bytes

    def deserialize(self, string_value: bytes) -> None:
        self._bytes = string_value

    def pack(self, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Store a JSON-like content, and arrays by name."""
        buffer = io.BytesIO()
        arrays = {"content": np.array(json.dumps(content)), **arrays}
        np.savez(buffer, allow_pickle=False, **arrays)
        self._bytes = buffer.getvalue()

    def unpack(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the content and the arrays that were packed."""
        with np.load(io.BytesIO(self._bytes), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(str(arrays.pop("content"))), arrays


_DAMAGE_ERRORS = (
    *(tf.errors.OpError, zipfile.BadZipFile, OSError, EOFError),
    *(ValueError, LookupError, AssertionError),
)


def _describe_damage(latest: str) -> ValueError:
    directory = Path(latest).parent
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
