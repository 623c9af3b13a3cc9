"""Times that stand a noisy machine: medians of runs that take turns."""

import functools
import random
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence

# A shorter run is repeated within one measurement, in seconds.
_SHORTEST = 2e-3


def measure_medians(
    steps: dict[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 3,
    progress: Callable[[int], object] = lambda turns: None,
) -> dict[str, float]:
    """The median time of each step in seconds.

    Each must have done its work when it returns. `progress` hears of each turn.
    """
    runs = []
    for name, step in steps.items():
        step()
        took = _time_step(name, step, 1)[name]
        times = max(1, round(_SHORTEST / took))
        runs.append(functools.partial(_time_step, name, step, times))
    return measure_in_turns(runs, repeats, warm_up, progress)


def measure_in_turns(
    runs: Sequence[Callable[[], dict[str, float]]],
    repeats: int,
    warm_up: int,
    progress: Callable[[int], object] = lambda turns: None,
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
        if turn >= warm_up:
            progress(1)
    return {name: statistics.median(values) for name, values in measured.items()}


def _time_step(name: str, step: Callable[[], object], times: int) -> dict[str, float]:
    start = time.perf_counter()
    for _ in range(times):
        step()
    return {name: (time.perf_counter() - start) / times}
