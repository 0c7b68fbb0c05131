"""The time between stamps, in which a tracer's work must have been done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction.charges import Floats, Ints
from xsp.analysis.spans.sums import distinct

Numbers = npt.NDArray[np.int32]
Kinds = Ints | npt.NDArray[np.int8]

MOST_OVER_MEAN = 2.0
"""An event pays no more than so many times the mean of its kind, whatever room it has: else few
events would pay for all that have none.
"""


@dataclass(frozen=True, eq=False)
class Intervals:
    """The intervals between stamps of events on one clock: how long each is (infinite before the
    first stamp and after the last), and which is the one before each event's start and end.
    """

    lengths: Floats
    before_start: Numbers
    before_end: Numbers

    @classmethod
    def of(cls, start: Floats, end: Floats, limits: Floats) -> Intervals:
        """A payment lies between its stamp and the one next to it. `limits` are times that no
        payment goes across, beside the stamps.
        """
        marks = distinct(np.concatenate([start, end, limits]))
        # Interval i is the one before mark i.
        lengths = np.concatenate([[np.inf], np.diff(marks), [np.inf]])
        before_start, before_end = (
            np.searchsorted(marks, stamp).astype(np.int32) for stamp in (start, end)
        )
        return cls(lengths, before_start, before_end)

    def rooms(self, kind: Kinds, weight: Floats) -> Floats:
        """The time that is there for each payment, of shape (4, events). Where several lie in one
        interval they divide it by `weight`, of shape (7, 4) by `EventKind` and place.
        """
        demand = np.zeros(len(self.lengths))
        for place, wanted in self._wanted(kind, weight):
            demand += np.bincount(self._of_place(place), wanted, len(demand))
        each = np.divide(self.lengths, demand, out=np.zeros_like(demand), where=demand > 0)
        found = np.zeros((4, len(kind)))
        for place, wanted in self._wanted(kind, weight):
            # Nothing times a room without limit is no number.
            some = each[self._of_place(place)]
            np.multiply(wanted, some, out=found[place], where=wanted > 0)
        return found

    def rooms_of_kinds(self, kind: Kinds, weight: Floats) -> Floats:
        """The same for each kind as if no other kind paid."""
        found = np.zeros((4, len(kind)))
        for one in distinct(kind).tolist():
            mine = kind == one
            of_kind = Intervals(self.lengths, self.before_start[mine], self.before_end[mine])
            found[:, mine] = of_kind.rooms(kind[mine], weight)
        return found

    def _of_place(self, place: int) -> Numbers:
        """The interval that each event pays in at a place."""
        before = self.before_start if place < 2 else self.before_end
        return before + np.int32(place % 2)

    def _wanted(self, kind: Kinds, weight: Floats) -> Iterator[tuple[int, Floats]]:
        """By place where anything is wanted, what each event wants."""
        for place in np.flatnonzero(weight[distinct(kind)].any(axis=0)).tolist():
            yield place, weight[:, place][kind]


def divided(price: float, room: Floats) -> Floats:
    """What each of several payments is if they are `price` on average: none is more than its room,
    and the others make up for it. All together they are less where there is not room enough.
    """
    number = len(room)
    if not number or room.min() >= price:
        return np.full(number, price)
    most = np.minimum(room, MOST_OVER_MEAN * price)
    ranked = np.sort(most)
    left = number * price - np.concatenate([[0.0], np.cumsum(ranked)[:-1]])
    level = left / np.arange(number, 0, -1)
    fits = np.flatnonzero(level <= ranked)
    paid: Floats = np.minimum(most, level[fits[0]]) if len(fits) else most
    return paid
