"""Do the tests catch faults? Mutation testing; README.md beside this file says how.

python tests/mutation run      # go on where the last run ended
python tests/mutation report   # what has come of it so far
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import tomllib
from mutants import Mutant
from mutants import make_mutants
from selection import Selection
from selection import measure_tests
from server import ROOT
from server import Job
from server import Outcome
from server import can_swap
from server import preload
from server import run_afresh
from server import run_jobs
from server import run_session
from server import run_together

HERE = Path(__file__).parent
CAUGHT = ("killed", "timed out")
HEADER = """# What the tests do not catch

Written by `python tests/mutation report --write tests/mutation/survivors.md` after
`python tests/mutation run`, which `README.md` explains, on Python {python} with
{versions}.
What is said of each survivor comes from `survivors.toml`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/mutation", description=__doc__)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("modules", nargs="*", help="parts of paths; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=int, help="mutants to run of a module; all")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument(
        "--survivors", action="store_true", help="try again those that survived"
    )
    parser.add_argument("--write", type=Path, help="also write the report here")
    arguments = parser.parse_args()
    config = tomllib.loads((HERE / "modules.toml").read_text())
    modules = {
        path: settings
        for path, settings in config["modules"].items()
        if not arguments.modules or any(part in path for part in arguments.modules)
    }
    if not modules:
        sys.exit(f"No module of modules.toml matches {arguments.modules}.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    if arguments.command == "run":
        preload(config["preload"], arguments.results / "bytecode")
        for module in modules:
            run_module(module, config["modules"], arguments)
    text = report(modules, arguments.results)
    print(text)
    if arguments.write is not None:
        versions = ", ".join(
            f"{name} {version(name)}" for name in ("cosmic-ray", "keras", "tensorflow")
        )
        python = sys.version.split()[0]
        arguments.write.write_text(
            f"{HEADER.format(versions=versions, python=python)}\n{text}"
        )


def run_module(module: str, config: dict, arguments: argparse.Namespace) -> None:
    """Run what is left of the mutants of a module, and note each outcome at once."""
    results = arguments.results
    mutants = load_mutants(module, results)
    known = load_results(results)
    todo = [
        mutant
        for mutant in mutants
        if mutant.key not in known
        or (arguments.survivors and known[mutant.key]["status"] not in CAUGHT)
    ]
    if not todo:
        return
    # In no order, so that the outcomes of a run that was stopped are a fair sample.
    todo = sorted(todo, key=lambda mutant: mutant.key)[: arguments.limit]
    print(f"{module}: {len(todo)} of {len(mutants)} mutants to run", flush=True)
    quick = [mutant for mutant in todo if can_swap(module, mutant.source)]
    slow = [mutant for mutant in todo if mutant not in quick]
    files = config[module]["tests"]

    def run(
        mutants: list[Mutant], start: Callable, items: Callable, shown: TextIO
    ) -> None:
        selection = measure_tests(module, config, results, items, shown)
        jobs = [make_job(mutant, selection) for mutant in mutants]
        outcomes = start(jobs, items, arguments.jobs)
        note_outcomes(outcomes, len(jobs), results / "results.jsonl", shown)

    # What a mutant changes in functions alone, most do, is put into their place where
    # the library and the tests are imported; the others are imported one by one.
    run_session(
        files, results / "session.log", functools.partial(run, quick, run_together)
    )
    run(slow, run_jobs, run_afresh, sys.stdout)


def note_outcomes(
    outcomes: Iterable[Outcome], total: int, path: Path, progress: TextIO
) -> None:
    """Write each outcome to the file of results, and say how far we are."""
    counts, start = Counter(), time.monotonic()
    with open(path, "a") as file:
        for outcome in outcomes:
            result = judge(outcome)
            counts[result["status"]] += 1
            file.write(json.dumps(result) + "\n")
            file.flush()
            done, seconds = counts.total(), time.monotonic() - start
            print(
                f"{result['module']} {done}/{total} {dict(counts)} "
                f"{seconds / done:.1f} s each; line {result['line']} "
                f"{result['operator']}: {result['status']} {result['by']}",
                file=progress,
                flush=True,
            )


def load_mutants(module: str, results: Path) -> list[Mutant]:
    """The mutants of a module as it is now; making them takes as long as ten tests."""
    source = (ROOT / module).read_text()
    recipe = source + (HERE / "mutants.py").read_text()
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    path = results / f"mutants_{digest}.json"
    if not path.exists():
        made = [vars(mutant) for mutant in make_mutants(module, source)]
        path.write_text(json.dumps(made))
    return [Mutant(**fields) for fields in json.loads(path.read_text())]


def load_results(results: Path) -> dict[str, dict]:
    """The last outcome of each mutant that was run, by its key."""
    path = results / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {result["key"]: result for result in map(json.loads, lines)}


def make_job(mutant: Mutant, selection: Selection) -> Job:
    """The job of a mutant: the tests that reach its line, the quick ones first."""
    order = selection.tests_of(mutant.line)
    usual = sum(selection.durations.get(test, 0.0) for test in order)
    return Job(
        selection.files,
        order,
        mutant.module,
        mutant.source,
        timeout=30.0 + 5.0 * usual,
        tag=mutant,
    )


def judge(outcome: Outcome) -> dict:
    """A line of the results."""
    # 1: a test failed; 2: nothing could be imported; 5: no test reaches the line. Below
    # 0 it is a signal, as where TensorFlow aborts.
    code = outcome.code
    status = {None: "timed out", 0: "survived", 1: "killed", 2: "killed", 5: "survived"}
    result = outcome.job.tag.describe()
    result["status"] = status.get(code, "killed" if code and code < 0 else "error")
    result["by"] = outcome.failed[0] if outcome.failed else ""
    result["tests"] = len(outcome.job.order)
    result["seconds"] = round(outcome.seconds, 2)
    if result["status"] == "error":
        result["output"] = outcome.output
    return result


def report(modules: Iterable[str], results: Path) -> str:
    """The numbers by module, the survivors with what is said of them, as Markdown."""
    known, reasons = load_results(results), load_reasons()
    rows, lists, totals = [], [], Counter()
    for module in modules:
        counts, entries = Counter(), []
        for mutant in load_mutants(module, results):
            result = known.get(mutant.key)
            status = "not run" if result is None else result["status"]
            if status not in (*CAUGHT, "not run"):
                reason = reasons.get((module, mutant.before, mutant.after))
                why = reason["why"] if reason else "**nothing said yet**"
                counts["equivalent"] += bool(reason and reason["equivalent"])
                entries.append(_describe_survivor(mutant, status, why))
            counts[status] += 1
        totals += counts
        rows.append(_describe_counts(f"`{module}`", counts))
        lists += ["", f"## `{module}`", "", *(entries or ["None."])]
    rows.append(_describe_counts("all", totals))
    header = [
        "| module | mutants | caught | timed out | survived | equivalent | caught of "
        "those that change behaviour |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*header, *rows, *lists, ""])


def _describe_counts(name: str, counts: Counter) -> str:
    mutants = counts.total() - counts["equivalent"]
    caught = sum(counts[status] for status in CAUGHT)
    survived = mutants - caught - counts["not run"]
    real = caught + survived - counts["equivalent"]
    share = f"{100 * caught / real:.1f} %" if real else "-"
    if counts["not run"]:
        share += f" ({counts['not run']} not run)"
    numbers = (mutants, caught, counts["timed out"], survived, counts["equivalent"])
    return " | ".join([f"| {name}", *map(str, numbers), f"{share} |"])


def _describe_survivor(mutant: Mutant, status: str, why: str) -> str:
    # As code, line by line: the indented block of a list in Markdown.
    before = [f"      - {line}" for line in mutant.before.splitlines()]
    after = [f"      + {line}" for line in mutant.after.splitlines()]
    noted = "" if status == "survived" else f" ({status})"
    head = f"- line {mutant.line}, {mutant.operator}{noted}: {why}"
    return "\n".join([head, "", *before, *after, ""])


def load_reasons() -> dict[tuple[str, str, str], dict]:
    """What is said of the survivors, by module and by the lines before and after."""
    path = HERE / "survivors.toml"
    entries = tomllib.loads(path.read_text())["survivor"] if path.exists() else []
    return {
        (entry["module"], entry["before"], entry["after"]): entry for entry in entries
    }


if __name__ == "__main__":
    main()
