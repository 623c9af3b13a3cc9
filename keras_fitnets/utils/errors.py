"""Errors of other libraries, and of packages that are missing, made readable."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def reraise_as_value_error(what: str) -> Iterator[None]:
    """Raise errors of another library, of whatever class, as a `ValueError`.

    Args:
        what: the sentence before the other library's message: what failed, and what
            to do about it.
    """
    try:
        yield
    # A package that is missing has a message of its own, from `import_optional`.
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {shorten(error)}") from error


def shorten(error: Exception) -> str:
    """Return an error's message on one line, and of a long one only its two ends."""
    text = " ".join(str(error).split())
    return text if len(text) <= 1000 else f"{text[:500]} […] {text[-500:]}"


def import_optional(module: str, package: str, what: str) -> Any:
    """Import a module that only the extra `export` installs.

    Args:
        module: the dotted name of the module.
        package: the package that holds it, as pip knows it.
        what: what needs it, as the subject of the error's first sentence.

    Raises:
        ImportError: if it cannot be imported, saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {package}, which cannot be imported: {error}. Run "
            f"`pip install {package}`, or install keras-fitnets[export]."
        ) from error
