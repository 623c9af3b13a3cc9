"""Run tests on mutants in forks of a process that has imported all there is to import.

Nothing may have started TensorFlow's context before a fork, where its threads would be
missing. To import TensorFlow, the library and the tests does not start it.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import pytest
from coverage import Coverage

ROOT = Path(__file__).parents[2]


@dataclass
class Job:
    """Tests to run, on a mutant or on the library as it is.

    Args:
        files: the test files, or tests in them.
        order: which of their tests to run, and in which order; all by default.
        module: path in the repository of the module to replace.
        source: what to replace it by.
        cover: files whose coverage to record, line by line and test by test.
        timeout: seconds after which the tests are ended.
        stop: whether to stop at the first test that fails.
        tag: whatever the caller wants to find again on the job.
    """

    files: list[str]
    order: list[str] | None = None
    module: str = ""
    source: str = ""
    cover: list[str] = field(default_factory=list)
    timeout: float = 600.0
    stop: bool = True
    tag: object = None


@dataclass
class Outcome:
    """What came of a job.

    Args:
        job: the job.
        code: exit code, as pytest's; None for a run that was ended.
        seconds: how long it took.
        failed: the tests, or the files, that failed.
        durations: seconds by test.
        reach: the tests that reach a line, by file and line.
        output: the last of what was printed.
    """

    job: Job
    code: int | None
    seconds: float
    failed: list[str]
    durations: dict[str, float]
    reach: dict[str, dict[str, list[str]]]
    output: str


def preload(names: Iterable[str], bytecode: Path) -> None:
    """Import modules for all forks, and say where these keep what they compile."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # As in tests/conftest.py, which comes too late for them.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    for name in names:
        importlib.import_module(name)
    if "keras_fitnets" in sys.modules:
        raise RuntimeError("keras_fitnets came before the fork: mutants go unseen.")
    # Not beside the modules, and not before: what is installed is compiled already.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(bytecode)
    _freeze()


def run_session(files: list[str], log: Path, work: Callable) -> None:
    """Collect tests in a fork, and do some work there.

    Args:
        files: the test files.
        log: where to write what pytest prints.
        work: is called with a function that runs a job on these tests, in a fork of
            its own, and with a file for what the user should see.

    Raises:
        RuntimeError: if that went wrong; its output is in `log`.
    """
    progress = os.dup(1)
    pid = _fork()
    if not pid:
        code = 3
        try:
            shown = os.fdopen(progress, "w", buffering=1)
            _redirect(log)
            code = _call_pytest(files, lambda s: work(_Items(s), shown) or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            _exit(code)
    os.close(progress)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise RuntimeError(f"The tests did not run:\n{log.read_text()[-4000:]}")


def run_jobs(
    jobs: Iterable[Job], run: Callable[[Job, Path], int], processes: int = 1
) -> Iterator[Outcome]:
    """Run each job in a fork, so many at a time, and give each outcome as it comes."""
    jobs, running = iter(jobs), {}
    try:
        while True:
            while len(running) < processes:
                job = next(jobs, None)
                if job is None:
                    break
                process = _Process(job, run)
                running[process.pid] = process
            if not running:
                return
            for process in list(running.values()):
                outcome = process.poll()
                if outcome is not None:
                    del running[process.pid]
                    yield outcome
            time.sleep(0.02)
    finally:
        for process in running.values():
            process.kill()


def run_together(
    jobs: Iterable[Job], items: "_Items", processes: int = 1, size: int = 25
) -> Iterator[Outcome]:
    """Run mutants, so many one after the other in each fork.

    TensorFlow's start takes longer than most tests; so it is shared.
    """
    waiting, running = deque(jobs), []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                running.append(_Batch(batch, items))
            for batch in list(running):
                yield from batch.poll()
                if batch.is_over:
                    running.remove(batch)
                    waiting.extendleft(reversed(batch.left))
            time.sleep(0.05)
    finally:
        for batch in running:
            batch.process.kill()


def run_afresh(job: Job, directory: Path) -> int:
    """Run a job where nothing of the library is imported: its module is the mutant."""
    if job.order == []:
        return int(pytest.ExitCode.NO_TESTS_COLLECTED)
    if job.module:
        sys.meta_path.insert(0, _MutantFinder(job.module, job.source, directory))
    files = job.files
    if job.order is not None:
        files = [
            file
            for file in job.files
            if any(test.startswith(file) for test in job.order)
        ]
    return _call_pytest(files, lambda session: _run_items(session, job, directory))


def can_swap(module: str, source: str) -> bool:
    """Whether a mutant differs in nothing but what its functions do."""
    name = str(ROOT / module)
    old = compile((ROOT / module).read_text(), name, "exec")
    new = compile(source, name, "exec")
    if _outline(old) != _outline(new):
        return False
    functions, swapped = _functions(old), _functions(new)
    return functions.keys() == swapped.keys() and all(
        code.co_freevars == swapped[key].co_freevars for key, code in functions.items()
    )


class _Items:
    """Runs jobs on tests that are collected, and a library that is imported."""

    def __init__(self, session: pytest.Session):
        self.session = session
        # What is frozen, by `preload` or by a conftest, is on no list otherwise.
        gc.unfreeze()
        self.live = [
            thing
            for thing in gc.get_objects()
            if isinstance(thing, types.FunctionType)
            and thing.__code__.co_filename.startswith(str(ROOT / "keras_fitnets"))
        ]
        _freeze()

    def __call__(self, job: Job, directory: Path) -> int:
        """Run a job on the library as it is."""
        return _run_items(self.session, job, directory)

    def run_mutants(self, jobs: list[Job], directory: Path) -> int:
        """Run one mutant after the other, and write down each outcome at once."""
        with open(directory / "outcomes", "w", buffering=1) as file:
            for number, job in enumerate(jobs):
                start = time.monotonic()
                originals = self._swap(job, directory / f"{number}_mutant.py")
                code = _run_items(self.session, job, directory)
                for function, original in originals:
                    function.__code__ = original
                failed = []
                if code == pytest.ExitCode.TESTS_FAILED:
                    failed = json.loads((directory / "report.json").read_text())[
                        "failed"
                    ]
                # What a mutant has left behind may fail the tests of the next: those
                # that failed must pass again without it. The first had a clean start.
                again = Job(job.files, failed)
                is_clean = not failed or not _run_items(self.session, again, directory)
                if is_clean or not number:
                    seconds = time.monotonic() - start
                    file.write(json.dumps([number, code, seconds, failed]) + "\n")
                if not is_clean:
                    break
        return 0

    def _swap(self, job: Job, mutant: Path) -> list[tuple]:
        """Give each function of the module the code that it has in the mutant."""
        path = ROOT / job.module
        old = _functions(compile(path.read_text(), str(path), "exec"))
        mutant.write_text(job.source)
        # From a file, for AutoGraph reads the source of functions from there.
        new = _functions(compile(job.source, str(mutant), "exec"))
        places = {code: place for place, code in old.items()}
        originals = [
            (function, function.__code__)
            for function in self.live
            if function.__code__.co_filename == str(path)
        ]
        if not originals:
            raise RuntimeError(f"The tests do not import {job.module}.")
        for function, code in originals:
            function.__code__ = new[places[code]]
        return originals


def _functions(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """The functions in some code, by name and, for setters and such, their number."""
    found, counts = {}, Counter()

    def visit(code: types.CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                if constant.co_flags & inspect.CO_OPTIMIZED:
                    name = constant.co_qualname
                    found[name, counts[name]] = constant
                    counts[name] += 1
                visit(constant)

    visit(code)
    return found


def _outline(code: types.CodeType) -> tuple:
    """What code does outside functions: in the module, and in the bodies of classes."""
    constants = []
    for constant in code.co_consts:
        if not isinstance(constant, types.CodeType):
            constants.append((type(constant), repr(constant)))
        elif constant.co_flags & inspect.CO_OPTIMIZED:
            constants.append(constant.co_qualname)
        else:
            constants.append(_outline(constant))
    return code.co_code, code.co_names, tuple(constants)


def _call_pytest(files: list[str], loop: Callable[[pytest.Session], int]) -> int:
    options = ["-q", "-n0", "--capture=no", "-p", "no:cacheprovider", "--tb=short"]
    # What was imported before has no rewritten assertions, and needs none.
    options += ["-W", "ignore:Module already imported"]
    return int(pytest.main([*options, *files], plugins=[_Loop(loop)]))


class _Loop:
    """A plugin that does something else with the tests that pytest has collected."""

    def __init__(self, loop: Callable[[pytest.Session], int]):
        self.loop = loop

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if session.testsfailed:
            raise session.Interrupted("The tests could not be imported.")
        code = self.loop(session)
        if code:
            pytest.exit("ended", returncode=code)
        return True


class _Notes:
    """A plugin that notes what fails and for how long, and tells coverage the test."""

    def __init__(self, coverage: Coverage | None):
        self.coverage = coverage
        self.failed: list[str] = []
        self.durations: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report):
        seconds = self.durations.get(report.nodeid, 0.0) + report.duration
        self.durations[report.nodeid] = round(seconds, 4)
        if report.failed:
            self.failed.append(report.nodeid)


def _run_items(session: pytest.Session, job: Job, directory: Path) -> int:
    items = [item for item in session.items if item.nodeid.startswith(tuple(job.files))]
    if job.order is not None:
        place = {test: index for index, test in enumerate(job.order)}
        items = [item for item in items if item.nodeid in place]
        items.sort(key=lambda item: place[item.nodeid])
    if not items:
        return int(pytest.ExitCode.NO_TESTS_COLLECTED)
    with _record_coverage(job.cover, directory) as coverage:
        notes = _Notes(coverage)
        session.config.pluginmanager.register(notes)
        for item, following in zip(items, [*items[1:], None], strict=True):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if job.stop and notes.failed:
                break
        session.config.pluginmanager.unregister(notes)
    reach = {}
    for path in job.cover:
        lines = coverage.get_data().contexts_by_lineno(path)
        reach[path] = {line: sorted(set(tests) - {""}) for line, tests in lines.items()}
    report = {"failed": notes.failed, "durations": notes.durations, "reach": reach}
    (directory / "report.json").write_text(json.dumps(report))
    return int(bool(notes.failed))


@contextlib.contextmanager
def _record_coverage(paths: list[str], directory: Path) -> Iterator[Coverage | None]:
    if not paths:
        yield None
        return
    coverage = Coverage(directory / "coverage", config_file=False, include=paths)
    coverage.start()
    try:
        yield coverage
    finally:
        coverage.stop()


class _MutantFinder:
    """Finds the mutant in the place of its module."""

    def __init__(self, module: str, source: str, directory: Path):
        self.name = module.removesuffix(".py").replace("/", ".")
        self.name = self.name.removesuffix(".__init__")
        self.path = directory / Path(module).name
        self.path.write_text(source)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        loader = _MutantLoader(fullname, str(self.path))
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=loader
        )


class _MutantLoader(importlib.machinery.SourceFileLoader):
    def set_data(self, path, data, **options):
        """Keep no bytecode: a mutant is imported once."""


class _Process:
    def __init__(self, job: Job, run: Callable[[Job, Path], int]):
        self.job = job
        self.directory = tempfile.TemporaryDirectory(prefix="mutant_")
        self.start = time.monotonic()
        self.pid = _fork()
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpgid(self.pid, self.pid)
            return
        code = 3
        try:
            os.setpgid(0, 0)
            directory = Path(self.directory.name)
            # What the tests write goes when the folder does.
            tempfile.tempdir = str(directory)
            _redirect(directory / "output")
            code = run(job, directory)
        except BaseException:
            traceback.print_exc()
        finally:
            _exit(code)

    def poll(self) -> Outcome | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.start
        if pid:
            code = os.waitstatus_to_exitcode(status)
        elif seconds > self.job.timeout:
            self.kill()
            code = None
        else:
            return None
        directory = Path(self.directory.name)
        output = (directory / "output").read_text(errors="replace")[-4000:]
        report = {"failed": [], "durations": {}, "reach": {}}
        if (directory / "report.json").exists():
            report = json.loads((directory / "report.json").read_text())
        self.directory.cleanup()
        return Outcome(self.job, code, seconds, output=output, **report)

    def kill(self) -> None:
        # With all that the tests have started.
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class _Batch:
    def __init__(self, jobs: list[Job], items: _Items):
        self.left, self.taken, self.is_over = jobs, 0, False
        whole = Job([], timeout=float("inf"))
        self.process = _Process(whole, lambda _, path: items.run_mutants(jobs, path))
        self.outcomes = Path(self.process.directory.name) / "outcomes"
        self.last = time.monotonic()

    def poll(self) -> list[Outcome]:
        pid, status = os.waitpid(self.process.pid, os.WNOHANG)
        text = self.outcomes.read_text() if self.outcomes.exists() else ""
        lines = text.split("\n")[:-1]
        found = []
        for line in lines[self.taken :]:
            _, code, seconds, failed = json.loads(line)
            found.append(self._take(code, seconds, failed))
        self.taken = len(lines)
        seconds = time.monotonic() - self.last
        if pid:
            self.is_over = True
            if status and self.left:
                code = os.waitstatus_to_exitcode(status)
                found.append(self._take(code, seconds, []))
        elif self.left and seconds > self.left[0].timeout:
            self.process.kill()
            self.is_over = True
            found.append(self._take(None, seconds, []))
        if self.is_over:
            self.process.directory.cleanup()
        return found

    def _take(self, code: int | None, seconds: float, failed: list[str]) -> Outcome:
        job, self.left = self.left[0], self.left[1:]
        self.last = time.monotonic()
        return Outcome(job, code, seconds, failed, {}, {}, "")


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid and sys.platform == "linux":
        # End with the parent, however that ends: PR_SET_PDEATHSIG.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    return pid


def _exit(code: int) -> None:
    """End a fork without a word to what the parent will clean up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _freeze() -> None:
    # A collection would write to, and so copy, all that a fork shares with its parent:
    # pytest does two, which took longer than most tests.
    gc.collect()
    gc.freeze()
