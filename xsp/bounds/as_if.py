"""A corrected timeline with something changed, replayed: the arithmetic behind what-if.

Host time that would not be spent is handed to the replay as payments, the form in which it takes
the tracers' time out; operations that would last otherwise keep their place and their launch
latency. So there is one replay, not a second simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.latencies import Latencies, Residuals
from xsp.analysis.correction.replay import ReplayedTimeline, replay
from xsp.analysis.correction.timeline import DeviceOps, HostEvents, HostWaits, Timeline

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PAYMENTS = {
    EventKind.LAYER: 16_384.0,
    EventKind.FUNCTIONAL: 512.0,
    EventKind.BACKWARD: 32.0,
}
"""Payments come in three sizes, so that any interval is made up of a few; each kind of event has
one price. What is left of an interval, less than 32 ns, is not taken out.
"""
_COSTS = Costs(
    layer_ns=_PAYMENTS[EventKind.LAYER],
    functional_ns=_PAYMENTS[EventKind.FUNCTIONAL],
    backward_ns=_PAYMENTS[EventKind.BACKWARD],
)
_UNPRICED = EventKind.API


def corrected(played: ReplayedTimeline) -> Timeline:
    """The replayed timeline as a recording of its own, of which no tracer took anything."""
    run = played.timeline
    thread = {clock: thread for thread, clock in run.clocks.items()}

    def at(clock: Ints, stamps: Ints) -> Ints:
        found = stamps.copy()
        for one in np.unique(clock).tolist():
            mine = clock == one
            found[mine] = played.host(thread[one], stamps[mine])
        return found

    events, waits, ops = run.events, run.waits, run.ops
    kind = np.where(events.kind == EventKind.LAUNCH, EventKind.LAUNCH, _UNPRICED)
    awaited = waits.from_clock >= 0
    from_ns = waits.from_ns.copy()
    from_ns[awaited] = at(waits.from_clock[awaited], waits.from_ns[awaited])
    main = thread[0]
    start, host_end, end = played.host(main, [run.start_ns, run.host_end_ns, run.end_ns]).tolist()
    return Timeline(
        start_ns=start,
        host_end_ns=host_end,
        end_ns=end,
        clocks=run.clocks,
        events=HostEvents(
            events.clock,
            kind.astype(np.int64),
            at(events.clock, events.start_ns),
            at(events.clock, events.end_ns),
        ),
        ops=DeviceOps(
            ops.kind,
            ops.stream,
            played.device_start_ns[ops.row],
            played.device_end_ns[ops.row],
            ops.launch,
            ops.row,
            ops.after,
        ),
        waits=HostWaits(
            waits.clock,
            waits.kind,
            at(waits.clock, waits.start_ns),
            at(waits.clock, waits.end_ns),
            waits.event,
            waits.from_clock,
            from_ns,
            waits.on,
        ),
        notes=run.notes,
    )


@dataclass(frozen=True, eq=False)
class Change:
    """What is otherwise in a run.

    `duration_ns` is of every operation, in the order of the timeline's; NaN for one that is not
    there at all. `free` are intervals (start, end) of the main thread that take no time, in ns;
    `released` are waits that are not there: they wait for nothing and return at once. `most_gap_ns`
    is how long after its predecessor an operation starts at most, if it is queued by then.
    """

    duration_ns: Floats
    most_gap_ns: Floats
    free: Floats
    released: Bools

    @classmethod
    def none(cls, run: Timeline) -> Change:
        """Nothing changed."""
        length = (run.ops.end_ns - run.ops.start_ns).astype(np.float64)
        any_gap = np.full(len(length), np.inf)
        return cls(length, any_gap, np.zeros((0, 2)), np.zeros(len(run.waits.kind), dtype=bool))

    def latencies(self, kept: Residuals) -> Residuals:
        """What operations and waits keep of their latencies."""
        return replace(
            kept,
            gap_ns=np.minimum(kept.gap_ns, self.most_gap_ns),
            return_ns=np.where(self.released, 0.0, kept.return_ns),
        )

    def also_free(self, intervals: npt.ArrayLike) -> Change:
        """More intervals without host time."""
        more = np.asarray(intervals, dtype=np.float64).reshape(-1, 2)
        return replace(self, free=np.concatenate([self.free, more]))


def latency_ns(run: Timeline, change: Change, typical: Latencies) -> float:
    """Latency of a corrected run (`corrected`) with a change."""
    as_if = _as_if(run, change, typical)
    played = replay(run, _COSTS, typical, as_if=as_if, otherwise=change.latencies)
    return float(played.latency_ns)


def _as_if(run: Timeline, change: Change, typical: Latencies) -> Timeline:
    gap = typical.gap_ns[0]
    # An operation that is not there leaves no gap behind it either.
    length = np.where(np.isnan(change.duration_ns), -gap, change.duration_ns)
    end = run.ops.start_ns + np.rint(length).astype(np.int64)
    kept = ~change.released[run.waits.on[:, 0]] if len(run.waits.on) else np.zeros(0, bool)
    return replace(
        run,
        events=_with_payments(run, change.free),
        ops=replace(run.ops, end_ns=end),
        waits=replace(run.waits, on=run.waits.on[kept]),
    )


def _with_payments(run: Timeline, free: Floats) -> HostEvents:
    """The run's events, and after them events without length that pay for the free intervals."""
    # A payment that lasted beyond the end of a wait would be lost: the clock starts anew there.
    cuts = run.waits.end_ns[run.waits.clock == 0].astype(np.float64)
    intervals = divided(united(free), cuts)
    if not len(intervals):
        return run.events
    kind, stamp = (column.astype(np.int64) for column in _tiled(*intervals.T))
    events = run.events
    stamps = (np.concatenate([column, stamp]) for column in (events.start_ns, events.end_ns))
    return HostEvents(
        np.concatenate([events.clock, np.zeros(len(kind), dtype=np.int64)]),
        np.concatenate([events.kind, kind]),
        *stamps,
    )


def _tiled(start: Floats, end: Floats) -> tuple[Ints, Floats]:
    """Kinds and stamps of payments that together cover each interval, interval by interval. Half of
    each is paid before its stamp, half after.
    """
    kinds, stamps, intervals, at = [], [], [], start.copy()
    for kind, size in _PAYMENTS.items():
        counts = ((end - at) // size).astype(np.int64)
        interval = np.repeat(np.arange(len(start)), counts)
        number = np.arange(len(interval)) - np.repeat(np.cumsum(counts) - counts, counts)
        kinds.append(np.full(len(interval), int(kind)))
        stamps.append(at[interval] + size * (number + 0.5))
        intervals.append(interval)
        at += size * counts
    order = np.argsort(np.concatenate(intervals), kind="stable")
    return np.concatenate(kinds)[order], np.concatenate(stamps)[order]


def united(intervals: Floats) -> Floats:
    """Intervals that overlap or touch as one, in order; shape (n, 2)."""
    if not len(intervals):
        return intervals
    ordered = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reached = np.maximum.accumulate(ordered[:, 1])
    first = np.concatenate([[True], ordered[1:, 0] > reached[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([ordered[first, 0], reached[last]], axis=1)


def divided(intervals: Floats, cuts: Floats) -> Floats:
    """Intervals that are apart and in order, each divided at the cuts within it; shape (n, 2)."""
    if not len(intervals):
        return intervals
    inner = np.sort(cuts)
    place = np.searchsorted(intervals[:, 0], inner, side="left") - 1
    inside = (place >= 0) & (inner < intervals[np.maximum(place, 0), 1])
    starts = np.sort(np.concatenate([intervals[:, 0], inner[inside]]))
    ends = np.sort(np.concatenate([intervals[:, 1], inner[inside]]))
    return np.stack([starts, ends], axis=1)


def within(times: Floats, intervals: Floats) -> Bools:
    """Which of the times lie in any of the intervals, their ends included."""
    joined = united(intervals)
    if not len(joined):
        return np.zeros(len(times), dtype=bool)
    place = np.searchsorted(joined[:, 0], times, side="right") - 1
    found: Bools = (place >= 0) & (times <= joined[np.maximum(place, 0), 1])
    return found


def outside(intervals: Floats, start: float, end: float) -> Floats:
    """What of [start, end] the intervals leave, shape (n, 2)."""
    joined = united(intervals)
    begins = np.concatenate([[start], joined[:, 1]])
    ends = np.concatenate([joined[:, 0], [end]])
    kept = ends > begins
    return np.stack([begins[kept], ends[kept]], axis=1)


def typical_latencies(runs: Sequence[Timeline]) -> Latencies:
    """Launch, gap and wake latencies of corrected runs together."""
    return Latencies.observed(list(runs), Costs())
