"""A test's process: `python -m xsp.evaluation.scenarios.child`, with its task on standard input.

It lives as long as standard input is open: when the process that waits for it is gone, or closes
it, the test ends at once.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xsp.capture.writing import write_file
from xsp.errors import EvaluationError, XspError
from xsp.evaluation.scenarios import clocks
from xsp.evaluation.scenarios.loadgen import UNTIMED_NS, loadgen_module, run_loadgen, seeds
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
from xsp.evaluation.scenarios.settings import Batched, MultiStream, Offline, Replay, Server
from xsp.evaluation.scenarios.task import RESULT, Report, Task
from xsp.evaluation.scenarios.usage import Meter
from xsp.evaluation.scenarios.worker import Worker

SHORTEST_NS = 1000
"""Taken for a query's latency where a call took less: loadgen prepares queries by it."""
ORPHANED = 3
"""Exit code where nobody waits for the test any more."""


def main() -> None:
    """Run the task on standard input and write the result to its folder."""
    # Loadgen ends the process on it; the one that waits decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = sys.stdin.buffer
    length = int.from_bytes(given.read(8), "little")
    task: Task = pickle.loads(given.read(length))  # noqa: S301  (from whoever began this process)
    threading.Thread(target=_end_with, args=(given,), daemon=True).start()
    report = _reported(task)
    write_file(task.folder / RESULT, json.dumps(asdict(report)).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    # What a system left behind, such as threads, must not keep the process.
    os._exit(0)


def _end_with(given: BinaryIO) -> None:
    given.read(1)
    os._exit(ORPHANED)


def _reported(task: Task) -> Report:
    try:
        return _tested(task)
    except XspError as error:
        return Report(failure=str(error))
    except BaseException as error:
        import traceback

        traceback.print_exc()
        return Report(failure=f"{type(error).__name__}: {error}")


def _tested(task: Task) -> Report:
    meter = Meter()
    system = _system(task)
    recording = Recording(task.folder)
    once_ns = _warmed(system, task.scenario, task.samples)
    meter.start()
    report = _TESTS.get(type(task.scenario), _by_loadgen)(task, system, recording, once_ns)
    report.usage = asdict(meter.usage())
    if recording.count > len(recorded(task.folder)):
        report.doubts.append(
            f"only the first {len(recorded(task.folder))} of {recording.count} queries are recorded"
        )
    return report


def _system(task: Task) -> System:
    try:
        make_system: Callable[[], System] = pickle.loads(task.make_system)  # noqa: S301
        return make_system()
    except XspError:
        raise
    except BaseException as error:
        raise EvaluationError(
            f"the system could not be made: {type(error).__name__}: {error}"
        ) from error


def _sizes(scenario: Any) -> list[int]:
    """Numbers of samples that calls will ask for, the smallest first: what is compiled for each
    shape must be ready.
    """
    if isinstance(scenario, MultiStream):
        return [scenario.samples_per_query]
    if isinstance(scenario, Offline):
        return [scenario.batch]
    return sorted({1, getattr(scenario, "batch", 1)})


def _warmed(system: System, scenario: Any, samples: int) -> int:
    """Call the system so often with each size; what the last of the smallest took, in ns."""
    took_ns = [
        _called(system, [index % samples for index in range(size)])
        for size in reversed(_sizes(scenario))
        for _ in range(scenario.warmup)
    ]
    return took_ns[-1] if took_ns else UNTIMED_NS


def _called(system: System, indices: list[int]) -> int:
    begin_ns = time.monotonic_ns()
    try:
        system(indices)
    except BaseException as error:
        raise EvaluationError(
            f"the system fails in the warm-up: {type(error).__name__}: {error}"
        ) from error
    return max(time.monotonic_ns() - begin_ns, SHORTEST_NS)


def _by_loadgen(task: Task, system: System, recording: Recording, once_ns: int) -> Report:
    scenario = task.scenario
    lg = loadgen_module()
    at_once = scenario.batch if isinstance(scenario, Server) else 1
    before = clocks.reading()
    worker = run_loadgen(
        scenario,
        partial(Worker, system, recording, batch=at_once),
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


def _by_replay(task: Task, system: System, recording: Recording, _: int) -> Report:
    scenario = task.scenario
    worker = Worker(system, recording, _nobody, batch=scenario.batch)
    replay(np.asarray(task.arrivals_ns), worker, recording, task.samples, scenario.seed)
    return _plain(task, worker.errors, worker.first_error)


def _nobody(_: list[int]) -> None:
    """In a replay nobody waits for answers."""


def _by_batches(task: Task, system: System, recording: Recording, _: int) -> Report:
    from xsp.evaluation.scenarios.batches import run_batches

    failures = run_batches(task.scenario, system, recording, task.samples)
    return _plain(task, len(failures), failures[0] if failures else None)


def _plain(task: Task, errors: int, first_error: str | None) -> Report:
    rows = recorded(task.folder)
    keep_only(task.folder, rows[rows[:, COMPLETED] > 0])
    return Report(errors=errors, first_error=first_error)


_TESTS: dict[type, Callable[[Task, System, Recording, int], Report]] = {
    Replay: _by_replay,
    Batched: _by_batches,
}

if __name__ == "__main__":
    main()
