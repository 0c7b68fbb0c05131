"""A host thread's time without what tracers took of it."""

from __future__ import annotations

import numpy as np

from xsp.analysis.correction.charges import Floats, Ints


class HostClock:
    """Maps recorded times on one host thread to corrected times, in ns from the model call
    (float64).

    A payment that begins at p and costs c stops the corrected clock for the c ns after p; payments
    that overlap queue up. Between two waits the corrected time is thus the running maximum of t -
    (payments begun by t), which never runs backwards. At the end of each wait it restarts from the
    end that the replay finds (`resume`).
    """

    def __init__(self, begins: Floats, amounts: Floats, wait_ends: Floats) -> None:
        order = np.argsort(begins, kind="stable")
        self._begins = begins[order]
        self._paid = np.concatenate([[0.0], np.cumsum(amounts[order])])
        self._wait_ends = np.sort(wait_ends)
        origins = np.concatenate([[0.0], self._wait_ends])
        self._first = np.searchsorted(self._begins, origins, "left")
        self._origin = origins - self._paid[self._first]
        self._shift = np.full(len(origins), np.nan)
        self._ends = np.full(len(origins), np.inf)
        # Before any payment comes the segment's origin, hence the shift by one.
        self._peak = np.concatenate([[-np.inf], self._begins - self._paid[:-1]])
        self._segment = 0
        self._open(0.0)

    def _open(self, corrected: float) -> None:
        segment = self._segment
        self._shift[segment] = corrected - self._origin[segment]
        last = self._first[segment + 1] if segment + 1 < len(self._first) else len(self._begins)
        mine = slice(self._first[segment] + 1, last + 1)
        self._peak[mine] = np.maximum.accumulate(self._peak[mine])

    def resume(self, corrected_end: float) -> None:
        """End the next wait of this thread at a corrected time."""
        self._ends[self._segment] = corrected_end
        self._segment += 1
        self._open(corrected_end)

    def here(self, time: float) -> float:
        """Corrected time of a stamp before the end of the wait that is next to end."""
        return float(self._evaluate(np.array([time]), np.array([self._segment]))[0])

    def at(self, times: Floats) -> Floats:
        """Corrected times; NaN after a wait whose end has not been found yet."""
        return self._evaluate(times, np.searchsorted(self._wait_ends, times, "right"))

    def _evaluate(self, times: Floats, segment: Ints) -> Floats:
        begun = np.maximum(np.searchsorted(self._begins, times, "right"), self._first[segment])
        peak = np.where(begun > self._first[segment], self._peak[begun], self._origin[segment])
        corrected = np.maximum(peak, times - self._paid[begun]) + self._shift[segment]
        before_wait_ends: Floats = np.minimum(corrected, self._ends[segment])
        return before_wait_ends
