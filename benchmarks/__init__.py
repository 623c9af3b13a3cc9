"""Measurements, each a command: `python -m benchmarks.<name>`."""

import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def medians(
    steps: dict[str, Callable[[], object]], repeats: int, warm_up: int = 3
) -> dict[str, float]:
    """The median time of each step in seconds.

    The steps take turns, so that whatever else the machine does slows all alike, and in
    another order each time, so that none has always the same one before it; each must
    have done its work when it returns.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, drawn = list(steps), random.Random(0)
    for turn in range(warm_up + repeats):
        drawn.shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


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
