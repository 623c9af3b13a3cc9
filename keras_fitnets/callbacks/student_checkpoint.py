"""The callback that saves the student alone."""

from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.distribution import multi_worker


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` for the student alone.

    The file holds a plain Keras model without teacher, regressors or losses. Of several
    workers the first one writes it.

    Args:
        filepath: as for `ModelCheckpoint`, ending in `.keras` or `.weights.h5`.
        monitor: the quantity that `save_best_only` compares, a metric of the student
            rather than `val_loss`, which moves with λ and τ.
        mode: `"min"` or `"max"`.
        **kwargs: as for `ModelCheckpoint`.

    Raises:
        TypeError: when it is given to a model that is no `Distiller`.
        ValueError: as `ModelCheckpoint` does.

    Example:

    >>> checkpoint = StudentCheckpoint(
    ...     "best.keras", monitor="val_accuracy", mode="max", save_best_only=True
    ... )
    """

    def __init__(
        self,
        filepath: Any,
        monitor: str = "val_label_loss",
        mode: str = "min",
        **kwargs: Any,
    ) -> None:
        super().__init__(filepath, monitor=monitor, mode=mode, **kwargs)

    def set_model(self, model: Any) -> None:
        if not hasattr(model, "student"):
            raise TypeError(
                "StudentCheckpoint saves the student of a keras_fitnets.Distiller; it "
                f"was given to {model!r}. Use keras.callbacks.ModelCheckpoint there."
            )
        self._distiller = model
        # ModelCheckpoint saves its model, which is to be the student alone.
        super().set_model(model.student)
        # Several workers that write one file at the same time would damage it.
        self._writes = multi_worker.is_chief(backend.get_strategy(model))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._writes:
            backend.sync_variables(self._distiller)
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._writes:
            super().on_epoch_end(epoch, logs)
