"""Runs tests in forks of a process that has imported torch already, and knows which tests run
which line.

A mutant is met first by the tests that run its statement, the quickest files first, then by the
other tests of those files. What no test runs in this process (a program that a test starts) is not
known here, so such a test may be missed: the count of noticed mutants errs on the low side.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import coverage
import pytest
from hypothesis import Phase, settings

MOST_S = 600.0
"""Of one test file, when it is asked what it reaches."""

MOST_OF_FILE_S, MOST_OF_ALL_S = 30.0, 60.0
"""So long the tests that run a mutant's statement may take, of one file and together: slower ones
are left out, and what only they would notice counts as not noticed.
"""

MOST_OF_REST_S, MOST_OF_ALL_REST_S = 1.0, 3.0
"""The same for the other tests of these files."""

PATIENCE = 4.0
"""So many times as long tests have where they did not end: a busy machine is no endless mutant."""

FILES_AT_ONCE = (1, 3)
"""Test files that a mutant meets first, and then: most mutants need no more, and reading the other
files takes longer than running their tests.
"""

MOST_BYTES = 12 << 30
"""Of address space, so that a mutant cannot take the memory of others."""

ANY = "any"

RESULT = "mutation-result"
"""The file in which a run says what its parent wants to know."""

# A failure is enough: Hypothesis need not look for the smallest example of it.
settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])

QUIET = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "--hypothesis-profile=mutants"]


@dataclass
class Reached:
    """What one test file runs: seconds of its tests that passed, and by path and line the tests.

    Lines that a fixture runs stand under "", which means any test of the file. A source that has
    changed since has one line, ANY, for all tests that ran some line of it.
    """

    digests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """How many lines of each path were run when the file was asked."""

    def is_of(self, file: str) -> bool:
        """Whether the test file is still the one that was asked."""
        return self.digests.get(file) == digest(file)

    def forget_changed(self) -> None:
        """Lines of sources that have changed are not known any more, only that tests run them."""
        for path, lines in self.lines.items():
            self.sizes.setdefault(path, len(lines))
            if self.digests[path] != digest(path):
                tests = {test for ran in lines.values() for test in ran}
                self.lines[path] = {ANY: sorted(tests)}


class Recorder:
    """A pytest plugin: records the lines that each test runs, and how long it takes."""

    def __init__(self, sources: Sequence[str], result: Path) -> None:
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{source}/*" for source in sources]
        )
        self._result = result
        self._reached = Reached()

    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Any:
        self._coverage.switch_context("fixture")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        self._coverage.switch_context(f"test {item.nodeid}")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Any:
        self._coverage.switch_context("fixture")
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self._reached.seconds
        if report.when == "call" and report.passed:
            seconds[report.nodeid] = report.duration
        elif report.failed:
            seconds.pop(report.nodeid, None)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        here = Path.cwd()
        for measured in data.measured_files():
            lines = {
                str(line): sorted(
                    context.removeprefix("test ").removeprefix("fixture")
                    for context in contexts
                    if context
                )
                for line, contexts in data.contexts_by_lineno(measured).items()
            }
            name = str(Path(measured).relative_to(here))
            self._reached.lines[name] = {line: names for line, names in lines.items() if names}
        self._result.write_text(json.dumps(asdict(self._reached)))


class Chosen:
    """A pytest plugin: runs these tests only, in this order, and says which one failed first."""

    def __init__(self, tests: Sequence[str], result: Path) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self._result = result

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._result.exists():
            self._result.write_text(report.nodeid)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: whether all tests passed, which failed, whether it ran out of time."""

    passed: bool
    failed: str = ""
    endless: bool = False
    output: str = ""


def in_fork(files: Sequence[str], plugin: Callable[[Path], object], most_s: float) -> Outcome:
    """Run the test files in a fork of this process, whose modules it has; xsp is imported anew."""
    result, log = Path(RESULT), Path("mutation-log")
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(target, stream)
            status = int(pytest.main([*QUIET, "-x", *files], plugins=[plugin(result)]))
        finally:
            os._exit(status)
    ended = _waited(child, most_s)
    _killed(child)
    failed = result.read_text() if result.exists() else ""
    passed = ended in (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))
    return Outcome(passed, failed, ended is None, log.read_text(errors="replace"))


def _waited(child: int, most_s: float) -> int | None:
    """The exit status of a process; None, and its end, where it takes longer."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _killed(child)
    os.waitpid(child, 0)
    return None


def _killed(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Tests:
    """The test files that concern a folder, and what they reach."""

    def __init__(self, files: Sequence[str], sources: Sequence[str], kept: Path) -> None:
        self._sources = sources
        self._failing: set[str] = set()
        self._passing: set[str] = set()
        self._reached = {file: self._of(file, kept) for file in files}

    def _of(self, file: str, kept: Path) -> Reached:
        """What a test file reaches, from `kept` where it has not changed since."""
        path = kept / f"{Path(file).stem}.json"
        if path.exists():
            before = Reached(**json.loads(path.read_text()))
            if before.is_of(file):
                before.forget_changed()
                return before
        print(f"asking what {file} reaches", file=sys.stderr, flush=True)
        made = path.with_suffix(".new").absolute()
        outcome = in_fork([file], lambda _: Recorder(self._sources, made), MOST_S)
        if not made.exists():
            sys.exit(f"{file} fails without any mutant, or takes too long:\n{outcome.output}")
        reached = Reached(**json.loads(made.read_text()))
        made.unlink()
        reached.digests = {each: digest(each) for each in (file, *reached.lines)}
        path.write_text(json.dumps(asdict(reached)))
        reached.forget_changed()
        return reached

    def meeting(self, module: str, statement: range) -> list[list[str]]:
        """The tests to run in turn: those that run the statement, then the rest of their files.

        What runs when its module is imported, an empty `statement`, is met by every test that runs
        any of the module, then by all. What no test is known to run can be run by a thread or by
        another process, so it is met by quick tests that run another part of the module.
        """
        direct = self._running(module, {str(line) for line in statement} or None)
        if statement and not direct:
            other = self._running(module, None)
            return [self._ordered(module, other, MOST_OF_REST_S, MOST_OF_ALL_REST_S)]
        files = {file for file in self._reached if not direct or direct.get(file)}
        rest = {
            file: [test for test in self._reached[file].seconds if test not in direct.get(file, ())]
            for file in files
        }
        near = self._ordered(module, direct, MOST_OF_FILE_S, MOST_OF_ALL_S)
        return [
            *_in_parts(near, FILES_AT_ONCE),
            self._ordered(module, rest, MOST_OF_REST_S, MOST_OF_ALL_REST_S),
        ]

    def not_reached(self, modules: Iterable[str]) -> list[str]:
        """Modules that have functions of which no test runs a line: what is about them was not
        asked.
        """
        lines = {each: statements(Path(each).read_text()) for each in sorted(modules)}
        ran = {each: self._running(each, {str(line) for line in lines[each]}) for each in lines}
        return [each for each in lines if lines[each] and not ran[each]]

    def _running(self, module: str, lines: Collection[str] | None) -> dict[str, list[str]]:
        found = {}
        for file, reached in self._reached.items():
            contexts = {
                test
                for line, tests in reached.lines.get(module, {}).items()
                if lines is None or line in lines or line == ANY
                for test in tests
            }
            tests = [test for test in reached.seconds if "" in contexts or test in contexts]
            if tests:
                found[file] = tests
        return found

    def _ordered(
        self, module: str, tests: Mapping[str, Sequence[str]], of_file_s: float, most_s: float
    ) -> list[str]:
        """Of each file the quickest tests that take so long together; the files that are most about
        the module come first.
        """
        found: list[str] = []
        for file in sorted(tests, key=lambda file: -self._about(file, module)):
            left_s = most_s - self.seconds(found)
            found += self._quickest(file, tests[file], min(of_file_s, left_s))
        return found

    def _about(self, file: str, module: str) -> float:
        """How much of what a test file runs is this module."""
        sizes = self._reached[file].sizes
        return sizes.get(module, 0) / max(sum(sizes.values()), 1)

    def _quickest(self, file: str, tests: Iterable[str], most_s: float) -> list[str]:
        seconds = self._reached[file].seconds
        found, taken = [], 0.0
        for test in sorted(tests, key=seconds.__getitem__):
            taken += seconds[test]
            if taken < most_s and test not in self._failing:
                found.append(test)
        return found

    def seconds(self, tests: Iterable[str]) -> float:
        """How long these tests took without a mutant, and while they were watched."""
        return sum(self._reached[_file_of(test)].seconds[test] for test in tests)

    def run(self, tests: Sequence[str], patience: float) -> Outcome:
        """Run these tests; `patience` multiplies the time that they have."""
        files = list(dict.fromkeys(_file_of(test) for test in tests))
        most_s = patience * (30 + 5 * self.seconds(tests))
        return in_fork(files, lambda result: Chosen(tests, result), most_s)

    def fail_for_it(self, outcome: Outcome, tests: Sequence[str]) -> bool:
        """Whether a run failed because of the mutant: without it, the test that failed passes, or
        the tests that did not end do.
        """
        again = list(tests) if outcome.endless else [outcome.failed or tests[0]]
        # Whether they end depends on what else the machine does now, so that is not remembered.
        if not outcome.endless and set(again) <= self._passing:
            return True
        if not self.run(again, 1.0 if outcome.endless else PATIENCE).passed:
            self._failing.update(again)
            return False
        self._passing.update(again)
        return True


def _in_parts(tests: Sequence[str], files_at_once: Sequence[int]) -> list[list[str]]:
    """The tests of so many files, then of so many more, then all others."""
    files = list(dict.fromkeys(_file_of(test) for test in tests))
    ends = [*accumulate(files_at_once), len(files)]
    places = {file: place for place, file in enumerate(files)}
    parts: list[list[str]] = [[] for _ in ends]
    for test in tests:
        place = places[_file_of(test)]
        part = next(number for number, end in enumerate(ends) if place < end)
        parts[part].append(test)
    return [part for part in parts if part]


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def ready(files: Sequence[str]) -> None:
    """Collect the test files once, so that no run has to do again what all of them do: what pytest
    compiles is kept, and what they import, apart from xsp and the tests, is imported here.
    """
    outcome = in_fork(files, _Collecting, MOST_S)
    imported = Path(RESULT)
    if not outcome.passed or not imported.exists():
        sys.exit(f"the tests cannot be collected:\n{outcome.output}")
    for name in imported.read_text().split():
        # What imports itself under a condition only need not be importable by its name.
        with suppress(Exception):
            importlib.import_module(name)
    # Nor does any run have to look for garbage among all that.
    gc.collect()
    gc.freeze()


class _Collecting:
    """A pytest plugin: collects only, and says which modules that imports."""

    def __init__(self, result: Path) -> None:
        self._result = result

    def pytest_configure(self, config: pytest.Config) -> None:
        sys.dont_write_bytecode = False
        config.option.collectonly = True

    def pytest_collection_finish(self) -> None:
        own = str(Path.cwd())
        others = [
            name
            for name, module in sys.modules.items()
            if not str(getattr(module, "__file__", None) or "").startswith(own)
        ]
        self._result.write_text("\n".join(each for each in others if each != "__main__"))


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).exists() else ""


def statements(source: str) -> dict[int, range]:
    """By line in a function, the lines of the innermost statement there; of a compound one, its
    head. What runs when the module is imported is left out: it runs in whatever test is first.
    """
    found: dict[int, range] = {}
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in (inner for each in function.body for inner in ast.walk(each)):
                if isinstance(node, ast.stmt | ast.ExceptHandler):
                    lines = range(node.lineno, _last(node) + 1)
                    found.update(dict.fromkeys(lines, lines))
    return found


def _last(statement: ast.stmt | ast.ExceptHandler) -> int:
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        return max(statement.lineno, int(body[0].lineno) - 1)
    return statement.end_lineno or statement.lineno
