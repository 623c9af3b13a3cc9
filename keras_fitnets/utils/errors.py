"""Errors of other libraries and missing packages, as sentences."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def reraise_as_value_error(what: str) -> Iterator[None]:
    """Errors of other libraries, which may be of any class, as a sentence."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {shorten(error)}") from error


def shorten(error: Exception) -> str:
    """What an error says; of a long text beginning and end."""
    text = " ".join(str(error).split())
    return text if len(text) <= 1000 else f"{text[:500]} […] {text[-500:]}"


def import_optional(module: str, package: str, what: str) -> Any:
    """Import a module of the extra `export`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {package}, which cannot be imported: {error}. Run "
            f"`pip install {package}`, or install keras-fitnets[export]."
        ) from error
