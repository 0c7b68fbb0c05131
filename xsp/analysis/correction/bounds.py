"""What no cost can be above, read off the recordings themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsp.analysis.correction.charges import MAIN_SHARE, SHARES, EventKind, Floats, Ints
from xsp.analysis.correction.rooms import MOST_OVER_MEAN, Intervals
from xsp.analysis.correction.timeline import HostEvents, Timeline
from xsp.analysis.spans.statistics import trimmed_mean
from xsp.types import DeviceKind

LEAST_GAP = 0.05
"""Quantile of the gaps between kernels: as near to the least as errors of the stamps allow."""

ROOM_TRIM = 0.05
"""Share of the events with the least and with the most room that does not count for how much most
have: a thread that was put to sleep between two stamps has room for anything.
"""

MEAN_OVER_SEEN = 1.05
"""A cost is the mean of all runs, the room for it that of the few that are replayed."""


def ceilings(runs: Sequence[Timeline]) -> Floats:
    """What one event of each kind can have cost at most, ns, in the order of `COST_LEVELS`;
    infinite where the runs do not tell.

    Each kind has all the time between two stamps to itself here. How kinds divide it is what the
    fit is to find: a share that was assumed would be no bound, and kept costs too low.
    """
    rooms = np.concatenate([_rooms(run.events) for run in runs])
    kinds = np.concatenate([run.events.kind for run in runs])
    host = [_typical_room(rooms[kinds == kind]) for kind in EventKind]
    return np.array([*host, _least_gap(runs)])


def _typical_room(rooms: Floats) -> float:
    """Their mean, as if none were more than so many times as long as most are."""
    known = rooms[np.isfinite(rooms)]
    if not len(known):
        return np.inf
    most = MOST_OVER_MEAN * float(trimmed_mean(known, ROOM_TRIM))
    return MEAN_OVER_SEEN * float(np.minimum(known, most).mean())


def _rooms(events: HostEvents) -> Floats:
    """What each event can have cost by the time between stamps that is there for its kind, ns.

    What a tracer does for an event lies between the event's stamps and those next to them. An event
    right after another of its kind has the time from the one's end to its own start, of which the
    other's end takes a part, and so on.
    """
    rooms = np.zeros(len(events.kind))
    for clock in np.unique(events.clock):
        mine = events.clock == clock
        rooms[mine] = _rooms_on_clock(events.kind[mine], events.start_ns[mine], events.end_ns[mine])
    return rooms


def _rooms_on_clock(kind: Ints, start: Ints, end: Ints) -> Floats:
    shares = np.where(SHARES >= MAIN_SHARE, SHARES, 0.0)
    begins, ends = start.astype(np.float64), end.astype(np.float64)
    by_place = Intervals.of(begins, ends, np.zeros(0)).rooms_of_kinds(kind, shares)
    found: Floats = by_place.sum(axis=0) / shares.sum(axis=1)[kind]
    return found


def _least_gap(runs: Sequence[Timeline]) -> float:
    """A low quantile of the gaps after kernels that had a successor waiting; infinite if no
    operation waited.
    """
    gaps = []
    for run in runs:
        ops = run.ops
        launched = np.append(run.events.end_ns, np.iinfo(np.int64).max)[ops.launch]
        follows = (ops.stream[1:] == ops.stream[:-1]) & (ops.kind[:-1] == DeviceKind.KERNEL)
        queued = follows & (launched[1:] < ops.end_ns[:-1])
        gaps.append((ops.start_ns[1:] - ops.end_ns[:-1])[queued])
    found = np.concatenate(gaps)
    found = found[found >= 0]
    return float(np.quantile(found, LEAST_GAP)) if len(found) else np.inf
