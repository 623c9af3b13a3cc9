"""`kf.Stage`: the description of one stage of training for `fit_stagewise`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.checks import is_integer
from keras_fitnets.utils.checks import list_callbacks

KINDS = ("hint", "kd", "joint")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training in several stages, for `fit_stagewise(stages=[...])`.

    Use it where the usual two stages of `fit_stagewise` are not what you need: to
    train the hints block by block, or to give each stage an optimizer, callbacks or a
    patience of its own. The stages run in the order of the list, each from where the
    one before it ended, and each with a fresh optimizer.

    Args:
        kind: what the stage trains, as `Distiller.stage`: `"hint"`, `"kd"` or
            `"joint"`.
        epochs: the number of epochs; 0 leaves the stage out.
        hints: for kind `"hint"`, the positions among the Distiller's `hints` of the
            pairs to train, counted from 0; all of them by default.
        optimizer: a Keras optimizer or its name; by default a new one with the
            configuration of the compiled one. The stage trains with a copy.
        callbacks: callbacks for this stage alone.
        patience: stop the stage after this number of epochs without a better value of
            `monitor`. It needs validation data.
        monitor: the validation log by which the stage ends on its best weights. By
            default `"val_hint_loss"` for kind `"hint"`, and the `monitor` of
            `fit_stagewise` for the others.
        mode: `"min"` or `"max"`; needed where the name of `monitor` does not tell
            whether smaller or larger is better.
        learning_rate_factor: for kinds `"kd"` and `"joint"`, the factor on the steps
            of the layers up to the guided ones; the Distiller's own by default.

    Raises:
        ValueError: for an unknown kind, a number out of range, or an argument that
            the kind does not have.
        TypeError: if `epochs` is missing, `optimizer` or a callback is none, or
            `monitor` is no name.

    Example:

    >>> Stage("hint", epochs=20, hints=[0], optimizer="adam").hints
    (0,)
    >>> Stage("kd", epochs=60, patience=5).patience
    5
    """

    kind: str
    epochs: int
    _: dataclasses.KW_ONLY
    hints: Sequence[int] | None = None
    optimizer: Any = None
    callbacks: Any = ()
    patience: int | None = None
    monitor: str | None = None
    mode: str | None = None
    learning_rate_factor: float | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_integer("epochs", self.epochs, 0, "It is the stage's number of epochs.")
        if self.patience is not None:
            check_integer("patience", self.patience, 0, "None never stops the stage.")
        check_choice("mode", self.mode, ("min", "max", None))
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise TypeError(
                '`monitor` must be the name of a log, such as "val_accuracy"; received '
                f"{self.monitor!r}."
            )
        is_optimizer = isinstance(self.optimizer, (str, keras.optimizers.Optimizer))
        if self.optimizer is not None and not is_optimizer:
            raise TypeError(
                "`optimizer` of a Stage must be a Keras optimizer or its name; "
                f"received {self.optimizer!r}. For example keras.optimizers.Adam(0.01)."
            )
        if self.hints is not None:
            self._check_hints()
        if self.learning_rate_factor is not None:
            check_number("learning_rate_factor", self.learning_rate_factor)
            if self.kind == "hint":
                raise ValueError(
                    'A stage of kind "hint" has no `learning_rate_factor`; received '
                    f"{self.learning_rate_factor!r}. It slows the layers that hint "
                    'stages have trained, in stages "kd" and "joint". For "hint" pass '
                    "an `optimizer` with a smaller learning rate."
                )
        self._check_callbacks()

    def _check_hints(self) -> None:
        """Check `hints` and keep it as a tuple."""
        hints = self.hints
        is_sequence = isinstance(hints, (list, tuple, range))
        if not is_sequence or not all(is_integer(i, 0) for i in hints or ()):
            raise ValueError(
                "`hints` of a Stage must be a list of positions among the Distiller's "
                f"pairs of hints, counted from 0; received {hints!r}. For example "
                "hints=[0]."
            )
        if not hints or len(set(hints)) < len(hints):
            raise ValueError(
                "`hints` of a Stage must hold at least one position, and none twice; "
                f"received {hints!r}. Leave it out to train all pairs."
            )
        if self.kind != "hint":
            raise ValueError(
                f'A stage of kind "{self.kind}" has no `hints`; received {hints!r}. '
                '"joint" trains all pairs and "kd" none. Leave it out.'
            )
        # The dataclass is frozen; this is the documented way to normalise a field.
        object.__setattr__(self, "hints", tuple(int(i) for i in hints))

    def _check_callbacks(self) -> None:
        for callback in list_callbacks(self.callbacks):
            if not isinstance(callback, keras.callbacks.Callback):
                raise TypeError(
                    "`callbacks` of a Stage must be Keras callbacks; received "
                    f"{callback!r}."
                )
