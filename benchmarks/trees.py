"""Two checkouts side by side: has a change made a step, a cache or a start slower?

`python -m benchmarks.trees PATH` runs the benchmarks of the checkout at PATH, the old
one, and of this one in turn, each in processes of their own, and prints new / old for
each quantity. A time is first divided by that of the student's own step or epoch in the
same process, so that a machine that is slower for a while changes both alike.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import publish

NEW = Path(__file__).parents[1]
# Each benchmark with its options, and the time by which its others are divided.
BENCHMARKS = {
    "step": (["--pair", "maxout", "--repeats", "5"], "student"),
    "cache": (["--batches", "24", "--repeats", "3"], "student"),
    "overhead": (["--repeats", "5"], "epoch, 1 a call, student"),
    "memory": (["--processes", "1"], None),
}


def measure(tree: Path, name: str) -> dict[str, float]:
    """Run one benchmark of a checkout and return what it measured, by name."""
    options, control = BENCHMARKS[name]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *options, "--json", str(path)],
            cwd=tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found = json.loads(path.read_text())
    if control is None:
        return dict(find_peaks(found["MB"]))
    seconds = (
        found["pairs"]["maxout"]["seconds"] if "pairs" in found else found["seconds"]
    )
    return {key: value / seconds[control] for key, value in seconds.items()}


def find_peaks(megabytes: dict) -> Iterator[tuple[str, float]]:
    """Yield the peak of the memory of each network and step."""
    for pair, variants in megabytes.items():
        for variant, found in variants.items():
            if isinstance(found, dict):
                yield f"peak MB, {pair}, {variant}", found["peak"]


def main(old: Path, rounds: int, only: list[str], path: Path | None) -> dict:
    """Compare this checkout with an old one, round after round.

    Args:
        old: the other checkout.
        rounds: how often each benchmark is run in each checkout.
        only: the names of the benchmarks.
        path: a file that takes what each run measured; the runs that it holds already
            are not made again, so that an interrupted comparison goes on.
    """
    trees = {"old": old.resolve(), "new": NEW}
    raw: dict[str, Any] = {}
    if path is not None and path.exists():
        raw = json.loads(path.read_text()).get("runs", {})
    for name in only:
        measured = raw.setdefault(name, {"old": [], "new": []})
        # Each goes first in every other round: what comes second finds a warm disk.
        for turn, which in itertools.product(range(rounds), ("old", "new")):
            side = which if turn % 2 == 0 else {"old": "new", "new": "old"}[which]
            if len(measured[side]) > turn:
                continue
            measured[side].append(measure(trees[side], name))
            if path is not None:
                path.write_text(json.dumps({"runs": raw}, indent=1))
            print(f"{name}, round {turn + 1} of {rounds}: {side}", file=sys.stderr)
    ratios = {
        name: {
            key: summarize([[one[key] for one in raw[name][side]] for side in trees])
            for key in raw[name]["old"][0].keys() & raw[name]["new"][0].keys()
        }
        for name in only
    }
    return {"new / old": ratios, "runs": raw}


def summarize(values: list[list[float]]) -> dict[str, float]:
    """Divide the new median by the old; tell how far apart the old rounds were."""
    old, new = values
    ratio = statistics.median(new) / statistics.median(old)
    return {
        "ratio": round(ratio, 3),
        "old, largest / least": round(max(old) / min(old), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=[*BENCHMARKS])
    parser.add_argument(
        "--json", type=Path, help="also write to this file, and go on from it"
    )
    arguments = parser.parse_args()
    result = main(arguments.old, arguments.rounds, arguments.only, arguments.json)
    # The path of a checkout is nobody else's business.
    command = f"python -m benchmarks.trees OLD --rounds {arguments.rounds}"
    publish(command, result, arguments.json)
