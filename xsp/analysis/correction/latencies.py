"""What each operation and each wait keeps of its own through a replay, and what it falls
back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xsp.analysis.correction.charges import Bools, Costs, EventKind, Floats, Ints, placed
from xsp.analysis.correction.marks import AFTER_START
from xsp.analysis.correction.timeline import Timeline
from xsp.types import DeviceKind

DEFAULT_GAP_NS = 1000.0
"""Between kernels of one stream on an H100; used only where no operation was ever queued."""

CLOCK_ERROR_NS = 2000.0
"""A wait that ended this much before an operation did cannot have waited for it."""

DEFAULT_WAKE_NS = 10_000.0
"""After a synchronise on an H100 host; used only where no wait ever had to wait."""

ByKind = tuple[float, float, float]


@dataclass(frozen=True)
class Latencies:
    """Typical latencies with the tracers' part taken out, in ns.

    `launch_ns` and `gap_ns` are by `DeviceKind`: from the launch call to the start on an idle
    stream, and from a predecessor's end to the start on a busy one. `event_ns` is from the end of
    an operation on another stream that was waited for. By `WaitKind`, `wake_ns` is from the end of
    what was waited for to the wait's end, and `return_ns` the length of a wait that had nothing to
    wait for.
    """

    launch_ns: ByKind
    gap_ns: ByKind
    event_ns: float
    wake_ns: ByKind
    return_ns: ByKind

    @classmethod
    def observed(cls, runs: Sequence[Timeline], costs: Costs) -> Latencies:
        """Medians over the operations and waits of all runs whose binding constraint is beyond
        doubt.
        """
        return cls.typical([observe(run, costs) for run in runs])

    @classmethod
    def typical(cls, observed: Sequence[Observed]) -> Latencies:
        """The same from what was observed of each run."""
        launch, gap, event = _typical_operations([one.ops for one in observed])
        wake, back = _typical_waits([one.waits for one in observed])
        return cls(launch, gap, event, wake, back)


@dataclass(frozen=True, eq=False)
class OperationLatencies:
    """By device operation, less the tracers' part, in ns; infinite where there is nothing to be
    late after.

    `launched` counts from the model call. `before_launch` is how long after the launch the
    predecessor ended, `event_before_launch` how long after it the last awaited operation did.
    """

    kind: Ints
    launched: Floats
    launch_ns: Floats
    gap_ns: Floats
    event_ns: Floats
    before_launch: Floats
    event_before_launch: Floats


@dataclass(frozen=True, eq=False)
class WaitLatencies:
    """By host wait, less the tracers' part, in ns; stamps count from the model call.

    The wait proper lies between `arrival` and `core_end`. `from_at` is when the thread that is
    waited for had got to where it lets go, minus infinity if none is.
    """

    kind: Ints
    arrival: Floats
    core_end: Floats
    from_at: Floats
    wake_ns: Floats
    return_ns: Floats


@dataclass(frozen=True, eq=False)
class Observed:
    """Latencies of one recording."""

    ops: OperationLatencies
    waits: WaitLatencies


@dataclass(frozen=True, eq=False)
class Residuals:
    """What the operations and waits of one run keep, in ns; stamps count from the model call."""

    launched: Floats
    launch_ns: Floats
    gap_ns: Floats
    event_ns: Floats
    arrival: Floats
    core_end: Floats
    from_at: Floats
    wake_ns: Floats
    return_ns: Floats


def observe(run: Timeline, costs: Costs) -> Observed:
    """Latencies of a run with the tracers' part, at these costs, taken out."""
    prices = placed(costs)
    done = (run.ops.end_ns - run.start_ns).astype(np.float64)
    trailing = np.where(run.ops.kind == DeviceKind.KERNEL, costs.kernel_ns, 0.0)
    return Observed(_operations(run, prices, done, trailing), _waits(run, prices, done, trailing))


def _operations(
    run: Timeline, prices: Floats, done: Floats, trailing: Floats
) -> OperationLatencies:
    ops, origin = run.ops, run.start_ns
    start = (ops.start_ns - origin).astype(np.float64)
    known = ops.launch >= 0
    stamped = np.append(run.events.start_ns, origin)[ops.launch] - origin
    launched = np.where(known, stamped, start)
    launch_kind = np.append(run.events.kind, 0)[ops.launch]
    inside_call = np.where(known, prices[launch_kind, AFTER_START], 0.0)
    same_stream = np.concatenate([[False], ops.stream[1:] == ops.stream[:-1]])[: len(start)]
    before = np.where(same_stream, np.roll(done, 1), -np.inf)
    after_predecessor = np.where(same_stream, np.roll(trailing, 1), 0.0)
    free, tail = _last_of(ops.after, len(start), done, trailing)
    return OperationLatencies(
        kind=ops.kind,
        launched=launched,
        launch_ns=_less(start - launched, inside_call),
        gap_ns=_less(start - before, after_predecessor),
        event_ns=_less(start - free, tail),
        before_launch=before - launched,
        event_before_launch=free - launched,
    )


def _waits(run: Timeline, prices: Floats, done: Floats, trailing: Floats) -> WaitLatencies:
    waits, origin = run.waits, run.start_ns
    start = (waits.start_ns - origin).astype(np.float64)
    end = (waits.end_ns - origin).astype(np.float64)
    traced = waits.event >= 0
    kind = np.append(run.events.kind, EventKind.API)[waits.event]
    # Nothing is paid between the wait proper and the stamp of its end (`charges.PLACEMENTS`).
    arrival = np.minimum(start + prices[kind, AFTER_START] * traced, end)
    last, tail = _last_of(waits.on, len(start), done, trailing)
    from_at = np.where(waits.from_clock >= 0, waits.from_ns - origin, -np.inf)
    last = np.maximum(last, from_at)
    # A copy call may return as soon as its data is staged: such a wait depends on nothing.
    last = np.where(last > end + CLOCK_ERROR_NS, -np.inf, last)
    return WaitLatencies(
        kind=waits.kind,
        arrival=arrival,
        core_end=end,
        from_at=from_at,
        wake_ns=_less(end - last, np.where(last > from_at, tail, 0.0)),
        return_ns=end - arrival,
    )


def _last_of(pairs: Ints, size: int, done: Floats, trailing: Floats) -> tuple[Floats, Floats]:
    """When the last awaited operation ended, minus infinity without one, and how much later its
    device cost lets go. `pairs` (n, 2) are of a waiting item and an operation.
    """
    waiting, awaited = pairs[:, 0], pairs[:, 1]
    free, held = np.full(size, -np.inf), np.full(size, -np.inf)
    np.maximum.at(free, waiting, done[awaited])
    np.maximum.at(held, waiting, (done + trailing)[awaited])
    tail = np.subtract(held, free, out=np.zeros_like(free), where=np.isfinite(free))
    return free, tail


def _less(observed: Floats, cost: Floats) -> Floats:
    """Observed latency without the tracers' part, which cannot be more than all of it."""
    return observed - np.clip(cost, 0.0, np.maximum(observed, 0.0))


def _typical_operations(
    runs: Sequence[OperationLatencies],
) -> tuple[ByKind, ByKind, float]:
    def column(name: str) -> Floats:
        joined: Floats = np.concatenate([getattr(run, name) for run in runs])
        return joined

    kind = column("kind").astype(np.int64)
    launch_ns, gap_ns, event_ns = column("launch_ns"), column("gap_ns"), column("event_ns")
    before, event_before = column("before_launch"), column("event_before_launch")
    idle = (before <= 0) & (event_before <= 0)
    # The first of all operations found its stream idle: the 0 is of a run without operations.
    launch = _medians(launch_ns, kind, idle, 0.0)
    # Twice the launch latency of an idle stream: by then the launch has long reached the GPU.
    surely = 2 * np.maximum(np.array(launch)[kind], 0.0)
    queued = (before > surely) & (before > event_before)
    gap = _medians(gap_ns, kind, queued, DEFAULT_GAP_NS)
    held = (event_before > surely) & (event_before > before)
    event = float(np.median(event_ns[held])) if held.any() else gap[DeviceKind.KERNEL]
    return launch, gap, event


def _typical_waits(runs: Sequence[WaitLatencies]) -> tuple[ByKind, ByKind]:
    kind = np.concatenate([run.kind for run in runs]).astype(np.int64)
    wake = np.concatenate([run.wake_ns for run in runs])
    back = np.concatenate([run.return_ns for run in runs])
    typical_wake = _medians(wake, kind, wake < back / 2, DEFAULT_WAKE_NS)
    free = wake - back > 2 * np.array(typical_wake)[kind]
    return typical_wake, _medians(back, kind, free, 0.0)


def _medians(values: Floats, kind: Ints, sure: Bools, fallback: float) -> ByKind:
    """Median by kind where there is one, else of all kinds, else the fallback."""
    overall = float(np.median(values[sure])) if sure.any() else fallback

    def median_of(index: int) -> float:
        own = values[sure & (kind == index)]
        return float(np.median(own)) if len(own) else overall

    return median_of(0), median_of(1), median_of(2)


def residuals(seen: Observed, typical: Latencies) -> Residuals:
    """Own latencies for the constraint that was binding, typical ones (never more than observed)
    for the others.

    A constraint is taken as the binding one if its latency exceeds the typical latency least.
    """
    ops, waits = seen.ops, seen.waits
    launch, gap, event = _keep(
        (ops.launch_ns, ops.gap_ns, ops.event_ns),
        (
            np.array(typical.launch_ns)[ops.kind],
            np.array(typical.gap_ns)[ops.kind],
            np.full(len(ops.kind), typical.event_ns),
        ),
    )
    wake, back = _keep(
        (waits.wake_ns, waits.return_ns),
        (np.array(typical.wake_ns)[waits.kind], np.array(typical.return_ns)[waits.kind]),
    )
    return Residuals(
        launched=ops.launched,
        launch_ns=launch,
        gap_ns=gap,
        event_ns=event,
        arrival=waits.arrival,
        core_end=waits.core_end,
        from_at=waits.from_at,
        wake_ns=np.where(np.isfinite(waits.wake_ns), wake, -np.inf),
        return_ns=back,
    )


def _keep(observed: tuple[Floats, ...], typical: tuple[Floats, ...]) -> list[Floats]:
    excess = np.stack(observed) - np.stack(typical)
    binding = excess.argmin(axis=0)
    return [
        np.where(binding == index, own, np.minimum(own, usual))
        for index, (own, usual) in enumerate(zip(observed, typical, strict=True))
    ]
