"""The process in which tests run, and its end: by the last test, the time limit, or a signal."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.recording import COMPLETED, SAMPLES, recorded
from xsp.evaluation.scenarios.starting import Start, fresh
from xsp.evaluation.scenarios.task import OUTPUT, RESULT, Judging, Report, Task

_ONE_AT_A_TIME = threading.Lock()
_WAIT_S = 30.0
"""For a killed process to be gone."""
_LOOK_S = 0.5
"""So often it is looked whether the process is there: what it began may hold its pipe open."""


@contextmanager
def alone() -> Iterator[None]:
    """Raises EvaluationError while another test of this process runs."""
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise EvaluationError(
            "another test is running in this process: two at once would measure each other; run "
            "them one after the other"
        )
    try:
        yield
    finally:
        _ONE_AT_A_TIME.release()


class MeasuredProcess:
    """Where tests run: a process that is started with the first one, and has one system.

    Tests of the same system follow one another in it, so that it is made once. A test of another
    system, and one after a test that failed, was ended or had a query without an answer, gets a new
    process. `close` ends it; so does the end of this process, or of the thread that ran the first
    test.

    Args:
        start: how a process begins: a new Python, or an instance of `starting.Forking`, whose
            forks have torch imported already.

    """

    def __init__(self, start: Start = fresh) -> None:
        self._start = start
        self._child: _Child | None = None
        self.started = 0
        """Processes until now."""

    def run(self, task: Task, time_limit_s: float) -> Report:
        """Run a test and wait for its report.

        Raises EvaluationError if the process dies, if the test fails, or if it takes longer than
        `time_limit_s`; the process and all that it began are killed then, and what was recorded
        stays in the task's folder.
        """
        until = time.monotonic() + time_limit_s
        self.hand_over(task)
        return self.report(task, until, time_limit_s)

    def hand_over(self, task: Task) -> None:
        """Let a test begin; `report` has to follow."""
        try:
            self._having(task).hand_over(task)
        except BaseException:
            self.close()
            raise

    def report(self, task: Task, until: float, time_limit_s: float) -> Report:
        """Wait for the report of a test that was handed over, until this time of the monotonic
        clock. Errors are those of `run`, which name the time limit.
        """
        well = False
        try:
            child = self._child
            if child is None:
                raise EvaluationError("no test was handed over to the process")
            child.wait(task, until, time_limit_s)
            report = _report(task, child)
            well = report.errors == 0
            return report
        finally:
            if not well:
                self.close()

    def another(self) -> MeasuredProcess:
        """One that begins its process in the same way."""
        return MeasuredProcess(self._start)

    def close(self) -> None:
        """End the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _having(self, task: Task) -> _Child:
        """The process that has the task's system, or a new one."""
        if self._child is not None and self._child.fits(task):
            return self._child
        self.close()
        self._child = _Child(task, self._start)
        self.started += 1
        return self._child


class _Child:
    """`xsp.evaluation.scenarios.child`, seen from outside."""

    def __init__(self, task: Task, start: Start) -> None:
        self._system = task.make_system
        theirs, given = os.pipe()
        self._over, over = os.pipe()
        self._given = os.fdopen(given, "wb")
        try:
            with (task.folder / OUTPUT).open("wb") as output:
                self._begun = start(theirs, over, output.fileno())
        except BaseException:
            self._given.close()
            os.close(self._over)
            raise
        finally:
            os.close(theirs)
            os.close(over)

    def fits(self, task: Task) -> bool:
        """Whether it is there and has the task's system."""
        return self._system == task.make_system and self._begun.ended(0) is None

    def wait(self, task: Task, until: float, time_limit_s: float) -> None:
        """Return when the test is over or the process is gone."""
        left = until - time.monotonic()
        while True:
            # Once too where no time is left: the test may have been over long before.
            if wait([self._over], min(max(left, 0.0), _LOOK_S)):
                os.read(self._over, 1)
                return
            if self._begun.ended(0) is not None:
                return
            left = until - time.monotonic()
            if left <= 0:
                break
        raise EvaluationError(
            f"{_what(task)} was ended after its time limit of {time_limit_s:g} s: "
            f"{_kept(task)}; {_way_out(task)}"
        )

    def code(self) -> int:
        """How a process that is gone ended."""
        code = self._begun.ended(_WAIT_S)
        return -signal.SIGKILL if code is None else code

    def end(self) -> None:
        """Kill what is left of the process and of all that it began."""
        with suppress(ProcessLookupError, PermissionError):  # nothing is left
            os.killpg(self._begun.pid, signal.SIGKILL)
        self._begun.ended(_WAIT_S)
        os.close(self._over)
        with suppress(BrokenPipeError):  # part of the task was never read
            self._given.close()

    def hand_over(self, task: Task) -> None:
        """Write a test to the process."""
        content = pickle.dumps(task)
        with suppress(BrokenPipeError):  # it died at once: its exit code says so
            self._given.write(len(content).to_bytes(8, "little") + content)
            self._given.flush()


def _report(task: Task, child: _Child) -> Report:
    path = task.folder / RESULT
    if not path.is_file():
        raise EvaluationError(
            f"the process of {_what(task)} {_death(child.code())} before it was over: "
            f"{_kept(task)}{_last_words(task)}"
        )
    report = Report(**json.loads(path.read_text()))
    if report.failure is not None:
        raise EvaluationError(f"{report.failure} ({_kept(task)})")
    return report


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _what(task: Task) -> str:
    return "the accuracy pass" if isinstance(task.scenario, Judging) else "the test"


def _way_out(task: Task) -> str:
    if isinstance(task.scenario, Judging):
        return "give it a longer metrics.time_limit_s, or less data, if the model does not hang"
    return "give it a longer time_limit_s, or fewer queries, if the system does not hang"


def _kept(task: Task) -> str:
    rows = recorded(task.folder)
    ended = rows[:, COMPLETED] > 0
    if isinstance(task.scenario, Judging):
        judged = int(rows[ended, SAMPLES].sum())
        return (
            f"{judged} of {task.samples} samples were judged; its logs are in {str(task.folder)!r}"
        )
    answered = int(ended.sum())
    return (
        f"{answered} of {len(rows)} issued queries were answered, and are kept in "
        f"{str(task.folder)!r}"
    )


def _last_words(task: Task) -> str:
    text = (task.folder / OUTPUT).read_text(errors="replace").strip()
    return f"; its last line: {text.splitlines()[-1][:500]}" if text else ""
