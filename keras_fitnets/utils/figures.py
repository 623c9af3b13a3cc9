"""Pictures: a figure of Matplotlib that a notebook shows and no window opens for."""

import io
from typing import Any


def blank(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`, its size in inches.

    `pyplot` is not asked for it: this process may have its own figures, or no screen.

    Raises:
        ImportError: without Matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture is drawn with Matplotlib, which is not installed. Run "
            "`pip install matplotlib`, or install keras-fitnets[tuner]."
        ) from error

    class Picture(Figure):
        """What a notebook shows by itself, whether or not `pyplot` was imported."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Picture(figsize=(width, height), layout="constrained")
