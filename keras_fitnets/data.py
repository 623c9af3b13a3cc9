"""What is wrong with the data of `fit` and `evaluate` is found before they begin."""

from typing import Any


def check_data(distiller: Any, x: Any = None, y: Any = None, **options: Any) -> None:
    """Refuse data that no step could use."""
