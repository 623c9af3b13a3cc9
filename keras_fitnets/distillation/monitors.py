"""Whether less or more of a log is better, for callbacks that compare epochs."""

from collections.abc import Sequence
from typing import Any

# Logs of `StudentMonitor`; several outputs or hints have an ending each.
_MORE_IS_BETTER = ("agreement", "hint_r2", "output_r2")


def set_directions(callbacks: Sequence[Any]) -> None:
    """Tell Keras' callbacks whether less or more of our logs is better.

    `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint` with `mode="auto"` ask
    the metrics that were given to `compile`, and know `loss` besides. The terms of the
    loss, the loss of an output, and what `StudentMonitor` logs are none of these.

    Args:
        callbacks: those of `fit`. The `mode` of those that monitor such a log is set.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or getattr(callback, "mode", None) != "auto":
            continue
        name = monitor.removeprefix("val_")
        if name.endswith("_loss"):
            callback.mode = "min"
        elif name.startswith(_MORE_IS_BETTER):
            callback.mode = "max"
