"""Keeps TensorFlow's start-up log out of what the command `keras-fitnets` prints.

While it is imported, TensorFlow writes to the standard error that it found no GPU and
which instructions its CPU has. Whoever types a command would read that before each
answer. The package imports this module before all others, since afterwards it would be
too late. In any other program it does nothing, unless TF_CPP_MIN_LOG_LEVEL is 3, which
asks TensorFlow for silence.
"""

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_NOTHING = "3"


def is_command(arguments: Sequence[str], command_line: Sequence[str]) -> bool:
    """Whether this process is the command, not a program that imports the package.

    Args:
        arguments: `sys.argv`.
        command_line: `sys.orig_argv`, which also has the options of Python itself.

    Example:

    >>> is_command(["/usr/bin/keras-fitnets", "report"], [])
    True
    """
    program = arguments[0] if arguments else ""
    # Python names the module here only after it has imported the package around it.
    if program == "-m":
        return ("-m", "keras_fitnets") in itertools.pairwise(command_line)
    return Path(program).stem == "keras-fitnets"


@contextlib.contextmanager
def hold_back_standard_error() -> Iterator[None]:
    """Write what the block writes to the standard error only if the block fails.

    TensorFlow's libraries in C++ do not know `sys.stderr`, so that the file descriptor
    itself has to lead elsewhere.
    """
    descriptor = 2
    with tempfile.TemporaryFile() as log:
        kept = os.dup(descriptor)
        os.dup2(log.fileno(), descriptor)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)


# The level hides what TensorFlow writes at its first operation, such as an error where
# there is no GPU. Its errors also arrive as exceptions of Python. A person who has set
# the level gets the log as TensorFlow writes it.
if is_command(sys.argv, sys.orig_argv):
    os.environ.setdefault(_LEVEL, _NOTHING)
# Some lines are written before TensorFlow reads the level, see
# https://github.com/tensorflow/tensorflow/issues/100442. A parent process may have
# closed the standard error, and then there is nothing to hold back.
if os.environ.get(_LEVEL) == _NOTHING and sys.stderr is not None:
    with hold_back_standard_error():
        import tensorflow  # noqa: F401
