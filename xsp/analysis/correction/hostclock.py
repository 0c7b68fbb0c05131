"""A host thread's time without what tracers took of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xsp.analysis.correction.charges import MAIN_SHARE, SHARES, Bools, Floats, Ints
from xsp.analysis.correction.marks import BEFORE_END, BEFORE_START, Marks
from xsp.analysis.correction.rooms import Kinds, divided
from xsp.analysis.correction.untouched import Untouched
from xsp.analysis.spans.sums import distinct


@dataclass(frozen=True, eq=False)
class Payments:
    """What tracers took on one host clock, in the order in which the payments begin.

    `begins` (ns from the model call, `untouched` time left out) and `amount` (ns); `kind` is the
    `EventKind` whose cost is paid, `share` the part of it. `moves` is True where the payment begins
    earlier the higher the cost is, as one that ends at a stamp does.
    """

    begins: Floats
    amount: Floats
    kind: Kinds
    share: Floats
    moves: Bools

    @classmethod
    def of(
        cls, marks: Marks, prices: Floats, shares: Floats, between_stamps: bool = False
    ) -> Payments:
        """Payments of the events of a clock.

        `prices` and `shares` are by `EventKind` and place of payment, shape (7, 4). With
        `between_stamps` none is longer than the time between the stamps where it lies, and prices
        are means over the events of a kind (`rooms`).
        """
        kind = marks.kind
        if between_stamps:
            amounts = _divided(kind, prices, marks.intervals.rooms(kind, prices))
        else:
            amounts = prices.T[:, kind]
        parts = [_paid_at(marks, amounts[place], place) for place in range(4)]
        begins, amount, paid, moves = (np.concatenate(c) for c in zip(*parts, strict=True))
        del amounts, parts
        order = np.argsort(begins, kind="stable")
        paid = paid[order]
        return cls(begins[order], amount[order], paid // 4, shares.ravel()[paid], moves[order])


def _divided(kind: Kinds, prices: Floats, room: Floats) -> Floats:
    """What is paid by place and event, if prices are the means of each kind and place. How a kind
    pays at its main places is assumed: what one has no room for, the other can pay.
    """
    amount = np.zeros_like(room)
    for one in distinct(kind).tolist():
        mine = kind == one
        main = SHARES[one] >= MAIN_SHARE
        for places in (np.flatnonzero(main), np.flatnonzero(~main & (SHARES[one] > 0))):
            each = float(prices[one, places].mean()) if len(places) else 0.0
            if each > 0:
                own = np.ix_(places, mine)
                amount[own] = divided(each, room[own].ravel()).reshape(len(places), -1)
    return amount


def _paid_at(marks: Marks, amount: Floats, place: int) -> tuple[Floats, Floats, Kinds, Bools]:
    """The payments of one place that cost something: when they begin, their amounts, four times
    their kind and their place, and whether they move.
    """
    costs = amount > 0
    paid = slice(None) if costs.all() else costs
    amount = amount[paid]
    code = (marks.kind[paid] * 4 + place).astype(np.int8)
    stamp = marks.stamp(place)[paid]
    if place in (BEFORE_START, BEFORE_END):
        # A price above the true one would otherwise begin too early, where the clock does not
        # count it, and be lost.
        begins = np.maximum(stamp - amount, marks.origin_before(place)[paid])
        moves = begins == stamp - amount
    else:
        begins, moves = stamp, np.zeros(len(stamp), bool)
    return begins, amount, code, moves


class HostClock:
    """Maps recorded times on one host thread to corrected times, in ns from the model call
    (float64).

    A payment that begins at p and costs c stops the corrected clock for the c ns after p; payments
    that overlap queue up. Between two waits the corrected time is thus the running maximum of t -
    (payments begun by t), which never runs backwards. The ends of the waits cut the recorded time
    into segments. How much corrected time has passed in a segment does not depend on the others
    (`elapsed`); when each begins, the replay finds (`resume`).

    All that holds of time without the untouched pieces, in which the clock runs in any case.
    """

    def __init__(self, payments: Payments, wait_ends: Floats, untouched: Untouched) -> None:
        self.payments, self.untouched = payments, untouched
        self._paid = np.concatenate([[0.0], np.cumsum(payments.amount)])
        self._wait_ends = np.sort(wait_ends)
        recorded = np.concatenate([[0.0], self._wait_ends])
        self._untouched_before = untouched.before(recorded)
        origins = recorded - self._untouched_before
        self._first = np.searchsorted(payments.begins, origins, "left")
        self._last = np.append(self._first[1:], len(payments.begins))
        self._origin = origins - self._paid[self._first]
        self._peak = self._running_maximum()
        self._segment = 0
        # One more than there are segments: the end of the last one is not known.
        self.opened = np.full(len(origins) + 1, np.nan)
        self.opened[0] = 0.0

    def _running_maximum(self) -> Floats:
        """By number of payments begun, the least that the clock shows since its segment began."""
        # Before any payment comes the segment's origin, hence the shift by one.
        peak = np.concatenate([[-np.inf], self.payments.begins - self._paid[:-1]])
        for first, last in zip(self._first.tolist(), self._last.tolist(), strict=True):
            mine = peak[first + 1 : last + 1]
            np.maximum.accumulate(mine, out=mine)
        return peak

    def resume(self, corrected_end: float) -> None:
        """End the next wait of this thread at a corrected time."""
        self._segment += 1
        self.opened[self._segment] = corrected_end

    def segment_of(self, times: Floats) -> Ints:
        """The segment that each recorded time lies in."""
        return np.searchsorted(self._wait_ends, times, "right")

    def elapsed(self, times: Floats, segment: Ints) -> Floats:
        """Corrected time from the beginning of the given segments to recorded times."""
        first, origin = self._first[segment], self._origin[segment]
        untouched = self.untouched.before(times)
        times = times - untouched
        # What begins as a segment ends belongs to the next one.
        begun = np.searchsorted(self.payments.begins, times, "right")
        begun = np.clip(begun, first, self._last[segment])
        peak = np.where(begun > first, self._peak[begun], origin)
        passed: Floats = np.maximum(peak, times - self._paid[begun]) - origin
        return passed + (untouched - self._untouched_before[segment])

    def at(self, times: Floats) -> Floats:
        """Corrected times; NaN after a wait whose end has not been found yet."""
        segment = self.segment_of(times)
        corrected = self.elapsed(times, segment) + self.opened[segment]
        # No later than the end of the wait that ends the segment, where that is known.
        before_wait_ends: Floats = np.fmin(corrected, self.opened[segment + 1])
        return before_wait_ends

    def counted(self, time: float, segment: int) -> slice:
        """The payments that stop the clock between a segment's beginning and a recorded time."""
        first, last = int(self._first[segment]), int(self._last[segment])
        time = float(self.untouched.left_out(np.array([time]))[0])
        begun = int(np.searchsorted(self.payments.begins, time, "right"))
        begun = min(max(begun, first), last)
        if begun == first or time - self._paid[begun] >= self._peak[begun]:
            return slice(first, begun)
        # The clock still stands for a payment: of it and of later ones nothing is counted, except
        # that one which ends at a stamp has moved its own beginning.
        standing = first + int(
            np.searchsorted(self._peak[first + 1 : begun + 1], self._peak[begun], "left")
        )
        return slice(first, standing + int(self.payments.moves[standing]))
