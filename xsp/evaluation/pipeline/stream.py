"""Stages that work at the same time, each on its own item, with queues of bounded length between
them: a fast stage waits for a slow one, and memory holds a few items only.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_END = object()


@dataclass(frozen=True)
class StageSpan:
    """One item in one stage: its number, and when the stage worked on it (monotonic clock)."""

    stage: str
    item: int
    start_ns: int
    end_ns: int
    thread: int


@dataclass(frozen=True)
class Stage:
    """A step of the stream: what it is called, and what it makes of an item."""

    name: str
    work: Callable[[Any], Any]


class _StoppedError(Exception):
    """The stream ends early: somebody else failed, or nobody wants its items any more."""


@dataclass
class _Failure:
    error: BaseException


class _Line:
    """The queues between the stages, and the wish to stop."""

    def __init__(self, stages: int, waiting: int) -> None:
        self.queues: list[queue.Queue[Any]] = [queue.Queue(waiting) for _ in range(stages)]
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let every stage end. Each waits in short turns, so that it notices."""
        self._stop.set()

    def put(self, place: int, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self.queues[place].put(item, timeout=0.05)
            except queue.Full:
                continue
        raise _StoppedError

    def get(self, place: int) -> Any:
        while not self._stop.is_set():
            try:
                return self.queues[place].get(timeout=0.05)
            except queue.Empty:
                continue
        raise _StoppedError


def stream(
    items: Iterable[Any],
    stages: Sequence[Stage],
    *,
    waiting: int = 2,
    record: Callable[[StageSpan], None] | None = None,
) -> Iterator[Any]:
    """What the last stage makes of each item, in order. The first of the stages takes the items as
    they come; the last runs in the caller's thread, each other in one of its own.

    Args:
        items: what goes in; it is read no further ahead than the queues allow.
        stages: at least one.
        waiting: items that wait before each stage at most, >= 1.
        record: called with the span of each item in each stage, in the stage's thread.

    Raises what a stage raises, for the first item that fails, after all items before it have come
    out. No thread is left then, nor when the caller stops early.

    """
    line = _Line(len(stages), waiting)
    source = threading.Thread(target=_feed, args=(items, line), name="xsp-source")
    threads = [source] + [
        threading.Thread(target=_run, args=(stage, place, line, record), name=f"xsp-{stage.name}")
        for place, stage in enumerate(stages[:-1])
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _last(stages[-1], len(stages) - 1, line, record)
    finally:
        line.stop()
        for thread in threads:
            thread.join()


def _feed(items: Iterable[Any], line: _Line) -> None:
    try:
        for number, item in enumerate(items):
            line.put(0, (number, item))
        line.put(0, _END)
    except _StoppedError:
        return
    except BaseException as error:
        _pass_on(line, 0, _Failure(error))


def _run(stage: Stage, place: int, line: _Line, record: Any) -> None:
    try:
        while True:
            given = line.get(place)
            if given is _END or isinstance(given, _Failure):
                line.put(place + 1, given)
                return
            line.put(place + 1, _worked(stage, given, record))
    except _StoppedError:
        return
    except BaseException as error:
        _pass_on(line, place + 1, _Failure(error))


def _last(stage: Stage, place: int, line: _Line, record: Any) -> Iterator[Any]:
    while (given := line.get(place)) is not _END:
        if isinstance(given, _Failure):
            raise given.error
        yield _worked(stage, given, record)[1]


def _worked(stage: Stage, given: tuple[int, Any], record: Any) -> tuple[int, Any]:
    number, item = given
    start = time.perf_counter_ns()
    made = stage.work(item)
    if record is not None:
        end = time.perf_counter_ns()
        record(StageSpan(stage.name, number, start, end, threading.get_native_id()))
    return number, made


def _pass_on(line: _Line, place: int, failure: _Failure) -> None:
    try:
        line.put(place, failure)
    except _StoppedError:
        return
