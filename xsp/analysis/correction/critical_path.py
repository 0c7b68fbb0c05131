"""By how much a replayed time depends on each cost: the number of that cost's payments on the
critical path.

A replayed time is the latest of several sums (docs/replay.md). Its slope by a cost is that of the
sum which is the latest, so going back from a time along what it followed from and counting the
payments gives all slopes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xsp.analysis.correction.charges import COST_LEVELS, SHARES, EventKind, Floats
from xsp.analysis.correction.hostclock import Payments
from xsp.analysis.correction.marks import AFTER_START
from xsp.analysis.correction.replay import OTHER_THREAD, READY, ReplayedTimeline
from xsp.types import DeviceKind

_KERNEL_COST = list(COST_LEVELS).index("kernel_ns")
_SAME_NS = 1e-3
"""Times that differ by less followed from each other."""


class HostTime(NamedTuple):
    """A recorded time on a host clock, in a segment between two waits."""

    clock: int
    time: float
    segment: int


class WaitEnd(NamedTuple):
    """The end of the wait that opened a segment of a host clock."""

    clock: int
    segment: int


class OperationStart(NamedTuple):
    """The start of a device operation."""

    operation: int


_Point = HostTime | WaitEnd | OperationStart


def slopes(replayed: ReplayedTimeline, stamps_ns: Sequence[int]) -> Floats:
    """Change of the corrected times of main thread's stamps per ns of each cost, float64 of shape
    (stamps, 8), in the order of `COST_LEVELS`; none is above 0.

    Latencies that the tracers' part was larger than, and which are kept at 0, are not allowed for.
    """
    walk, start_ns = _Walk(replayed), replayed.timeline.start_ns
    return np.array([walk.back_from(float(stamp - start_ns)) for stamp in stamps_ns])


def _shares(payments: Payments, counted: slice) -> Floats:
    """The shares of these payments, by kind."""
    kinds = len(EventKind)
    return np.bincount(payments.kind[counted], payments.share[counted], kinds).astype(np.float64)


class _Walk:
    def __init__(self, replayed: ReplayedTimeline) -> None:
        self.run, self.path = replayed.timeline, replayed.path
        self.is_kernel = self.run.ops.kind == DeviceKind.KERNEL
        self.head = self._heads()
        self.slope_from: dict[_Point, Floats] = {}
        self.waits_of = [
            [int(wait) for wait in self.path.wait_order if self.run.waits.clock[wait] == clock]
            for clock in range(len(self.path.clocks))
        ]

    def _heads(self) -> Floats:
        """For each operation the one at the head of the queue in which it started."""
        stream, start = self.run.ops.stream, self.path.start
        index = np.arange(len(start))
        queued = np.zeros(len(start), bool)
        predecessor_done = self.path.end[:-1] + self.path.kept.gap_ns[1:]
        follows = stream[1:] == stream[:-1]
        queued[1:] = follows & (start[1:] - predecessor_done < _SAME_NS)
        return np.maximum.accumulate(np.where(queued, 0, index))

    def back_from(self, time: float) -> Floats:
        self.slope = np.zeros(len(COST_LEVELS))
        segment = int(self.path.clocks[0].segment_of(np.array([time]))[0])
        point: _Point | None = HostTime(0, time, segment)
        passed: list[tuple[_Point, Floats]] = []
        while point is not None and point not in self.slope_from:
            passed.append((point, self.slope.copy()))
            point = self._before(point)
        if point is not None:
            self.slope += self.slope_from[point]
        # Another walk that comes by has the rest in common.
        self.slope_from |= {point: self.slope - before for point, before in passed}
        return self.slope

    def _before(self, point: _Point) -> _Point | None:
        if isinstance(point, HostTime):
            return self._before_host_time(point)
        if isinstance(point, WaitEnd):
            return self._before_wait_end(point)
        return self._before_operation(point.operation)

    def _before_host_time(self, point: HostTime) -> _Point | None:
        clock = self.path.clocks[point.clock]
        at = clock.elapsed(np.array([point.time]), np.array([point.segment]))[0]
        if at + clock.opened[point.segment] > clock.opened[point.segment + 1]:
            return WaitEnd(point.clock, point.segment + 1)
        counted = clock.counted(point.time, point.segment)
        self.slope[: len(EventKind)] -= _shares(clock.payments, counted)
        return WaitEnd(point.clock, point.segment) if point.segment else None

    def _before_wait_end(self, point: WaitEnd) -> _Point:
        wait = self.waits_of[point.clock][point.segment - 1]
        waits, followed = self.run.waits, int(self.path.followed[wait])
        if followed == READY:
            # What is paid at the beginning of the call is in neither its arrival nor its length.
            if (event := int(waits.event[wait])) >= 0:
                kind = int(self.run.events.kind[event])
                self.slope[kind] -= SHARES[kind, AFTER_START]
            begin = float(waits.start_ns[wait] - self.run.start_ns)
            return HostTime(point.clock, begin, point.segment - 1)
        if followed == OTHER_THREAD:
            other, time = int(waits.from_clock[wait]), float(self.path.kept.from_at[wait])
            segment = int(self.path.clocks[other].segment_of(np.array([time]))[0])
            return HostTime(other, time, segment)
        self.slope[_KERNEL_COST] -= self.is_kernel[followed]
        return OperationStart(followed)

    def _before_operation(self, operation: int) -> _Point | None:
        head = int(self.head[operation])
        self.slope[_KERNEL_COST] -= self.is_kernel[head:operation].sum()
        if self.path.start[head] - self.path.held[head] < _SAME_NS:
            awaited = self._awaited(head)
            self.slope[_KERNEL_COST] -= self.is_kernel[awaited]
            return OperationStart(awaited)
        clock, launch = 0, int(self.run.ops.launch[head])
        if launch >= 0:
            clock, kind = int(self.run.events.clock[launch]), int(self.run.events.kind[launch])
            self.slope[kind] -= SHARES[kind, AFTER_START]
        launched = float(self.path.kept.launched[head])
        segment = int(self.path.clocks[clock].segment_of(np.array([launched]))[0])
        return HostTime(clock, launched, segment)

    def _awaited(self, operation: int) -> int:
        """The operation whose event let this one go."""
        after = self.run.ops.after
        awaited = after[after[:, 0] == operation, 1]
        return int(awaited[self.path.end[awaited].argmax()])
