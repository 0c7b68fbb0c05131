"""The time between stamps is the most that the tracers' work in it can have taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsp.analysis.correction.rooms import MOST_OVER_MEAN, Intervals, divided

INF = np.inf
NO_LIMITS = np.zeros(0)


def times(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_payments_of_one_interval_divide_it_by_their_weights() -> None:
    """Of two events one after the other, what the first pays after its end and what the second pays
    before its start lie between the same stamps; before all and after all there is no limit, and
    what pays nothing at a place has no room there, even where there is no limit.
    """
    weight = np.array([[1.0, 0.0, 0.0, 3.0], [1.0, 2.0, 0.0, 0.0]])
    kind, start, end = np.array([0, 1]), times(0, 140), times(100, 160)
    found = Intervals.of(start, end, NO_LIMITS).rooms(kind, weight).T
    assert found.tolist() == [[INF, 0, 0, 30], [10, 20, 0, 0]]


def test_who_pays_nothing_after_the_last_stamp_has_no_room_there() -> None:
    """Another event that ends at the same stamp pays after it, without limit. Nothing is divided by
    nothing on the way.
    """
    weight = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    with np.errstate(all="raise"):
        intervals = Intervals.of(times(0, 20), times(50, 50), NO_LIMITS)
        found = intervals.rooms(np.array([0, 1]), weight).T
    assert found.tolist() == [[0, 0, 0, 0], [0, 30, 0, INF]]


def test_no_payment_goes_across_a_limit() -> None:
    """The end of a wait parts an interval as a stamp does."""
    weight = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    kind, start, end = np.array([0, 1]), times(10, 50), times(20, 60)
    assert Intervals.of(start, end, NO_LIMITS).rooms(kind, weight).T.tolist() == [
        [INF, 0, 0, 15],
        [15, 0, 0, 0],
    ]
    assert Intervals.of(start, end, times(26)).rooms(kind, weight).T.tolist() == [
        [INF, 0, 0, 6],
        [24, 0, 0, 0],
    ]


def test_each_kind_has_the_room_that_it_has_without_the_others() -> None:
    """Kinds are asked by themselves: what another kind pays in the interval takes nothing."""
    weight = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    kind, start, end = np.array([0, 1, 1]), times(0, 140, 200), times(100, 160, 210)
    found = Intervals.of(start, end, NO_LIMITS).rooms_of_kinds(kind, weight).T
    assert found.tolist() == [[INF, 0, 0, 40], [40, 0, 0, 20], [20, 0, 0, INF]]


@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 3000) | st.just(INF), min_size=1, max_size=12),
)
def test_payments_are_as_large_on_average_as_there_is_room(
    price: float, given: list[float]
) -> None:
    """None is negative, above its room or above twice the mean; together they are as many times the
    price as there are of them, unless there is not that much room; and those that have room alike
    pay alike.
    """
    room = np.array(given)
    paid = divided(price, room)
    most = np.minimum(room, MOST_OVER_MEAN * price)
    assert (paid >= 0).all()
    assert (paid <= np.maximum(most, 0) * (1 + 1e-9)).all()
    assert paid.sum() == pytest.approx(min(price * len(room), most.sum()))
    below = paid < most * (1 - 1e-9)
    if below.any():
        assert paid[below] == pytest.approx(paid[below][0])
        assert paid.max() == pytest.approx(paid[below][0])


def test_what_has_room_pays_the_price() -> None:
    """Where every payment fits, each is the price itself; of none there is nothing."""
    assert divided(7.5, times(7.5, 8, INF)).tolist() == [7.5] * 3
    assert divided(7.5, times()).tolist() == []
