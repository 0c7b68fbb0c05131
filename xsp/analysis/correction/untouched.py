"""Recorded time that no payment takes away: a part of every event, so that none comes out as
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from xsp.analysis.correction.charges import Bools, Floats, Ints
from xsp.analysis.correction.timeline import Timeline

LEAST_LEFT = 0.1
"""Of an event in which no other one lies, what it keeps whatever its payments and those that are
carried into it. An operation that is nine tenths tracing is nowhere known to occur.
"""


def _none() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Untouched:
    """Pieces of a host clock's recorded time, in ns from the model call: `start` and `end` are
    sorted, and no two pieces overlap.
    """

    start: Floats = field(default_factory=_none)
    end: Floats = field(default_factory=_none)

    @classmethod
    def of(cls, run: Timeline, clock: int) -> Untouched:
        """The last part of every event on the clock that has no stamp and no wait inside, in whole
        ns; an event that holds others keeps what these keep: nothing, if none of them lasts a ns,
        since what lies beside them can all be the tracers' time.
        """
        mine = run.events.clock == clock
        start, end = run.events.start_ns[mine], run.events.end_ns[mine]
        waits = run.waits.clock == clock
        innermost = _without_inside(start, end, np.concatenate([start, end]))
        innermost &= ~_overlapping(start, end, run.waits.start_ns[waits], run.waits.end_ns[waits])
        # Two events can have the same stamps.
        end, first = np.unique(end[innermost], return_index=True)
        length = end - start[innermost][first]
        kept = np.ceil(LEAST_LEFT * length).astype(np.int64)
        until = (end - run.start_ns).astype(np.float64)
        return cls(until - kept, until)

    @cached_property
    def _knots(self) -> tuple[Floats, Floats]:
        """Times between which untouched time grows evenly, and how much has passed at each."""
        knots = np.stack([self.start, self.end], axis=1).ravel()
        kept = np.cumsum(self.end - self.start)
        passed = np.stack([np.append(0.0, kept[:-1]), kept], axis=1).ravel()
        return knots, passed

    def before(self, times: Floats) -> Floats:
        """How much untouched time lies before each of these times."""
        if not len(self.start):
            return np.zeros(len(times))
        found: Floats = np.interp(times, *self._knots)
        return found

    def left_out(self, times: Floats) -> Floats:
        """Times on a clock that does not run in the untouched pieces."""
        shortened: Floats = times - self.before(times)
        return shortened


def _without_inside(start: Ints, end: Ints, stamps: Ints) -> Bools:
    """Which intervals have a length and none of the stamps strictly inside."""
    ranked = np.sort(stamps)
    first = np.searchsorted(ranked, start, "right")
    found: Bools = (start < end) & (first == np.searchsorted(ranked, end, "left"))
    return found


def _overlapping(start: Ints, end: Ints, wait_start: Ints, wait_end: Ints) -> Bools:
    """Which intervals without stamps inside share more than a point with a wait."""
    begun = np.searchsorted(np.sort(wait_start), end, "left")
    over = np.searchsorted(np.sort(wait_end), start, "right")
    found: Bools = begun > over
    return found
