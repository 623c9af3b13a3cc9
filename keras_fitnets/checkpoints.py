"""A stage of training on disk: its state after every epoch, and its way back."""

import io
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class BestWeights(keras.callbacks.EarlyStopping):
    """`EarlyStopping` that always ends on the best weights and can be resumed."""

    def __init__(self, monitor: str, mode: str, patience: int | None) -> None:
        # Without patience no number of epochs is too many.
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=2**31 if patience is None else patience,
            restore_best_weights=True,
        )
        self._restored: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        for name, value in self._restored.items():
            setattr(self, name, value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # With `validation_freq` not every epoch has a value; NaN is never the best.
        if not math.isnan((logs or {}).get(self.monitor, math.nan)):
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        # λ and τ are among the weights, but belong to the epoch, not to the best one.
        model = self.model
        now = model.lambda_, model.temperature, model.hint_weight
        super().on_train_end(logs)
        model.lambda_, model.temperature, model.hint_weight = now

    def state(self) -> dict[str, Any]:
        """What JSON can hold of the state; the weights are apart."""
        return {
            "best": None if self.best is None else float(self.best),
            "best_epoch": self.best_epoch,
            "wait": self.wait,
        }

    def restore(self, state: dict[str, Any], weights: list[np.ndarray]) -> None:
        """Go on, when training begins, from an earlier `state`."""
        self._restored = {**state, "best_weights": weights or None}


class StageCheckpoint(keras.callbacks.Callback):
    """Saves a stage after every epoch with `tf.train.CheckpointManager`.

    A checkpoint holds the student, the regressors, λ, τ, the optimizer, the logs of
    the epochs so far and the best weights, and nothing of the teacher.

    Args:
        directory: where the checkpoints of this stage lie.
        distiller: the Distiller in this stage, with the stage's optimizer built.
        best: the stage's `BestWeights`, or None.
        settings: what must be the same for a run to go on, by its name.
    """

    def __init__(
        self,
        directory: Path,
        distiller: Any,
        best: BestWeights | None,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self._best = best
        self._settings = json.loads(json.dumps(settings, default=str))
        self._state = _Bytes()
        # `weights` would leave out the states of random seeds.
        variables = [*distiller.variables, *distiller.optimizer.variables]
        checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables], state=self._state
        )
        self._manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=1)
        self.logs: dict[str, list[float]] = {}
        self.epoch = 0
        self.done = False

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one.

        Raises:
            ValueError: if it belongs to another run, naming what differs.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return
        # The settings first: variables of other shapes would not even load.
        tf.train.Checkpoint(state=self._state).restore(latest).expect_partial()
        saved, weights = self._state.unpack()
        for name, value in self._settings.items():
            if saved["settings"].get(name) != value:
                raise ValueError(
                    f"The checkpoint in '{self._manager.directory}' is of another run: "
                    f"its {name} is {saved['settings'].get(name)}, now it is {value}. "
                    "Use another `checkpoint_dir`, or delete this one to start anew."
                )
        self._manager.checkpoint.restore(latest).assert_consumed()
        self.logs, self.epoch = saved["logs"], saved["epoch"]
        self.done = saved["done"]
        if self._best:
            self._best.restore(saved["best"], weights)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in (logs or {}).items():
            self.logs.setdefault(name, []).append(float(value))
        self.epoch = epoch + 1
        self._save()

    def finish(self) -> None:
        """Save the end of the stage."""
        self.done = True
        self._save()

    def _save(self) -> None:
        best = self._best
        self._state.pack(
            {
                "settings": self._settings,
                "logs": self.logs,
                "epoch": self.epoch,
                "done": self.done,
                "best": best.state() if best else {},
            },
            [] if best is None or self.done else best.best_weights or [],
        )
        # The end has a number of its own: no checkpoint is written over.
        self._manager.save(self.epoch + self.done)


class _Bytes(tf.train.experimental.PythonState):
    """JSON and arrays that travel inside a checkpoint."""

    def __init__(self) -> None:
        self._bytes = b""

    def serialize(self) -> bytes:
        return self._bytes

    def deserialize(self, string_value: bytes) -> None:
        self._bytes = string_value

    def pack(self, content: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Keep a JSON-like content and a list of arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, json.dumps(content), *arrays)
        self._bytes = buffer.getvalue()

    def unpack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What was packed."""
        with np.load(io.BytesIO(self._bytes)) as stored:
            content, *arrays = (stored[name] for name in stored.files)
        return json.loads(str(content)), arrays
