"""A host thread's time without what tracers took of it, on payments that are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xsp.analysis.correction.charges import EventKind
from xsp.analysis.correction.hostclock import HostClock, Payments
from xsp.analysis.correction.marks import Marks
from xsp.analysis.correction.untouched import Untouched

BEFORE, AFTER = 20.0, 10.0
"""What a layer pays before its start and after its end, in ns."""


def paid(events: list[tuple[int, int]], ends: list[float]) -> list[tuple[float, float, bool]]:
    """When layers of these stamps pay, how much, and whether a higher price would begin earlier."""
    start, end = np.array(events, dtype=np.int64).reshape(-1, 2).T
    # The last event is another thread's.
    clock = np.zeros(len(events) + 1, np.int64)
    clock[-1] = 1
    run: Any = SimpleNamespace(
        events=SimpleNamespace(
            clock=clock,
            kind=np.full(len(clock), EventKind.LAYER),
            start_ns=np.append(start, 1) + 1000,
            end_ns=np.append(end, 999) + 1000,
        ),
        start_ns=1000,
        host_end_ns=2000,
    )
    prices = np.zeros((6, 4))
    prices[EventKind.LAYER] = BEFORE, 0.0, 0.0, AFTER
    made = Payments.of(Marks.of(run, 0, np.array(ends), Untouched()), prices, prices / 30)
    assert made.kind.tolist() == [EventKind.LAYER] * len(made.begins)
    return list(zip(made.begins.tolist(), made.amount.tolist(), made.moves.tolist(), strict=True))


@pytest.mark.parametrize(
    ("start", "begins", "moves"),
    [
        (200, 180.0, True),
        (121, 101.0, True),
        (120, 100.0, True),
        (119, 100.0, False),
        (105, 100.0, False),
        (100, 100.0, False),
        (95, 75.0, True),
        (70, 60.0, False),
        (30, 10.0, True),
        (5, 0.0, False),
    ],
)
def test_what_is_paid_before_a_stamp_begins_after_the_last_wait(
    start: int, begins: float, moves: bool
) -> None:
    """Not in it, nor before the call, whatever the price; what is paid after a stamp begins
    there.
    """
    before, after = paid([(start, start + 50)], ends=[100.0, 60.0])
    assert before == (begins, BEFORE, moves)
    assert after == (start + 50, AFTER, False)


def test_payments_come_in_the_order_in_which_they_begin() -> None:
    """Those of all events of the thread, of no other's."""
    found = paid([(300, 310), (200, 400)], ends=[])
    assert [begins for begins, _, _ in found] == [180.0, 280.0, 310.0, 400.0]
    assert paid([], ends=[]) == []


def payments(*begins_and_amounts: tuple[float, float]) -> Payments:
    """Payments of layers."""
    begins, amount = np.array(begins_and_amounts, dtype=np.float64).reshape(-1, 2).T
    number = len(begins)
    moves = np.arange(number) % 2 == 1
    return Payments(begins, amount, np.zeros(number, np.int64), np.ones(number), moves)


def read(clock: HostClock, *times: float) -> list[float]:
    """The corrected times."""
    found: list[float] = clock.at(np.array(times)).tolist()
    return found


def test_the_clock_stands_while_something_is_paid() -> None:
    """Payments that overlap queue up, and what is paid is lost for good."""
    one = HostClock(payments((10, 5)), np.zeros(0), Untouched())
    assert read(one, 0, 8, 10, 12, 15, 16, 100) == [0, 8, 10, 10, 10, 11, 95]
    two = HostClock(payments((10, 5), (12, 5)), np.zeros(0), Untouched())
    assert read(two, 10, 12, 19, 20, 21) == [10, 10, 10, 10, 11]
    apart = HostClock(payments((10, 5), (30, 5)), np.zeros(0), Untouched())
    assert read(apart, 29, 30, 34, 35, 40) == [24, 25, 25, 25, 30]


def test_after_a_wait_the_clock_goes_on_where_the_wait_ended() -> None:
    """Which the replay finds; until then it is not known. What was paid before the wait does not
    count behind it, and no time before it is later than its end.
    """
    clock = HostClock(payments((10, 5), (45, 20), (50, 2)), np.array([50.0]), Untouched())
    assert read(clock, 20, 49) == [15, 40]
    assert np.isnan(read(clock, 50, 60)).all()
    clock.resume(30.0)
    assert read(clock, 20, 49) == [15, 30]
    assert read(clock, 50, 51, 52, 60) == [30, 30, 30, 38]
    assert clock.segment_of(np.array([0, 49, 50, 51])).tolist() == [0, 0, 1, 1]


def test_time_that_nothing_can_be_paid_in_runs_in_any_case() -> None:
    """Payments are in time without it."""
    untouched = Untouched(np.array([12.0]), np.array([14.0]))
    clock = HostClock(payments((10, 5)), np.zeros(0), untouched)
    assert read(clock, 10, 12, 13, 14, 17, 20) == [10, 10, 11, 12, 12, 15]


def test_payments_that_are_over_are_counted() -> None:
    """Of one for which the clock still stands nothing is, but where it ends at a stamp."""
    clock = HostClock(payments((10, 5), (30, 5), (50, 5)), np.array([40.0]), Untouched())
    counted = [clock.counted(time, 0) for time in (9, 14, 15, 29, 31, 35, 60)]
    assert [(each.start, each.stop) for each in counted] == [
        (0, 0),
        (0, 0),
        (0, 1),
        (0, 1),
        (0, 2),
        (0, 2),
        (0, 2),
    ]
    assert [clock.counted(time, 1).stop for time in (45, 52, 55)] == [2, 2, 3]
