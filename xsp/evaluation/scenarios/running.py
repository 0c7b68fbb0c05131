"""A scenario, run."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.judging import (
    lag_ns,
    late_generator,
    own_ns,
    reasons_against,
    short_service,
)
from xsp.evaluation.scenarios.process import MeasuredProcess, alone
from xsp.evaluation.scenarios.recording import (
    BEGUN,
    COMPLETED,
    FAILED,
    ISSUED,
    SAMPLES,
    SCHEDULED,
    recorded,
)
from xsp.evaluation.scenarios.replay import arrivals_ns, with_arrivals
from xsp.evaluation.scenarios.scenario import MakeSystem, Outcome, Usage
from xsp.evaluation.scenarios.settings import HighestRate, Replay, as_json
from xsp.evaluation.scenarios.task import Report, Task, pickled


def run_scenario(
    scenario: Any,
    make_system: MakeSystem,
    samples: int,
    *,
    logs: str | Path | None = None,
    beside: str | Path | None = None,
    process: MeasuredProcess | None = None,
) -> Outcome:
    """Measure a system under a scenario, in another process.

    A system that raises does not end the test: its queries count as errors and make the test
    invalid, with the reason. Raises EvaluationError if the system cannot be made, fails in the
    warm-up, ends the process, or does not end within `time_limit_s`; what was recorded until then
    stays in the folder that the message names. So does it after KeyboardInterrupt.

    Args:
        scenario: one of the classes in `xsp.evaluation.scenarios.settings`.
        make_system: makes the system in that process: a function of a module, or a
            `functools.partial` of one. It is called once for each process.
        samples: number of samples there are; the system gets indices below it.
        logs: folder in which each test gets a folder of its own; a temporary one if left out.
        beside: folder in or below which a file of arrival times lies; the working directory if
            left out.
        process: where the test runs, and others of the same system may have run; one of its own
            if left out. All tests of a search share one.

    """
    if samples < 1:
        raise EvaluationError(f"samples must be >= 1, not {samples}: there is nothing to ask for")
    made = pickled(make_system)
    with alone(), _own_or(process) as where:
        if isinstance(scenario, HighestRate):
            from xsp.evaluation.scenarios.searching import run_search

            return run_search(scenario, lambda each: _test(where, each, made, samples, logs))
        arrivals = None
        if isinstance(scenario, Replay):
            scenario = with_arrivals(scenario, None if beside is None else Path(beside))
            arrivals = arrivals_ns(scenario)
        return _test(where, scenario, made, samples, logs, arrivals)


def _own_or(process: MeasuredProcess | None) -> AbstractContextManager[MeasuredProcess]:
    """The process that was given, which stays, or one that ends with the context."""
    return MeasuredProcess() if process is None else nullcontext(process)


def _test(
    where: MeasuredProcess,
    scenario: Any,
    make_system: bytes,
    samples: int,
    logs: str | Path | None,
    arrivals: npt.NDArray[np.int64] | None = None,
) -> Outcome:
    folder = own_folder(logs, scenario.kind)
    task = Task(scenario, make_system, samples, folder, arrivals)
    report = where.run(task, scenario.time_limit_s)
    return _outcome(scenario, report, folder)


def own_folder(logs: str | Path | None, kind: str) -> Path:
    """A new folder for one test: loadgen overwrites files and ends the process without a folder."""
    try:
        if logs is not None:
            Path(logs).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"xsp-{kind}-", dir=logs)).resolve()
    except OSError as error:
        raise EvaluationError(
            f"no folder for logs can be made in {str(logs or tempfile.gettempdir())!r}: "
            f"{error.strerror}; give another one"
        ) from error


def _outcome(scenario: Any, report: Report, folder: Path) -> Outcome:
    rows = recorded(folder)
    scheduled, issued, completed = (rows[:, at] for at in (SCHEDULED, ISSUED, COMPLETED))
    answered = rows[:, FAILED] == 0
    reasons = reasons_against(scenario, scheduled, completed, answered, report)
    lag = lag_ns(scheduled, issued)
    own = own_ns(scheduled, issued, rows[:, BEGUN], completed)
    found = (late_generator(scenario, lag), short_service(scenario, own))
    return Outcome(
        scenario=scenario.kind,
        settings=as_json(scenario),
        scheduled_ns=scheduled,
        issued_ns=issued,
        completed_ns=completed,
        samples=rows[:, SAMPLES],
        answered=answered,
        errors=report.errors,
        valid=not reasons,
        reasons=tuple(reasons),
        doubts=(*report.doubts, *filter(None, found)),
        logs=folder,
        details={**report.details, "lag_ns": lag, "own_ns": own},
        usage=Usage(**report.usage),
    )
