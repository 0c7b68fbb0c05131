"""The measured process: `python -m xsp.evaluation.scenarios.child FD`.

Tasks come on standard input, one after another, all of the same system. A byte to FD says that a
test is over.

It lives as long as standard input is open: when the process that waits for it is gone, or closes
it, it ends at once with all that it began.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from xsp.capture.writing import write_file
from xsp.errors import EvaluationError, XspError
from xsp.evaluation.orphans import die_with_parent
from xsp.evaluation.scenarios.loadgen import UNTIMED_NS
from xsp.evaluation.scenarios.performing import performed
from xsp.evaluation.scenarios.recording import Recording, recorded
from xsp.evaluation.scenarios.scenario import System
from xsp.evaluation.scenarios.settings import MultiStream, Offline
from xsp.evaluation.scenarios.task import OUTPUT, RESULT, Judging, Ready, Report, Task
from xsp.evaluation.scenarios.usage import Meter

SHORTEST_NS = 1000
"""Taken for a query's latency where a call took less: loadgen prepares queries by it."""
ORPHANED = 3
"""Exit code where nobody waits for the test any more."""


def main() -> None:
    """Run the tasks on standard input."""
    serve(sys.stdin.buffer, int(sys.argv[1]))


def serve(given: BinaryIO, over: int, *, forked: bool = False) -> NoReturn:
    """Run the tasks that are given, and write the result of each to its folder."""
    # Loadgen ends the process on it; the one that waits decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    kept = _Kept(forked)
    for task in _tasks(given):
        _print_to(task.folder)
        report = _reported(task, kept)
        write_file(task.folder / RESULT, json.dumps(asdict(report)).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(over, b".")
    os._exit(ORPHANED)


def _tasks(given: BinaryIO) -> Iterator[Task]:
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(given, waiting), daemon=True).start()
    while True:
        yield pickle.loads(waiting.get())  # noqa: S301  (from whoever began this process)


def _read(given: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    """Take tasks until nobody is there who could give one."""
    while head := given.read(8):
        waiting.put(given.read(int.from_bytes(head, "little")))
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(ORPHANED)


def _print_to(folder: Path) -> None:
    """What is printed from now on belongs to this test."""
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)


class _Kept:
    """The system, which is made for the first test, and what was read of memory before it."""

    def __init__(self, forked: bool) -> None:
        self.forked = forked
        self.tests = 0
        self.made_ready: tuple[int, ...] = ()
        """Numbers of samples that the system was called with before any test."""
        self.thread = ThreadPoolExecutor(1, "xsp system")
        """In which the system answers, the warm-up too."""
        self.meter = Meter()
        self._system: System | None = None

    def system(self, task: Task) -> System:
        """The system; what tests before this one left is let go of."""
        if self._system is None:
            self._system = _system(task)
        else:
            self.meter.begin_again()
        return self._system


def _reported(task: Task, kept: _Kept) -> Report:
    try:
        return _tested(task, kept)
    except XspError as error:
        return Report(failure=str(error))
    except BaseException as error:
        import traceback

        traceback.print_exc()
        return Report(failure=f"{type(error).__name__}: {error}")


def _tested(task: Task, kept: _Kept) -> Report:
    system = kept.system(task)
    if isinstance(task.scenario, Ready):
        kept.thread.submit(_call_each, system, task.scenario.sizes, task.samples).result()
        kept.made_ready += task.scenario.sizes
        kept.meter.begin_again()  # so that it waits without memory of the GPU that others need
        return Report()
    if isinstance(task.scenario, Judging):
        judge: Any = system  # what was made is asked for no answers to queries
        batches = Recording(task.folder, capacity=task.samples)
        return Report(details=kept.thread.submit(judge, batches).result())
    recording = Recording(task.folder)
    warming = kept.thread.submit(_warmed, system, task.scenario, task.samples)
    once_ns = warming.result()
    kept.meter.start()
    report = performed(task, system, recording, once_ns, kept.thread)
    report.usage = asdict(kept.meter.usage())
    report.details |= {"tests_before": kept.tests, "forked": kept.forked}
    if kept.made_ready:
        report.details["made_ready"] = list(kept.made_ready)
    report.details |= getattr(system, "facts", {})
    report.doubts += getattr(system, "doubts", ())
    kept.tests += 1
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


def _call_each(system: System, sizes: Sequence[int], samples: int) -> None:
    for size in sizes:
        _called(system, [index % samples for index in range(size)])


def _called(system: System, indices: list[int]) -> int:
    begin_ns = time.monotonic_ns()
    try:
        system(indices)
    except BaseException as error:
        raise EvaluationError(
            f"the system fails in the warm-up: {type(error).__name__}: {error}"
        ) from error
    return max(time.monotonic_ns() - begin_ns, SHORTEST_NS)


if __name__ == "__main__":
    main()
