"""One test in the measured process: by loadgen, as a replay, or as a sweep."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios import clocks
from xsp.evaluation.scenarios.loadgen import loadgen_module, run_loadgen, seeds
from xsp.evaluation.scenarios.loadgen_logs import keep_compressed, scheduled_unix_ns, verdict
from xsp.evaluation.scenarios.recording import (
    COMPLETED,
    QUERY,
    SCHEDULED,
    Recording,
    keep_only,
    recorded,
)
from xsp.evaluation.scenarios.replay import replay
from xsp.evaluation.scenarios.scenario import System
from xsp.evaluation.scenarios.settings import Batched, Replay, Server
from xsp.evaluation.scenarios.task import Report, Task
from xsp.evaluation.scenarios.worker import Worker


def performed(
    task: Task, system: System, recording: Recording, once_ns: int, thread: Executor
) -> Report:
    """Run the test of a warm system, which answers in `thread`; a call takes about `once_ns`."""
    run = _TESTS.get(type(task.scenario), _by_loadgen)
    return run(task, system, recording, once_ns, thread)


def _by_loadgen(
    task: Task, system: System, recording: Recording, once_ns: int, thread: Executor
) -> Report:
    scenario = task.scenario
    lg = loadgen_module()
    at_once = scenario.batch if isinstance(scenario, Server) else 1
    before = clocks.reading()
    worker = run_loadgen(
        scenario,
        partial(Worker, system, recording, batch=at_once, thread=thread),
        recording,
        task.samples,
        task.folder,
        expected_ns=once_ns // 2,
    )
    after = clocks.reading()
    _schedule(task.folder, before, after)
    keep_compressed(task.folder)
    found = verdict(task.folder)
    stepped = clocks.stepped(before, after)
    return Report(
        errors=worker.errors,
        first_error=worker.first_error,
        loadgen_valid=found.valid,
        said=list(found.said),
        doubts=[stepped] if stepped else [],
        details={"schedule_seed": seeds(scenario.seed)[2], "load_generator": lg.__name__},
    )


def _schedule(folder: Path, before: clocks.Reading, after: clocks.Reading) -> None:
    """Put the scheduled times, which loadgen's trace has, into the recorded columns."""
    rows = recorded(folder)
    by_query = clocks.monotonic_of(scheduled_unix_ns(folder), before, after)
    if len(rows) and rows[:, QUERY].max() >= len(by_query):
        raise EvaluationError(
            f"loadgen's trace has {len(by_query)} queries, {len(rows)} were issued: it is damaged"
        )
    rows[:, SCHEDULED] = by_query[rows[:, QUERY]]
    keep_only(folder, rows)


def _by_replay(
    task: Task, system: System, recording: Recording, _: int, thread: Executor
) -> Report:
    scenario = task.scenario
    worker = Worker(system, recording, _nobody, scenario.batch, thread)
    replay(np.asarray(task.arrivals_ns), worker, recording, task.samples, scenario.seed)
    return _plain(task, worker.errors, worker.first_error)


def _nobody(_: list[int]) -> None:
    """In a replay nobody waits for answers."""


def _by_batches(
    task: Task, system: System, recording: Recording, _: int, thread: Executor
) -> Report:
    from xsp.evaluation.scenarios.batches import run_batches

    asked = (task.scenario, system, recording, task.samples)
    failures = thread.submit(run_batches, *asked).result()
    return _plain(task, len(failures), failures[0] if failures else None)


def _plain(task: Task, errors: int, first_error: str | None) -> Report:
    rows = recorded(task.folder)
    keep_only(task.folder, rows[rows[:, COMPLETED] > 0])
    return Report(errors=errors, first_error=first_error)


_TESTS: dict[type, Callable[[Task, System, Recording, int, Executor], Report]] = {
    Replay: _by_replay,
    Batched: _by_batches,
}
