"""Which tests reach which line of a module, and how long they take."""

import ast
import hashlib
import json
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from server import ROOT
from server import Job
from server import run_jobs


@dataclass
class Selection:
    """The tests of a module.

    Args:
        files: their files, in the order of the configuration.
        reach: the tests that reach a line, by the line; lines that are run when the
            module is imported are not among them.
        spans: first and last line of each function and class.
        durations: seconds by test.
    """

    files: list[str]
    reach: dict[int, list[str]]
    spans: list[tuple[int, int]]
    durations: dict[str, float]

    def tests_of(self, line: int) -> list[str]:
        """The tests that reach a line, file by file, the quick ones first.

        A signature or a decorator is run when the module is imported: the tests of its
        function or class count. For what stands outside of these it is all tests.
        """
        reached: Iterable[str] = self.reach.get(line, [])
        around = [span for span in self.spans if span[0] <= line <= span[1]]
        if not reached and around:
            first, last = max(around)
            lines = range(first, last + 1)
            reached = {test for at in lines for test in self.reach.get(at, [])}
        elif not reached:
            reached = self.durations

        def place(test: str) -> tuple[int, float]:
            files = enumerate(self.files)
            first = next(i for i, file in files if test.startswith(file))
            return first, self.durations[test]

        return sorted(reached, key=place)


def measure_tests(
    module: str,
    modules: dict[str, dict],
    results: Path,
    run: Callable,
    progress: TextIO,
) -> Selection:
    """Run each test file with coverage, unless its outcome is known.

    Args:
        module: the module whose mutants are to be run.
        modules: the settings of all modules: a file is run once for all of them.
        results: the folder in which the outcomes are kept, until a file, a helper of
            the tests or the module changes.
        run: runs a job in a fork.
        progress: says how many tests there are, and how long they took.

    Raises:
        RuntimeError: if a test fails on the library as it is.
    """
    files = modules[module]["tests"]
    selection = Selection(files, {}, _find_spans(ROOT / module), {})
    version = _digest(ROOT / module)
    helpers = sorted((ROOT / "tests").rglob("*.py"))
    helpers = [path for path in helpers if not path.name.startswith("test_")]
    helpers = [path for path in helpers if path.parent != Path(__file__).parent]
    for file in files:
        digest = _digest(ROOT / file.partition("::")[0], *helpers)
        name = hashlib.sha256(f"{file} {digest}".encode()).hexdigest()[:16]
        path = results / f"tests_{name}.json"
        record = json.loads(path.read_text()) if path.exists() else {"versions": {}}
        if record["versions"].get(module) != version:
            record = _measure(file, modules, run, progress)
            path.write_text(json.dumps(record))
        selection.durations.update(record["durations"])
        for line, tests in record["reach"].get(module, {}).items():
            if tests:
                selection.reach.setdefault(int(line), []).extend(tests)
    return selection


def _measure(
    file: str, modules: Iterable[str], run: Callable, progress: TextIO
) -> dict:
    paths = {module: str(ROOT / module) for module in modules}
    job = Job([file], cover=list(paths.values()), timeout=3600.0, stop=False)
    (outcome,) = run_jobs([job], run)
    if outcome.code != 0:
        raise RuntimeError(
            f"Without a mutant all tests of {file} must pass; {outcome.failed} failed. "
            f"The end of what they printed:\n{outcome.output}"
        )
    count = len(outcome.durations)
    print(f"{file}: {count} tests in {outcome.seconds:.0f} s", file=progress)
    return {
        "versions": {module: _digest(Path(path)) for module, path in paths.items()},
        "durations": outcome.durations,
        "reach": {module: outcome.reach[path] for module, path in paths.items()},
    }


def _find_spans(path: Path) -> list[tuple[int, int]]:
    spans = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            spans.append((first, node.end_lineno))
    return spans


def _digest(*paths: Path) -> str:
    text = "\n".join(path.read_text() for path in paths)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
