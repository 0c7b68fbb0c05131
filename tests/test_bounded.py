"""Least squares within bounds, against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from xsp.analysis.correction.bounded import bounded_least_squares


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_no_other_values_within_the_bounds_are_nearer(seed: int, unknowns: int) -> None:
    """What is found keeps the bounds, also where they are nearly one, and misses the target by no
    more than what scipy finds.
    """
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(unknowns + draw.integers(0, 8), unknowns))
    matrix *= 10.0 ** draw.uniform(-2, 2, size=unknowns)
    target = draw.normal(size=len(matrix)) * 10
    lower = -draw.exponential(size=unknowns)
    upper = lower + draw.exponential(size=unknowns) * draw.choice([1e-9, 1, 3], size=unknowns)
    found = bounded_least_squares(matrix, target, lower, upper)
    other = lsq_linear(matrix, target, (lower, upper)).x
    assert ((lower <= found) & (found <= upper)).all()
    missed, missed_by_other = (np.linalg.norm(matrix @ x - target) for x in (found, other))
    assert missed <= missed_by_other * (1 + 1e-9) + 1e-9


def test_what_lies_within_the_bounds_is_solved_for() -> None:
    """Bounds that do not matter change nothing; of those that do, each unknown is at its own."""
    matrix, target = np.diag([1.0, 2.0]), np.array([3.0, 8.0])
    wide = np.full(2, 10.0)
    assert bounded_least_squares(matrix, target, -wide, wide).tolist() == [3.0, 4.0]
    at_bounds = bounded_least_squares(matrix, target, np.array([5.0, -1.0]), np.array([6.0, 2.0]))
    assert at_bounds.tolist() == [5.0, 2.0]
