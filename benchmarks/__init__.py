"""Measurements, each a command: `python -m benchmarks.<name>`."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

# The examples are programs that import one another from their own folder.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


def run(name: str, main: Callable[..., dict], parser: argparse.ArgumentParser) -> None:
    """Parse the arguments, pass them to `main` by name, and publish its result."""
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    given = "".join(f" --{n.replace('_', '-')} {v}" for n, v in arguments.items())
    publish(f"python -m benchmarks.{name}{given}", main(**arguments), path)


def publish(command: str, result: dict, path: Path | None) -> None:
    """Print a result with its command and versions; write it to `path` if given."""
    # These are imported here because some programs must set environment variables
    # before TensorFlow is imported.
    import keras
    import tensorflow as tf

    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    report = json.dumps({"command": command, **result, **versions}, indent=2)
    print(report)
    if path:
        path.write_text(report + "\n")
