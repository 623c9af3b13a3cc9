"""Schedules that change λ or τ from epoch to epoch."""

from collections.abc import Callable
from typing import Any

import keras

from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.checks import is_integer


class Annealing(keras.callbacks.Callback):
    """Sets a number of the Distiller to a function of the epoch, and logs it.

    A subclass names the attribute (`argument`), its log, and its sign.
    """

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
        # Keras' learning rate schedules are callable, as functions are.
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
        # Stage "hint" uses neither λ nor τ, and counts its own epochs from 0, so that
        # following the schedule there would go through it twice.
        if self.model.stage != "hint":
            setattr(self.model, self.argument, self.value(epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Writing into `logs` shows the value to the callbacks that come later.
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


def _linear(
    start: float, end: float | None, epochs: Any, delay: Any
) -> Callable[[int], float]:
    if end is None or not is_integer(epochs) or not is_integer(delay, minimum=0):
        raise ValueError(
            "Annealing needs start, end, at least one whole epoch and no negative "
            f"delay; received start={start!r}, end={end!r}, epochs={epochs!r}, "
            f"delay={delay!r}. For example LambdaAnnealing(4.0, 1.0, epochs=500)."
        )

    def value(epoch: int) -> float:
        # The share of the way from `start` to `end`, held at 0 before and at 1 after.
        # With a single epoch there is no way, and it stays at `start`.
        share = min(max(epoch - delay, 0) / max(epochs - 1, 1), 1)
        return start + (end - start) * share

    return value
