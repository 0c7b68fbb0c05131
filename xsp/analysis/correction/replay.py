"""Replay: a recorded timeline as it would have been without the tracers' cost. The model is in
docs/replay.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction.charges import SHARES, Costs, Floats, Ints, placed
from xsp.analysis.correction.hostclock import HostClock, Payments
from xsp.analysis.correction.latencies import Latencies, Residuals, observe, residuals
from xsp.analysis.correction.marks import Marks, marks_of
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.correction.untouched import Untouched
from xsp.errors import XspError

READY, OTHER_THREAD = -1, -2
"""What a wait's end followed from if from no operation: that the wait was reached, and that another
thread let go.
"""


@dataclass(frozen=True, eq=False)
class ReplayedTimeline:
    """The corrected timeline. `device_start_ns` and `device_end_ns` are in the order of
    `DEVICE_ACTIVITY`'s rows. `path` is what the replay found on the way, from the model call.
    """

    timeline: Timeline
    costs: Costs
    device_start_ns: Ints
    device_end_ns: Ints
    path: Path

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
        clock = self.path.clocks[self.timeline.clocks[thread]]
        corrected = clock.at(relative.astype(np.float64))
        return _whole(corrected) + self.timeline.start_ns

    def _main(self, stamp_ns: int) -> int:
        relative = np.array([stamp_ns - self.timeline.start_ns], dtype=np.float64)
        return int(_whole(self.path.clocks[0].at(relative))[0])

    @property
    def latency_ns(self) -> int:
        """Corrected time from the model call to the end of the final synchronise."""
        return self._main(self.timeline.end_ns)

    @property
    def host_latency_ns(self) -> int:
        """Corrected time from the model call to its return."""
        return self._main(self.timeline.host_end_ns)


@dataclass(frozen=True, eq=False)
class Path:
    """The replay's clocks and, in ns from the model call, when operations (in the order of the
    timeline's) run; `held` is when the events that an operation awaits let it go.

    `wait_order` has the waits in the order in which they end; `followed` is the operation that each
    wait's end followed from, or `READY` or `OTHER_THREAD`.
    """

    clocks: tuple[HostClock, ...]
    kept: Residuals
    start: Floats
    end: Floats
    held: Floats
    wait_order: Ints
    followed: Ints


def replay(
    run: Timeline,
    costs: Costs,
    latencies: Latencies | None = None,
    as_if: Timeline | None = None,
    otherwise: Callable[[Residuals], Residuals] | None = None,
) -> ReplayedTimeline:
    """Take the tracers' costs out of a run.

    `latencies` are used where an operation or a wait depends on something else than it did in the
    recording; by default they are the medians of this run. Pass those of many runs together
    (`Latencies.observed`) for short runs. With zero costs the recording is reproduced exactly.

    `as_if` is the same run with operations that last differently and with other events to pay for:
    it is played with the latencies of `run`, and its events can be paid away whole. Operations and
    waits must be the same in number and order. `otherwise` gives other latencies than those that
    operations and waits keep.
    """
    seen = observe(run, costs)
    kept = residuals(seen, latencies or Latencies.typical([seen]))
    if otherwise is not None:
        kept = otherwise(kept)
    if as_if is not None:
        return _played(as_if, costs, kept, whole_events=True)
    return _played(run, costs, kept)


def replay_together(runs: Iterable[Timeline], costs: Costs) -> Iterator[ReplayedTimeline]:
    """Replays of runs that share their typical latencies, one after the other: one takes some
    hundred bytes an event.
    """
    runs = list(runs)
    seen = [observe(run, costs) for run in runs]
    typical = Latencies.typical(seen)
    for run, one in zip(runs, seen, strict=True):
        yield _played(run, costs, residuals(one, typical))


def _whole(times: Floats) -> Ints:
    """Rounded halves up: times 1 ns apart stay so, which they would not if halves went to even."""
    return np.floor(times + 0.5).astype(np.int64)


def _played(
    run: Timeline, costs: Costs, kept: Residuals, whole_events: bool = False
) -> ReplayedTimeline:
    clocks = _clocks(run, placed(costs), kept, whole_events)
    path = _Replayer(run, clocks, kept).play()
    ops = run.ops
    started = np.rint(path.start).astype(np.int64) + run.start_ns
    start, end = np.empty_like(ops.start_ns), np.empty_like(ops.end_ns)
    start[ops.row] = started
    end[ops.row] = started + (ops.end_ns - ops.start_ns)
    return ReplayedTimeline(run, costs, start, end, path)


class _Replayer:
    """Goes from host wait to host wait; the launches between two waits are placed together.

    What does not depend on when a wait ends is computed beforehand for all operations and waits:
    how much corrected time passed since the segment of the host clock began (`HostClock.elapsed`).
    """

    def __init__(self, run: Timeline, clocks: tuple[HostClock, ...], kept: Residuals) -> None:
        self.waits, self.kept, self.clocks = run.waits, kept, clocks
        # Waits for threads come last among those that end together.
        self.order = np.lexsort((run.waits.kind, kept.core_end))
        self.followed = np.full(len(self.order), READY)
        self._reach_waits(run)
        self._reach_launches(run)
        size = len(run.ops.kind)
        self.duration = (run.ops.end_ns - run.ops.start_ns).astype(np.float64)
        self.start, self.end, self.held = (np.full(size, -np.inf) for _ in range(3))
        self._chain(run)
        self._cut_into_steps(run)

    def _reach_waits(self, run: Timeline) -> None:
        """How long after the last wait of its thread each wait was reached."""
        rank = np.zeros(len(self.order), dtype=np.int64)
        self.reached = np.zeros(len(self.order))
        for number, clock in enumerate(self.clocks):
            mine = self.order[run.waits.clock[self.order] == number]
            rank[mine] = np.arange(len(mine))
            self.reached[mine] = clock.elapsed(self.kept.arrival[mine], rank[mine])
        self.rank = rank

    def _reach_launches(self, run: Timeline) -> None:
        """Clock, segment and time within the segment of each operation's launch."""
        launch, launched = run.ops.launch, self.kept.launched
        self.op_clock = np.where(launch < 0, 0, np.append(run.events.clock, 0)[launch])
        self.op_segment = np.zeros(len(launch), dtype=np.int64)
        self.op_elapsed = np.zeros(len(launch))
        for number, clock in enumerate(self.clocks):
            mine = self.op_clock == number
            segment = clock.segment_of(launched[mine])
            self.op_segment[mine] = segment
            self.op_elapsed[mine] = clock.elapsed(launched[mine], segment)

    def _chain(self, run: Timeline) -> None:
        """Where each operation would start if it and all before it on its stream were queued."""
        stream = run.ops.stream
        before = np.zeros(len(self.duration))
        before[1:] = self.duration[:-1] + self.kept.gap_ns[1:]
        begins_stream = np.diff(stream, prepend=stream[:1] - 1) != 0
        before[begins_stream] = 0.0
        self.queued = np.cumsum(before)

    def _cut_into_steps(self, run: Timeline) -> None:
        """Operations of step i are launched before wait i ends and after wait i - 1 did."""
        ends = self.kept.core_end[self.order]
        step = np.searchsorted(ends, self.kept.launched, "right")
        steps = np.arange(len(self.order) + 2)
        self._cut_streams(run.ops.stream, step, steps)
        by_step = np.argsort(step[run.ops.after[:, 0]], kind="stable")
        after = run.ops.after[by_step]
        self.edges = np.split(after, np.searchsorted(step[after[:, 0]], steps[1:-1]))
        waiting, awaited = run.waits.on.T
        self.wait_on = np.split(awaited, np.searchsorted(waiting, steps[1:-2]))

    def _cut_streams(self, stream: Ints, step: Ints, steps: Ints) -> None:
        """An operation is of no earlier step than those before it on its stream, to which `step` is
        changed in place.
        """
        number_of_streams = int(stream[-1]) + 1 if len(step) else 0
        bounds = np.searchsorted(stream, np.arange(number_of_streams + 1))
        self.slices: list[list[tuple[int, int, int]]] = [[] for _ in steps[:-1]]
        for number, (low, high) in enumerate(pairwise(bounds.tolist())):
            mine = np.maximum.accumulate(step[low:high])
            step[low:high] = mine
            cuts = low + np.searchsorted(mine, steps)
            for at in np.flatnonzero(np.diff(cuts)).tolist():
                self.slices[at].append((int(cuts[at]), int(cuts[at + 1]), number))
        self.top = [-np.inf] * number_of_streams

    def play(self) -> Path:
        for step, wait in enumerate(self.order.tolist()):
            self._place_operations(step)
            self._end_wait(wait)
        self._place_operations(len(self.order))
        return Path(
            self.clocks, self.kept, self.start, self.end, self.held, self.order, self.followed
        )

    def _end_wait(self, wait: int) -> None:
        clock = self.clocks[self.waits.clock[wait]]
        arrival = clock.opened[self.rank[wait]] + self.reached[wait]
        ends = arrival + self.kept.return_ns[wait]
        operations = self.wait_on[wait]
        wake = self.kept.wake_ns[wait]
        if len(operations):
            last = operations[self.end[operations].argmax()]
            if self.end[last] + wake > ends:
                ends, self.followed[wait] = self.end[last] + wake, last
        if (other := int(self.waits.from_clock[wait])) >= 0:
            let_go = float(self.clocks[other].at(self.kept.from_at[wait : wait + 1])[0])
            if let_go + wake > ends:
                ends, self.followed[wait] = let_go + wake, OTHER_THREAD
        clock.resume(ends)

    def _place_operations(self, step: int) -> None:
        """The least start times that satisfy launches, streams and event waits, by fixed-point
        iteration.
        """
        slices, edges = self.slices[step], self.edges[step]
        if not slices:
            return
        earliest = [self._launches(low, high) for low, high, _ in slices]
        reached = [self.top[stream] for _, _, stream in slices]
        while True:
            before = self.start[edges]
            self._hold(edges)
            for (low, high, stream), launched, top in zip(slices, earliest, reached, strict=True):
                self._scan(low, high, stream, launched, top)
            if np.array_equal(before, self.start[edges]):
                return

    def _launches(self, low: int, high: int) -> Floats:
        """The earliest starts by the launches alone."""
        segment, passed = self.op_segment[low:high], self.op_elapsed[low:high]
        if len(self.clocks) == 1:
            opened = self.clocks[0].opened
            at = np.fmin(passed + opened[segment], opened[segment + 1])
        else:
            at = np.empty(high - low)
            for number in np.unique(self.op_clock[low:high]):
                mine = self.op_clock[low:high] == number
                opened = self.clocks[number].opened
                at[mine] = np.fmin(passed[mine] + opened[segment[mine]], opened[segment[mine] + 1])
        earliest: Floats = at + self.kept.launch_ns[low:high]
        return earliest

    def _hold(self, edges: Ints) -> None:
        """When event waits let operations go. Only what a step touches is written: there can be
        many of both.
        """
        if len(edges):
            waiting, awaited = edges[:, 0], edges[:, 1]
            self.held[waiting] = -np.inf
            np.maximum.at(self.held, waiting, self.end[awaited] + self.kept.event_ns[waiting])

    def _scan(self, low: int, high: int, stream: int, launched: Floats, top: float) -> None:
        """start_i = max(earliest_i, start_(i-1) + duration_(i-1) + gap_i) as a running maximum;
        `top` is what it was before.
        """
        queued = self.queued[low:high]
        slack = np.maximum(launched, self.held[low:high]) - queued
        slack[0] = max(slack[0], top)
        np.maximum.accumulate(slack, out=slack)
        self.top[stream] = slack[-1]
        self.start[low:high] = slack + queued
        self.end[low:high] = self.start[low:high] + self.duration[low:high]


def _clocks(
    run: Timeline, prices: Floats, kept: Residuals, whole_events: bool
) -> tuple[HostClock, ...]:
    clocks = []
    for clock in range(max(run.clocks.values()) + 1):
        ends = kept.core_end[run.waits.clock == clock]
        marks = Marks.of(run, clock, ends, Untouched()) if whole_events else marks_of(run, clock)
        payments = Payments.of(marks, prices, SHARES, between_stamps=not whole_events)
        clocks.append(HostClock(payments, ends, marks.untouched))
    return tuple(clocks)
