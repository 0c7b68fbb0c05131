"""The process in which a test runs, and its end: by itself, by the time limit, or by a signal."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.recording import COMPLETED, recorded
from xsp.evaluation.scenarios.task import OUTPUT, RESULT, Report, Task

_ONE_AT_A_TIME = threading.Lock()
_WAIT_S = 30.0
"""For a killed process to be gone."""


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


def run_in_process(task: Task, time_limit_s: float) -> Report:
    """Run a task in a process of its own and wait for its report.

    Raises EvaluationError if the process dies, if the test fails, or if it takes longer than
    `time_limit_s`; the process and all that it began are killed then, and what was recorded stays
    in the task's folder.
    """
    with (task.folder / OUTPUT).open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "xsp.evaluation.scenarios.child"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # A session of its own: Ctrl-C reaches only this process, and all of it can be killed.
            start_new_session=True,
            env=_environment(),
        )
        try:
            _hand_over(child, task)
            code = child.wait(time_limit_s)
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(
                f"the test was ended after its time limit of {time_limit_s:g} s: "
                f"{_kept(task)}; give it a longer time_limit_s, or fewer queries, if the system "
                "does not hang"
            ) from error
        finally:
            _end(child)
    return _report(task, code)


def _environment() -> dict[str, str]:
    """The one of this process; the other one imports from the same places, and from no others."""
    places = [place or os.getcwd() for place in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}


def _hand_over(child: subprocess.Popen[bytes], task: Task) -> None:
    given: IO[bytes] | None = child.stdin
    assert given is not None  # noqa: S101  (a pipe was asked for)
    content = pickle.dumps(task)
    with suppress(BrokenPipeError):  # it died at once: its exit code says so
        given.write(len(content).to_bytes(8, "little") + content)
        given.flush()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of all that it began."""
    with suppress(ProcessLookupError, PermissionError):  # nothing is left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(_WAIT_S)
    if child.stdin is not None:
        with suppress(BrokenPipeError):  # part of the task was never read
            child.stdin.close()


def _report(task: Task, code: int) -> Report:
    path = task.folder / RESULT
    if not path.is_file():
        raise EvaluationError(
            f"the process of the test {_death(code)} before the test was over: {_kept(task)}"
            f"{_last_words(task)}"
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


def _kept(task: Task) -> str:
    rows = recorded(task.folder)
    answered = int((rows[:, COMPLETED] > 0).sum())
    return (
        f"{answered} of {len(rows)} issued queries were answered, and are kept in "
        f"{str(task.folder)!r}"
    )


def _last_words(task: Task) -> str:
    text = (task.folder / OUTPUT).read_text(errors="replace").strip()
    return f"; its last line: {text.splitlines()[-1][:500]}" if text else ""
