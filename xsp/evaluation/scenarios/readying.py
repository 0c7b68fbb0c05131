"""Systems made beside one another before any of them is measured: compiling takes long, and needs
a core for each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.process import MeasuredProcess, alone
from xsp.evaluation.scenarios.running import own_folder
from xsp.evaluation.scenarios.scenario import MakeSystem
from xsp.evaluation.scenarios.task import Ready, Task, pickled


def make_ready(
    systems: Sequence[tuple[MeasuredProcess, MakeSystem]],
    sizes: Sequence[int],
    *,
    logs: str | Path | None = None,
    time_limit_s: float = 600.0,
) -> list[EvaluationError | None]:
    """Make systems at the same time, each in the process beside it, and call each once with these
    numbers of samples, in their order. Nothing is measured.

    Tests of a system that follow in its process find it made, and what was compiled for these
    sizes. Until then the process waits and does nothing. Gives for each system None, or why it
    could not be made or called; its process is ended then.

    Raises EvaluationError while a test runs, which it would disturb, or where a system cannot be
    handed over.
    """
    asked = Ready(tuple(sizes))
    made = [pickled(make_system) for _, make_system in systems]
    until = time.monotonic() + time_limit_s
    with alone():
        try:
            begun = [
                _Begun(process, Task(asked, make, max(sizes), own_folder(logs, "ready")))
                for (process, _), make in zip(systems, made, strict=True)
            ]
            return [each.outcome(until, time_limit_s) for each in begun]
        except BaseException:
            for process, _ in systems:
                process.close()
            raise


class _Begun:
    """A system that is being made."""

    def __init__(self, process: MeasuredProcess, task: Task) -> None:
        self._process, self._task = process, task
        process.hand_over(task)

    def outcome(self, until: float, time_limit_s: float) -> EvaluationError | None:
        """Wait for it."""
        try:
            self._process.report(self._task, until, time_limit_s)
        except EvaluationError as error:
            return error
        return None
