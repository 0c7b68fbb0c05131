"""Unix time, on which loadgen schedules, as the monotonic clock, on which everything is stamped."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_READINGS = 20
SLEW = 500e-6
"""The kernel slews its clock by no more (adjtimex(2)); what is beyond it was a step."""
SLACK_NS = 50_000


class Reading(NamedTuple):
    """Unix time less the monotonic clock, and when that was read, in ns."""

    monotonic_ns: int
    offset_ns: int


def reading() -> Reading:
    """The tightest of several readings of both clocks."""
    best: tuple[int, Reading] | None = None
    for _ in range(_READINGS):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        middle = (before + after) // 2
        if best is None or after - before < best[0]:
            best = (after - before, Reading(middle, unix - middle))
    assert best is not None  # noqa: S101  (there are readings)
    return best[1]


def monotonic_of(
    unix_ns: npt.NDArray[np.int64], before: Reading, after: Reading
) -> npt.NDArray[np.int64]:
    """Unix times between two readings on the monotonic clock; the clocks drift apart evenly."""
    passed = max(after.monotonic_ns - before.monotonic_ns, 1)
    drift = after.offset_ns - before.offset_ns
    since = (unix_ns - before.offset_ns) - before.monotonic_ns
    drifted = np.rint(since * (drift / passed)).astype(np.int64)
    return np.asarray(unix_ns - before.offset_ns - drifted)


def stepped(before: Reading, after: Reading) -> str | None:
    """A sentence if unix time was set while a test ran."""
    drift = abs(after.offset_ns - before.offset_ns)
    passed = after.monotonic_ns - before.monotonic_ns
    if drift <= SLACK_NS + SLEW * passed:
        return None
    return (
        f"the machine's clock was set by {drift / 1e6:.3f} ms during the test, so the scheduled "
        "times, and latencies, are uncertain by that"
    )
