"""What changes from epoch to epoch: λ, τ, and the student on disk."""

from collections.abc import Callable
from typing import Any

import keras

from keras_fitnets.distribution import multi_worker
from keras_fitnets.losses import check_number
from keras_fitnets.distillation.finite_guard import not_finite


class Annealing(keras.callbacks.Callback):
    """A number of the model that follows a function of the epoch."""

    argument: str
    log: str
    sign: str

    def __init__(
        self,
        start: Any,
        end: float | None = None,
        epochs: int | None = None,
        delay: int = 0,
    ) -> None:
        super().__init__()
        if callable(start):
            self._schedule = start
        else:
            start = check_number("start", start, self.sign)
            end = end if end is None else check_number("end", end, self.sign)
            self._schedule = _linear(start, end, epochs, delay)
        if callable(start) and (end, epochs, delay) != (None, None, 0):
            raise ValueError(
                f"{type(self).__name__} takes either a schedule alone, or start, end "
                f"and epochs; received {start!r} with end={end}, epochs={epochs}, "
                f"delay={delay}."
            )

    def value(self, epoch: int) -> float:
        """The value in an epoch, counted from 0."""
        return float(self._schedule(epoch))

    def values(self, epochs: int) -> list[float]:
        """The values in so many epochs."""
        return [self.value(epoch) for epoch in range(epochs)]

    def set_model(self, model: Any) -> None:
        if not hasattr(model, self.argument):
            raise TypeError(
                f"{type(self).__name__} sets `{self.argument}` of a "
                f"keras_fitnets.Distiller; it was given to {model!r}."
            )
        super().set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Stage "hint" uses neither λ nor τ, and has epochs of its own.
        if self.model.stage != "hint":
            setattr(self.model, self.argument, self.value(epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.model.stage != "hint" and logs is not None:
            logs[self.log] = getattr(self.model, self.argument)


class LambdaAnnealing(Annealing):
    """Anneals λ, the weight of the soft targets, over the epochs.

    `λ(epoch) = start + (end - start) · (epoch - delay) / (epochs - 1)`, held at
    `start` before and at `end` after: the curriculum of Romero et al., "FitNets"
    (arXiv 1412.6550), section 2.4, which goes from 4 to 1. It follows from the number
    of the epoch alone, so that a resumed run goes on where it was. The value stands
    in the logs as `lambda`; callbacks that read it come after this one.

    Args:
        start: λ in the first epoch; or, alone, a
            `keras.optimizers.schedules.LearningRateSchedule` or a function from the
            number of the epoch, counted from 0, to λ.
        end: λ in the last of `epochs` epochs.
        epochs: how many epochs the way from `start` to `end` takes.
        delay: how many epochs stay at `start` before.

    Raises:
        ValueError: if a number is missing or out of range.
        TypeError: when it is given to a model that is no `Distiller`.

    Example:

    >>> annealing = LambdaAnnealing(4.0, 1.0, epochs=4)
    >>> [annealing.value(epoch) for epoch in range(5)]
    [4.0, 3.0, 2.0, 1.0, 1.0]
    """

    argument = "lambda_"
    log = "lambda"
    sign = "non-negative"


class TemperatureAnnealing(Annealing):
    """Anneals τ, the relaxation of the soft targets, over the epochs.

    As `LambdaAnnealing` does λ. The value stands in the logs as `temperature`.

    Args:
        start: τ in the first epoch; or, alone, a schedule or a function of the epoch.
        end: τ in the last of `epochs` epochs.
        epochs: how many epochs the way from `start` to `end` takes.
        delay: how many epochs stay at `start` before.

    Raises:
        ValueError: if a number is missing or out of range.
        TypeError: when it is given to a model that is no `Distiller`.

    Example:

    >>> annealing = TemperatureAnnealing(lambda epoch: 10 / (epoch + 1))
    >>> [annealing.value(epoch) for epoch in range(2)]
    [10.0, 5.0]
    """

    argument = "temperature"
    log = "temperature"
    sign = "positive"


class CheckNumerics(keras.callbacks.Callback):
    """Stops training at the first NaN or infinity, and says where it came from.

    While it is there each step looks at the data, the outputs of teacher and student,
    the hints, every term of the loss and the gradients. A step with a number that is
    not finite changes no weight: the student, the optimizer and any checkpoint are as
    they were before it. It costs a copy of the weights and a pass over those tensors;
    without it nothing is done.

    Raises:
        TypeError: when it is given to a model that is no `Distiller`.
        FloatingPointError: while training, naming the step, where such numbers
            were, in the order in which they are computed, and weights that hold them.

    Example:

    >>> callbacks = [CheckNumerics()]  # for `fit` or `fit_stagewise`
    """

    def set_model(self, model: Any) -> None:
        if not hasattr(model, "check_numerics"):
            raise TypeError(
                "CheckNumerics watches a keras_fitnets.Distiller; it was given to "
                f"{model!r}. Use keras.callbacks.TerminateOnNaN there."
            )
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.check_numerics = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        found = self.model.first_not_finite
        if found is None:
            return
        step, places = found
        self.model.check_numerics = False
        networks = [self.model, *self.model.teacher.models]
        weights = [
            weight.path for network in networks for weight in not_finite(network)
        ]
        raise FloatingPointError(
            f'Step {step} of stage "{self.model.stage}" (epoch {self._epoch + 1}) met '
            f"NaN or infinity: first in the {places[0]}"
            + (f", then in {', '.join(places[1:])}" if places[1:] else "")
            + (f". Weights that hold it: {', '.join(weights)}" if weights else "")
            + ". The step was undone: no weight and no checkpoint has changed by it. "
            "Mend what is named, or lower the learning rate if it is the gradients."
        )

    def on_train_end(self, logs: Any = None) -> None:
        self.model.check_numerics = False


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
        super().set_model(model.student)
        self._writes = multi_worker.is_chief(model.distribute_strategy)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._writes:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._writes:
            super().on_epoch_end(epoch, logs)


def _linear(
    start: float, end: float | None, epochs: Any, delay: Any
) -> Callable[[int], float]:
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (epochs, delay))
    if end is None or not whole or epochs < 1 or delay < 0:
        raise ValueError(
            "Annealing needs start, end, at least one whole epoch and no negative "
            f"delay; received start={start!r}, end={end!r}, epochs={epochs!r}, "
            f"delay={delay!r}. For example LambdaAnnealing(4.0, 1.0, epochs=500)."
        )

    def value(epoch: int) -> float:
        way = min(max(epoch - delay, 0) / max(epochs - 1, 1), 1)
        return start + (end - start) * way

    return value


def listed(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Callbacks in whatever way `fit` takes them, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
