"""The stamps of a host clock's events, and what of them no cost changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from xsp.analysis.correction.charges import Floats
from xsp.analysis.correction.rooms import Intervals, Kinds, Numbers
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.correction.untouched import Untouched

BEFORE_START, AFTER_START, BEFORE_END, AFTER_END = range(4)
"""Columns of `charges.placed`."""


@dataclass(frozen=True, eq=False)
class Marks:
    """Events on one host clock, in ns from the model call, `untouched` time left out. `origins` are
    the call and the ends of the waits, `returned` is when the call returned.
    """

    kind: Kinds
    start: Floats
    end: Floats
    origins: Floats
    returned: Floats
    untouched: Untouched

    @classmethod
    def of(cls, run: Timeline, clock: int, ends: Floats, untouched: Untouched) -> Marks:
        """Of the events on a clock whose waits end at `ends`."""
        mine = run.events.clock == clock

        def left(stamps: Floats) -> Floats:
            return untouched.left_out(stamps.astype(np.float64))

        return cls(
            run.events.kind[mine].astype(np.int8),
            left(run.events.start_ns[mine] - run.start_ns),
            left(run.events.end_ns[mine] - run.start_ns),
            left(np.concatenate([[0.0], np.sort(ends)])),
            left(np.array([run.host_end_ns - run.start_ns])),
            untouched,
        )

    @cached_property
    def intervals(self) -> Intervals:
        """The time between stamps, which the ends of waits and of the call part, too."""
        limits = np.concatenate([self.origins, self.returned])
        return Intervals.of(self.start, self.end, limits)

    def stamp(self, place: int) -> Floats:
        """The stamp of each event that what is paid in a place lies beside."""
        return self.start if place in (BEFORE_START, AFTER_START) else self.end

    def origin_before(self, place: int) -> Floats:
        """The call or the end of a wait, whichever came last before that stamp."""
        return self.origins[self._origin[0 if place in (BEFORE_START, AFTER_START) else 1]]

    @cached_property
    def _origin(self) -> tuple[Numbers, Numbers]:
        start, end = (
            (np.searchsorted(self.origins, stamp, "right") - 1).astype(np.int32)
            for stamp in (self.start, self.end)
        )
        return start, end


_known: WeakKeyDictionary[Timeline, dict[int, Marks]] = WeakKeyDictionary()


def marks_of(run: Timeline, clock: int) -> Marks:
    """Those of a recording as it is, found once: a fit replays the same runs again and again."""
    known = _known.setdefault(run, {})
    if clock not in known:
        mine = run.waits.clock == clock
        ends = (run.waits.end_ns[mine] - run.start_ns).astype(np.float64)
        known[clock] = Marks.of(run, clock, ends, Untouched.of(run, clock))
    return known[clock]
