"""Runs of a few events, operations and waits, as the replay works on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xsp.analysis.correction.charges import EventKind
from xsp.analysis.correction.timeline import (
    DeviceOps,
    HostEvents,
    HostWaits,
    Timeline,
    WaitKind,
)

BEGIN = 7
"""Of the model call, in ns."""


def ints(*values: int) -> Any:
    """A column of whole numbers."""
    return np.array(values, dtype=np.int64)


def pairs(*values: tuple[int, int]) -> Any:
    """Pairs of what waits and what it waits for."""
    return np.array(values, dtype=np.int64).reshape(-1, 2)


NO_EVENTS = HostEvents(ints(), ints(), ints(), ints())
NO_OPERATIONS = DeviceOps(ints(), ints(), ints(), ints(), ints(), ints(), pairs())
NO_WAITS = HostWaits(ints(), ints(), ints(), ints(), ints(), ints(), ints(), pairs())


def run_of(
    events: HostEvents = NO_EVENTS,
    operations: DeviceOps = NO_OPERATIONS,
    waits: HostWaits = NO_WAITS,
) -> Timeline:
    """One run on one host clock."""
    end = BEGIN + 1_000_000
    return Timeline(BEGIN, end, end, {1: 0}, events, operations, waits, ())


def events_at(kind: EventKind, *spans: tuple[int, int]) -> HostEvents:
    """Host events of one kind, in ns from the model call."""
    start, end = (BEGIN + ints(*column) for column in zip(*spans, strict=True))
    each = np.zeros(len(start), dtype=np.int64)
    return HostEvents(each, each + kind, start, end)


def operations_at(
    kind: list[int],
    stream: list[int],
    spans: list[tuple[int, int]],
    launch: list[int],
    *after: tuple[int, int],
) -> DeviceOps:
    """Device operations, in ns from the model call."""
    start, end = (BEGIN + ints(*column) for column in zip(*spans, strict=True))
    rows = np.arange(len(start))
    return DeviceOps(ints(*kind), ints(*stream), start, end, ints(*launch), rows, pairs(*after))


def waits_at(
    spans: list[tuple[int, int]],
    event: list[int],
    *on: tuple[int, int],
    from_ns: tuple[int, ...] = (),
) -> HostWaits:
    """Host waits for the device, or for a thread where `from_ns` has a time from the model call."""
    start, end = (BEGIN + ints(*column) for column in zip(*spans, strict=True))
    each = np.zeros(len(start), dtype=np.int64)
    freed = np.array([at >= 0 for at in from_ns] or [False] * len(start))
    stamps = ints(*from_ns) if from_ns else each
    return HostWaits(
        clock=each,
        kind=np.where(freed, WaitKind.THREAD, WaitKind.SYNCHRONIZE),
        start_ns=start,
        end_ns=end,
        event=ints(*event),
        from_clock=np.where(freed, 1, -1),
        from_ns=np.where(freed, BEGIN + stamps, -1),
        on=pairs(*on),
    )
