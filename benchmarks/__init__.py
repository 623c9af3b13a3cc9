"""Measurements, each a command: `python -m benchmarks.<name>`."""

import argparse
import functools
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

# The examples are programs, and import one another from their own folder.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


def medians(
    steps: dict[str, Callable[[], object]], repeats: int, warm_up: int = 3
) -> dict[str, float]:
    """The median time of each step in seconds.

    Each must have done its work when it returns.
    """

    def timed(name: str, step: Callable[[], object]) -> dict[str, float]:
        start = time.perf_counter()
        step()
        return {name: time.perf_counter() - start}

    runs = [functools.partial(timed, *item) for item in steps.items()]
    return medians_of(runs, repeats, warm_up)


def medians_of(
    runs: Sequence[Callable[[], dict[str, float]]], repeats: int, warm_up: int
) -> dict[str, float]:
    """The medians of what runs measure, by name.

    They take turns, so that whatever else the machine does slows all alike, and in
    another order each time, so that none has always the same one before it.
    """
    measured: dict[str, list[float]] = {}
    order, drawn = list(runs), random.Random(0)
    for turn in range(warm_up + repeats):
        drawn.shuffle(order)
        for run in order:
            found = run()
            for name, value in found.items() if turn >= warm_up else ():
                measured.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in measured.items()}


def run(name: str, main: Callable[..., dict], parser: argparse.ArgumentParser) -> None:
    """Publish what a program gives that takes the parser's arguments by their names."""
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    given = "".join(f" --{n.replace('_', '-')} {v}" for n, v in arguments.items())
    publish(f"python -m benchmarks.{name}{given}", main(**arguments), path)


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
