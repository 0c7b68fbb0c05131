"""The time between stamps, in which a tracer's work must have been done."""

from __future__ import annotations

import numpy as np

from xsp.analysis.correction.charges import Floats, Ints
from xsp.analysis.spans.sums import distinct

MOST_OVER_MEAN = 2.0
"""An event pays no more than so many times the mean of its kind, whatever room it has: else few
events would pay for all that have none.
"""


def rooms(kind: Ints, start: Floats, end: Floats, weight: Floats, limits: Floats) -> Floats:
    """The time that is there for each payment of events on one clock, of shape (events, 4), by
    place of payment.

    A payment lies between its stamp and the one next to it. Where several lie in one interval they
    divide it by `weight`, of shape (7, 4) by `EventKind` and place. `limits` are times that no
    payment goes across, beside the stamps. Infinite before the first and after the last of all.
    """
    lengths, interval = _intervals(start, end, limits)
    return _shared(lengths, interval, weight[kind])


def rooms_of_kinds(kind: Ints, start: Floats, end: Floats, weight: Floats) -> Floats:
    """The same for each kind as if no other kind paid."""
    lengths, interval = _intervals(start, end, np.zeros(0))
    kinds = len(weight)
    return _shared(np.repeat(lengths, kinds), interval * kinds + kind[:, None], weight[kind])


def _intervals(start: Floats, end: Floats, limits: Floats) -> tuple[Floats, Ints]:
    """Lengths of the intervals between stamps, and by event and place in which one it pays."""
    marks = distinct(np.concatenate([start, end, limits]))
    # Interval i is the one before mark i.
    lengths = np.concatenate([[np.inf], np.diff(marks), [np.inf]])
    before_start, before_end = np.searchsorted(marks, start), np.searchsorted(marks, end)
    places = (before_start, before_start + 1, before_end, before_end + 1)
    return lengths, np.stack(places, axis=1)


def _shared(lengths: Floats, interval: Ints, wanted: Floats) -> Floats:
    """Of each interval what every payment in it gets, in proportion to what is wanted."""
    demand = np.bincount(interval.ravel(), wanted.ravel(), len(lengths)).astype(np.float64)
    each = np.divide(lengths, demand, out=np.zeros_like(demand), where=demand > 0)
    found = np.zeros_like(wanted)
    # Nothing times a room without limit is no number.
    np.multiply(wanted, each[interval], out=found, where=wanted > 0)
    return found


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
