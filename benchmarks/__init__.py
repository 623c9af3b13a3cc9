"""Measurements, each a command: `python -m benchmarks.<name>`."""

import json
import platform
from pathlib import Path


def publish(command: str, result: dict, path: Path | None) -> None:
    """Print a result with its command and versions; write it to a file if asked."""
    # Not above: a program may have to set up its environment before they are there.
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
