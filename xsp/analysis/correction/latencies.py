"""What each operation and each wait keeps of its own through a replay, and what it falls
back to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xsp.analysis.correction.charges import (
    PLACEMENTS,
    Bools,
    Costs,
    EventKind,
    Floats,
    Ints,
    Placement,
    placed,
)
from xsp.analysis.correction.timeline import Timeline
from xsp.types import DeviceKind

DEFAULT_GAP_NS = (
    1000.0  # between kernels of one stream on an H100; used only where no operation was ever queued
)
CLOCK_ERROR_NS = (
    2000.0  # a wait that ended this much before an operation did cannot have waited for it
)
DEFAULT_WAKE_NS = (
    10_000.0  # after a synchronise on an H100 host; used only where no wait ever had to wait
)


@dataclass(frozen=True)
class Latencies:
    """Typical latencies with the tracers' part taken out, in ns.

    `launch_ns` and `gap_ns` are by `DeviceKind`: from the launch call to the start on an idle
    stream, and from a predecessor's end to the start on a busy one. `event_ns` is from the end of
    an operation on another stream that was waited for. By `WaitKind`, `wake_ns` is from the end of
    what was waited for to the wait's end, and `return_ns` the length of a wait that had nothing to
    wait for.
    """

    launch_ns: tuple[float, float, float]
    gap_ns: tuple[float, float, float]
    event_ns: float
    wake_ns: tuple[float, float, float]
    return_ns: tuple[float, float, float]

    @classmethod
    def observed(
        cls,
        runs: Sequence[Timeline],
        costs: Costs,
        placements: Mapping[EventKind, Placement] = PLACEMENTS,
    ) -> Latencies:
        """Medians over the operations and waits of all runs whose binding constraint is beyond
        doubt.
        """
        parts = [_Observed(run, costs, placed(costs, placements)) for run in runs]
        ops = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _OP_COLUMNS}
        waits = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _WAIT_COLUMNS}
        return _typical(ops, waits)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Per operation and per wait, in ns; stamps count from the model call."""

    launched: Floats
    launch_ns: Floats
    gap_ns: Floats
    event_ns: Floats
    arrival: Floats
    core_end: Floats
    from_at: Floats
    wake_ns: Floats
    return_ns: Floats


_OP_COLUMNS = ("kind", "launch_ns", "gap_ns", "event_ns", "before_launch", "event_before_launch")
_WAIT_COLUMNS = ("wait_kind", "wake_ns", "return_ns")


class _Observed:
    """Latencies of one recording less the tracers' part; infinite where there is nothing to be late
    after.
    """

    def __init__(self, run: Timeline, costs: Costs, prices: Floats) -> None:
        self._ops(run, costs, prices)
        self._waits(run, prices)

    def _ops(self, run: Timeline, costs: Costs, prices: Floats) -> None:
        ops, origin = run.ops, run.start_ns
        self.kind = ops.kind
        start, end = (
            column.astype(np.float64) for column in (ops.start_ns - origin, ops.end_ns - origin)
        )
        known = ops.launch >= 0
        stamped = np.append(run.events.start_ns, origin)[ops.launch] - origin
        self.launched = np.where(known, stamped, start)
        inside = np.where(known, prices[np.append(run.events.kind, 0)[ops.launch], 1], 0.0)
        self.launch_ns = _less(start - self.launched, inside)
        trailing = np.where(ops.kind == DeviceKind.KERNEL, costs.kernel_ns, 0.0)
        self.done, self.trailing = end, trailing
        same = np.concatenate([[False], ops.stream[1:] == ops.stream[:-1]])[: len(start)]
        before = np.where(same, np.roll(end, 1), -np.inf)
        self.gap_ns = _less(start - before, np.where(same, np.roll(trailing, 1), 0.0))
        held = np.full(len(start), -np.inf)
        np.maximum.at(held, ops.after[:, 0], (end + trailing)[ops.after[:, 1]])
        free = np.full(len(start), -np.inf)
        np.maximum.at(free, ops.after[:, 0], end[ops.after[:, 1]])
        tail = np.subtract(held, free, out=np.zeros_like(free), where=np.isfinite(free))
        self.event_ns = _less(start - free, tail)
        self.before_launch = before - self.launched
        self.event_before_launch = free - self.launched

    def _waits(self, run: Timeline, prices: Floats) -> None:
        waits, origin = run.waits, run.start_ns
        self.wait_kind = waits.kind
        start, end = (
            column.astype(np.float64) for column in (waits.start_ns - origin, waits.end_ns - origin)
        )
        traced = waits.event >= 0
        price = prices[np.append(run.events.kind, EventKind.API)[waits.event]] * traced[:, None]
        # The wait proper lies between the payments inside the call; half the call is left to it in
        # any case.
        middle = (start + end) / 2
        self.core_end = np.maximum(
            end - price[:, 2], np.maximum(np.minimum(start + price[:, 1], end), middle)
        )
        self.arrival = np.minimum(start + price[:, 1], self.core_end)
        self.return_ns = self.core_end - self.arrival
        done = np.full(len(start), -np.inf)
        np.maximum.at(done, waits.on[:, 0], self.done[waits.on[:, 1]])
        late = np.full(len(start), -np.inf)
        np.maximum.at(late, waits.on[:, 0], (self.done + self.trailing)[waits.on[:, 1]])
        trailing = np.subtract(late, done, out=np.zeros_like(done), where=np.isfinite(done))
        self.from_at = np.where(waits.from_clock >= 0, waits.from_ns - origin, -np.inf)
        done = np.maximum(done, self.from_at)
        # A copy call may return as soon as its data is staged: such a wait depends on nothing.
        done = np.where(done > self.core_end + CLOCK_ERROR_NS, -np.inf, done)
        self.wake_ns = _less(self.core_end - done, np.where(done > self.from_at, trailing, 0.0))


def _less(observed: Floats, cost: Floats) -> Floats:
    """Observed latency without the tracers' part, which cannot be more than all of it."""
    return observed - np.clip(cost, 0.0, np.maximum(observed, 0.0))


def _medians(
    values: Floats, kind: Ints, sure: Bools, fallback: float
) -> tuple[float, float, float]:
    """Median by kind where there is one, else of all kinds, else the fallback."""
    overall = float(np.median(values[sure])) if sure.any() else fallback
    chosen = [values[sure & (kind == index)] for index in range(3)]
    first, second, third = (float(np.median(own)) if len(own) else overall for own in chosen)
    return first, second, third


def _typical(ops: dict[str, Floats], waits: dict[str, Floats]) -> Latencies:
    kind = ops["kind"].astype(np.int64)
    before, event_before = ops["before_launch"], ops["event_before_launch"]
    idle = (before <= 0) & (event_before <= 0)
    launch = _medians(ops["launch_ns"], kind, idle, float(ops["launch_ns"].min(initial=0.0)))
    # Twice the launch latency of an idle stream: by then the launch has long reached the GPU.
    surely = 2 * np.maximum(np.array(launch)[kind], 0.0)
    queued = (before > surely) & (before > event_before)
    gap = _medians(ops["gap_ns"], kind, queued, DEFAULT_GAP_NS)
    held = (event_before > surely) & (event_before > before)
    event = float(np.median(ops["event_ns"][held])) if held.any() else gap[DeviceKind.KERNEL]
    return Latencies(launch, gap, event, *_typical_waits(waits))


def _typical_waits(
    waits: dict[str, Floats],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    kind, wake, back = waits["wait_kind"].astype(np.int64), waits["wake_ns"], waits["return_ns"]
    typical_wake = _medians(wake, kind, wake < back / 2, DEFAULT_WAKE_NS)
    free = wake - back > 2 * np.array(typical_wake)[kind]
    return typical_wake, _medians(back, kind, free, 0.0)


def residuals(run: Timeline, costs: Costs, prices: Floats, typical: Latencies | None) -> Residuals:
    """Own latencies for the constraint that was binding, typical ones (never more than observed)
    for the others.

    A constraint is taken as the binding one if its latency exceeds the typical latency least.
    """
    seen = _Observed(run, costs, prices)
    if typical is None:
        ops, waits = (
            {name: getattr(seen, name) for name in names} for names in (_OP_COLUMNS, _WAIT_COLUMNS)
        )
        typical = _typical(ops, waits)
    event = np.full(len(seen.kind), typical.event_ns)
    launch, gap, event = _keep(
        (seen.launch_ns, seen.gap_ns, seen.event_ns),
        (np.array(typical.launch_ns)[seen.kind], np.array(typical.gap_ns)[seen.kind], event),
    )
    wake, back = _keep(
        (seen.wake_ns, seen.return_ns),
        (np.array(typical.wake_ns)[seen.wait_kind], np.array(typical.return_ns)[seen.wait_kind]),
    )
    wake = np.where(np.isfinite(seen.wake_ns), wake, -np.inf)
    return Residuals(
        seen.launched, launch, gap, event, seen.arrival, seen.core_end, seen.from_at, wake, back
    )


def _keep(observed: tuple[Floats, ...], typical: tuple[Floats, ...]) -> list[Floats]:
    excess = np.stack(observed) - np.stack(typical)
    binding = excess.argmin(axis=0)
    return [
        np.where(binding == index, own, np.minimum(own, usual))
        for index, (own, usual) in enumerate(zip(observed, typical, strict=True))
    ]
