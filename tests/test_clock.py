"""Mapping of foreign clocks, on clocks whose truth is known."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsp.tracing.clock import Reading, pair_readings, read_bracketed, same_clock

YEAR_2026_NS = 1_780_000_000 * 10**9


def reading(foreign: int, monotonic: int, width: int = 100) -> Reading:
    """A reading whose true monotonic time is in the middle of its bracket."""
    return Reading(foreign, monotonic - width // 2, monotonic + width // 2)


@given(
    offset=st.integers(-(10**18), 10**9),
    ppm=st.floats(-400, 400),
    elapsed=st.integers(10**6, 10**12),
    where=st.floats(0, 1),
    slip=st.floats(-1, 1),
)
def test_pairing_is_right_within_its_error(
    offset: int, ppm: float, elapsed: int, where: float, slip: float
) -> None:
    """A drifting clock read off-centre in its brackets is mapped within the stated error."""
    begin = 5 * 10**9

    def foreign(monotonic: int) -> int:
        return monotonic - offset - round((monotonic - begin) * ppm * 1e-6)

    shift = round(slip * 50)
    first = Reading(foreign(begin + shift), begin - 50, begin + 50)
    last = Reading(foreign(begin + elapsed - shift), begin + elapsed - 50, begin + elapsed + 50)
    clock = pair_readings(first, last)
    truth = begin + round(where * elapsed)
    mapped = int(clock.apply(np.array([foreign(truth)], np.uint64))[0])
    assert abs(mapped - truth) <= clock.error_ns + 2  # two roundings to whole nanoseconds


def test_large_stamps_keep_their_nanoseconds() -> None:
    """Stamps of the real-time clock, beyond a float's 53 bits, are mapped without rounding."""
    first, last = reading(YEAR_2026_NS, 10**9), reading(YEAR_2026_NS + 10**9, 2 * 10**9 + 10_000)
    stamps = np.array([YEAR_2026_NS, YEAR_2026_NS + 1, YEAR_2026_NS + 10**9], np.uint64)
    assert pair_readings(first, last).apply(stamps).tolist() == [
        10**9,
        10**9 + 1,
        2 * 10**9 + 10_000,
    ]


def test_a_clock_that_was_set_widens_the_error() -> None:
    """A step between the readings is no drift: the error then covers the whole step."""
    clock = pair_readings(reading(10**9, 10**9), reading(2 * 10**9 + 5_000_000, 2 * 10**9))
    assert clock.drift == 0
    assert clock.error_ns >= 5_000_000


def test_same_clock_is_the_identity_with_a_measured_error() -> None:
    """Stamps of the monotonic clock stay as they are; how far the clock is off its brackets is in
    the error.
    """
    good = same_clock(reading(1000, 1000), reading(2000, 2000))
    assert good.apply(np.array([7, 8], np.uint64)).tolist() == [7, 8]
    assert good.error_ns == 50
    assert same_clock(reading(1000, 1000), reading(2400, 2000)).error_ns == 50 + 350


def test_tightest_bracket_is_kept() -> None:
    """One interrupted reading among many does not spoil the measurement."""
    ticks = iter([0, 900, 1000, 1010, 2000, 2500])
    best = read_bracketed(lambda: 42, lambda: next(ticks), brackets=3)
    assert best == Reading(42, 1000, 1010)


def test_monotonic_clock_against_itself() -> None:
    """Reading the host's own clock as if it were foreign finds it the same within its
    small error.
    """
    first, last = read_bracketed(time.monotonic_ns), read_bracketed(time.monotonic_ns)
    assert abs(first.offset_ns) <= first.error_ns
    assert same_clock(first, last).error_ns < 100_000
