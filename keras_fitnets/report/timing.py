"""Measure times on a machine that does other things as well: medians of turns."""

import functools
import random
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence

# Below this, in seconds, the resolution and cost of the clock would be part of the
# result. A shorter step is repeated within one measurement.
_SHORTEST_MEASUREMENT = 2e-3


def _ignore(turns: int) -> None:
    pass


def measure_medians(
    steps: dict[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 3,
    progress: Callable[[int], object] = _ignore,
) -> dict[str, float]:
    """Return the median time of each step in seconds.

    Args:
        steps: functions by name, whose work must be done when they return.
        repeats: the number of measurements of each.
        warm_up: the number of measurements before them, which do not count.
        progress: called with 1 after each turn.
    """
    runs = []
    for name, step in steps.items():
        # The first call may trace or compile; the second one shows the usual time.
        step()
        seconds = _time_step(name, step, 1)[name]
        calls = max(1, round(_SHORTEST_MEASUREMENT / seconds))
        runs.append(functools.partial(_time_step, name, step, calls))
    return measure_in_turns(runs, repeats, warm_up, progress)


def measure_in_turns(
    runs: Sequence[Callable[[], dict[str, float]]],
    repeats: int,
    warm_up: int,
    progress: Callable[[int], object] = _ignore,
) -> dict[str, float]:
    """Return the medians of what some runs measure, by name.

    The runs take turns, so that other work on the machine slows all of them alike. Each
    turn has another order, so that no run always follows the same other one.

    Args:
        runs: functions that return measurements by name.
        repeats: the number of turns.
        warm_up: the number of turns before them, which do not count.
        progress: called with 1 after each turn that counts.
    """
    measurements: dict[str, list[float]] = {}
    order, rng = list(runs), random.Random(0)
    for turn in range(warm_up + repeats):
        rng.shuffle(order)
        for run in order:
            result = run()
            if turn >= warm_up:
                for name, value in result.items():
                    measurements.setdefault(name, []).append(value)
        if turn >= warm_up:
            progress(1)
    return {name: statistics.median(values) for name, values in measurements.items()}


def _time_step(name: str, step: Callable[[], object], calls: int) -> dict[str, float]:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return {name: (time.perf_counter() - start) / calls}
