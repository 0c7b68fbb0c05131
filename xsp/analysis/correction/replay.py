"""Replay: a recorded timeline as it would have been without the tracers' cost. The model is in
docs/replay.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction.charges import (
    PLACEMENTS,
    Costs,
    EventKind,
    Floats,
    Ints,
    Placement,
    placed,
)
from xsp.analysis.correction.hostclock import HostClock
from xsp.analysis.correction.latencies import Latencies, Residuals, residuals
from xsp.analysis.correction.timeline import Timeline
from xsp.errors import XspError


@dataclass(frozen=True, eq=False)
class ReplayedTimeline:
    """The corrected timeline. `device_start_ns` and `device_end_ns` are in the order of
    `DEVICE_ACTIVITY`'s rows.
    """

    timeline: Timeline
    costs: Costs
    device_start_ns: Ints
    device_end_ns: Ints
    _clocks: tuple[HostClock, ...]

    def host(self, thread: int, stamps_ns: npt.ArrayLike) -> Ints:
        """Corrected times of host stamps taken on a thread; any shape, int64.

        Raises:
            XspError: the thread recorded nothing in this run.

        """
        if thread not in self.timeline.clocks:
            known = sorted(self.timeline.clocks)
            raise XspError(
                f"thread {thread} recorded nothing in this run; threads that did: {known}"
            )
        relative = np.asarray(stamps_ns, dtype=np.int64) - self.timeline.start_ns
        corrected = self._clocks[self.timeline.clocks[thread]].at(relative.astype(np.float64))
        return np.rint(corrected).astype(np.int64) + self.timeline.start_ns

    def _main(self, stamp_ns: int) -> int:
        relative = np.array([stamp_ns - self.timeline.start_ns], dtype=np.float64)
        return int(np.rint(self._clocks[0].at(relative)[0]))

    @property
    def latency_ns(self) -> int:
        """Corrected time from the model call to the end of the final synchronise."""
        return self._main(self.timeline.end_ns)

    @property
    def host_latency_ns(self) -> int:
        """Corrected time from the model call to its return."""
        return self._main(self.timeline.host_end_ns)


def replay(
    run: Timeline,
    costs: Costs,
    latencies: Latencies | None = None,
    placements: Mapping[EventKind, Placement] = PLACEMENTS,
) -> ReplayedTimeline:
    """Take the tracers' costs out of a run.

    `latencies` are used where an operation or a wait depends on something else than it did in the
    recording; by default they are the medians of this run. Pass those of many runs together
    (`Latencies.observed`) for short runs. With zero costs the recording is reproduced exactly.
    """
    prices = placed(costs, placements)
    kept = residuals(run, costs, prices, latencies)
    replayer = _Replayer(run, prices, kept)
    replayer.play()
    start, end = np.empty_like(run.ops.start_ns), np.empty_like(run.ops.end_ns)
    start[run.ops.row] = np.rint(replayer.start).astype(np.int64) + run.start_ns
    end[run.ops.row] = np.rint(replayer.end).astype(np.int64) + run.start_ns
    return ReplayedTimeline(run, costs, start, end, replayer.clocks)


class _Replayer:
    """Goes from host wait to host wait; the launches between two waits are placed together."""

    def __init__(self, run: Timeline, prices: Floats, kept: Residuals) -> None:
        ops, events = run.ops, run.events
        self.waits, self.kept = run.waits, kept
        wait_ends = [
            kept.core_end[run.waits.clock == clock] for clock in range(max(run.clocks.values()) + 1)
        ]
        self.clocks = tuple(
            HostClock(*_charges(run, prices, clock, ends), ends)
            for clock, ends in enumerate(wait_ends)
        )
        self.duration = (ops.end_ns - ops.start_ns).astype(np.float64)
        self.start = np.full(len(ops.kind), -np.inf)
        self.end = self.start.copy()
        self.held = self.start.copy()
        self.launched = kept.launched
        launch = ops.launch
        self.op_clock = np.where(launch < 0, 0, np.append(events.clock, 0)[launch])
        self.order = np.lexsort(
            (run.waits.kind, kept.core_end)
        )  # waits for threads last among equals
        self._cut_into_steps(run)

    def _cut_into_steps(self, run: Timeline) -> None:
        """Operations of step i are launched before wait i ends and after wait i - 1 did."""
        step = np.searchsorted(self.kept.core_end[self.order], self.launched, "right")
        self.bounds = np.searchsorted(
            run.ops.stream, np.arange(run.ops.stream[-1] + 2 if len(step) else 1)
        )
        steps = np.arange(len(self.order) + 2)
        self.cuts = []
        for lo, hi in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            step[lo:hi] = np.maximum.accumulate(step[lo:hi])
            self.cuts.append(lo + np.searchsorted(step[lo:hi], steps))
        after = run.ops.after[np.argsort(step[run.ops.after[:, 0]], kind="stable")]
        self.edges = np.split(after, np.searchsorted(step[after[:, 0]], steps[1:-1]))
        self.wait_on = np.split(
            run.waits.on[:, 1], np.searchsorted(run.waits.on[:, 0], steps[1:-2])
        )

    def play(self) -> None:
        for step, wait in enumerate(self.order.tolist()):
            self._place_ops(step)
            self._end_wait(wait)
        self._place_ops(len(self.order))

    def _end_wait(self, wait: int) -> None:
        clock = self.clocks[self.waits.clock[wait]]
        ready = clock.here(self.kept.arrival[wait]) + self.kept.return_ns[wait]
        done = self.end[self.wait_on[wait]].max(initial=-np.inf)
        if (other := int(self.waits.from_clock[wait])) >= 0:
            done = max(done, float(self.clocks[other].at(self.kept.from_at[wait : wait + 1])[0]))
        clock.resume(max(ready, done + self.kept.wake_ns[wait]))

    def _place_ops(self, step: int) -> None:
        """The least start times that satisfy launches, streams and event waits, by fixed-point
        iteration.
        """
        slices = [(int(cut[step]), int(cut[step + 1])) for cut in self.cuts]
        earliest = [self._launches(lo, hi) for lo, hi in slices]
        edges = self.edges[step]
        while True:
            before = self.start[edges[:, 1]], self.start[edges[:, 0]]
            self._hold(edges)
            for (lo, hi), launched, first in zip(slices, earliest, self.bounds[:-1], strict=True):
                if hi > lo:
                    self._scan(lo, hi, np.maximum(launched, self.held[lo:hi]), lo > first)
            if not len(edges) or all(
                np.array_equal(old, self.start[edges[:, side]])
                for old, side in zip(before, (1, 0), strict=True)
            ):
                return

    def _launches(self, lo: int, hi: int) -> Floats:
        if lo == hi or len(self.clocks) == 1:
            return self.clocks[0].at(self.launched[lo:hi]) + self.kept.launch_ns[lo:hi]
        clock = self.op_clock[lo:hi]
        at = np.empty(hi - lo)
        for index in np.unique(clock):
            mine = clock == index
            at[mine] = self.clocks[index].at(self.launched[lo:hi][mine])
        return at + self.kept.launch_ns[lo:hi]

    def _hold(self, edges: Ints) -> None:
        """When event waits let operations go. Only what a step touches is written: there can be
        many of both.
        """
        self.held[edges[:, 0]] = -np.inf
        np.maximum.at(
            self.held, edges[:, 0], self.end[edges[:, 1]] + self.kept.event_ns[edges[:, 0]]
        )

    def _scan(self, lo: int, hi: int, earliest: Floats, continues: bool) -> None:
        """start_i = max(earliest_i, start_(i-1) + duration_(i-1) + gap_i) as a running maximum."""
        gap = self.kept.gap_ns[lo:hi]
        elapsed = np.concatenate([[0.0], np.cumsum(self.duration[lo : hi - 1] + gap[1:])])
        slack = earliest - elapsed
        if continues:
            slack[0] = max(slack[0], self.end[lo - 1] + gap[0])
        self.start[lo:hi] = np.maximum.accumulate(slack) + elapsed
        self.end[lo:hi] = self.start[lo:hi] + self.duration[lo:hi]


def _charges(run: Timeline, prices: Floats, clock: int, wait_ends: Floats) -> tuple[Floats, Floats]:
    """When each payment on a clock begins, and its amount."""
    mine = run.events.clock == clock
    price = prices[run.events.kind[mine]]
    start = (run.events.start_ns[mine] - run.start_ns).astype(np.float64)
    end = (run.events.end_ns[mine] - run.start_ns).astype(np.float64)
    origins = np.concatenate([[0.0], np.sort(wait_ends)])
    begins = np.concatenate(
        [_before(start, price[:, 0], origins), start, _before(end, price[:, 2], origins), end]
    )
    amount = price.T.reshape(-1)
    paid = amount > 0
    return begins[paid], amount[paid]


def _before(stamp: Floats, price: Floats, origins: Floats) -> Floats:
    """When payments before a stamp begin: after the call, and after the wait, that came before the
    stamp.

    A price above the true one would otherwise begin too early, where the clock does not count it,
    and be lost.
    """
    latest = origins[np.maximum(np.searchsorted(origins, stamp, "right") - 1, 0)]
    begins: Floats = np.where(stamp >= latest, np.maximum(stamp - price, latest), stamp - price)
    return begins
