"""The clock that CUPTI reads for its stamps, set as seldom as can be.

Every `cuptiActivityRegisterTimestampCallback` keeps 416 bytes of the process for good (CUPTI 13.0,
docs/reliability.md). So a clock is set only where CUPTI does not read it already, and inside
`kept_clock` it is put back at the end, not after each session.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum

from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.tracing.clock import read_bracketed

_ATTEMPTS = 4
"""Readings that tell which clock CUPTI reads; one without an interruption is enough."""

_blocks: set[object] = set()
"""The `kept_clock` blocks that are open."""

_changed: list[CuptiClock] = []
"""Clocks to put back when the last block ends."""


class ClockSource(Enum):
    """Which clock CUPTI reads for its stamps."""

    MONOTONIC = "timestamp callback"
    REALTIME = "paired clocks"


class CuptiClock:
    """The clock of one libcupti.

    Setting it raises TracingError if CUPTI refuses.
    """

    def __init__(self, library: CuptiLibrary, buffers: ActivityBuffers) -> None:
        self._library = library
        self._monotonic, self._realtime = buffers.monotonic_clock, buffers.realtime_clock

    def use(self, source: ClockSource) -> None:
        """Have CUPTI read this clock. Call it before any kind is enabled: earlier records would
        keep the clock that was there.
        """
        if source is ClockSource.REALTIME:
            self._library.register_clock(self._realtime)
        elif not self._is_monotonic():
            _changed.append(self)
            self._library.register_clock(self._monotonic)

    def release(self) -> None:
        """Nobody records now: back to CUPTI's own clock, at once or when `kept_clock` ends."""
        if not _blocks:
            _put_back()

    def put_back(self) -> None:
        """Have CUPTI read the clock that it has by default, unless another tool has set one."""
        if self._is_monotonic():
            self._library.register_clock(self._realtime)

    def _is_monotonic(self) -> bool:
        """Whether CUPTI's clock is the monotonic one, whoever set it."""
        reading = read_bracketed(self._library.timestamp, brackets=_ATTEMPTS)
        return reading.before_ns <= reading.foreign_ns <= reading.after_ns


@contextmanager
def kept_clock() -> Iterator[None]:
    """A block in which many sessions follow each other: CUPTI reads their clock from the first one
    until the block ends; entered in `held()`.
    """
    with ExitStack() as undo:
        block = object()
        undo.callback(_end, block)
        _blocks.add(block)
        yield


def _end(block: object) -> None:
    _blocks.discard(block)
    if not _blocks:
        _put_back()


def _put_back() -> None:
    while _changed:
        _changed[-1].put_back()
        _changed.pop()


def _forget() -> None:
    """CUPTI cannot be called in a forked process."""
    _changed.clear()


os.register_at_fork(after_in_child=_forget)
