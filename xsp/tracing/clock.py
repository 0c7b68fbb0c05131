"""One clock: how stamps of another clock are put on the host's monotonic clock, and how far that
can be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BRACKETS = 64
"""Readings per measurement: enough that one of them runs without an interruption between its two
clock reads.
"""

MAX_DRIFT = 5e-4
"""No kernel slews a clock faster than 500 ppm; a larger change between two readings means that it
was set.
"""


@dataclass(frozen=True)
class Reading:
    """A reading of a foreign clock between two of the monotonic clock.

    It happened somewhere in the bracket, so taking the middle is wrong by at most half the
    bracket's width.
    """

    foreign_ns: int
    before_ns: int
    after_ns: int

    @property
    def offset_ns(self) -> int:
        """Monotonic minus foreign clock."""
        return (self.before_ns + self.after_ns) // 2 - self.foreign_ns

    @property
    def error_ns(self) -> int:
        """Half the width of the bracket, rounded up."""
        return (self.after_ns - self.before_ns + 1) // 2


def read_bracketed(
    read_foreign: Callable[[], int],
    monotonic: Callable[[], int] = time.monotonic_ns,
    brackets: int = BRACKETS,
) -> Reading:
    """Read a foreign clock `brackets` times between two monotonic reads and keep the tightest
    bracket.
    """

    def attempt() -> Reading:
        before = monotonic()
        foreign = read_foreign()
        return Reading(foreign, before, monotonic())

    return min(
        (attempt() for _ in range(brackets)),
        key=lambda reading: reading.after_ns - reading.before_ns,
    )


@dataclass(frozen=True)
class ClockMap:
    """A foreign clock's relation to the monotonic clock during one session.

    `monotonic = foreign + offset_ns + drift * (foreign - reference_ns)`, wrong by at most
    `error_ns`.
    """

    offset_ns: int
    drift: float
    error_ns: int
    method: str
    reference_ns: int = 0

    def apply(self, stamps: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Stamps of the foreign clock, in ns, as int64 on the monotonic clock."""
        foreign: npt.NDArray[np.int64] = stamps.astype(np.int64)
        if self.drift == 0.0:
            return foreign + self.offset_ns
        # Only the distance from the reference is scaled: a float64 cannot hold a stamp of 2^60 ns
        # exactly.
        drifted: npt.NDArray[np.int64] = np.rint((foreign - self.reference_ns) * self.drift).astype(
            np.int64
        )
        return foreign + self.offset_ns + drifted


def same_clock(first: Reading, last: Reading) -> ClockMap:
    """The identity, for a foreign clock that reads the monotonic clock itself, with what it is
    found to be off.
    """
    error = max(_outside(first), _outside(last))
    return ClockMap(offset_ns=0, drift=0.0, error_ns=error, method="timestamp callback")


def pair_readings(first: Reading, last: Reading) -> ClockMap:
    """The line through readings at the start and the end of a session.

    If the offset moved further than the clock can have drifted, the foreign clock was set in
    between, nobody knows when, and the whole step is the error.
    """
    change = last.offset_ns - first.offset_ns
    doubt = first.error_ns + last.error_ns
    elapsed = last.foreign_ns - first.foreign_ns
    error = max(first.error_ns, last.error_ns)
    if elapsed <= 0 or abs(change) > doubt + MAX_DRIFT * elapsed:
        return ClockMap(
            first.offset_ns, 0.0, error + abs(change), "paired clocks", first.foreign_ns
        )
    return ClockMap(first.offset_ns, change / elapsed, error, "paired clocks", first.foreign_ns)


def _outside(reading: Reading) -> int:
    """How far the reading lies outside of its bracket, plus what the bracket itself leaves open."""
    return reading.error_ns + max(
        0, reading.before_ns - reading.foreign_ns, reading.foreign_ns - reading.after_ns
    )
