"""Least squares of a few unknowns within bounds, exactly. scipy's `lsq_linear` does the same, but
importing it takes longer than most fits.
"""

from __future__ import annotations

import numpy as np

from xsp.analysis.correction.charges import Bools, Floats

ROUNDING = 1e-12
"""Of the largest slope: less than this is no slope."""


def bounded_least_squares(matrix: Floats, target: Floats, lower: Floats, upper: Floats) -> Floats:
    """The x between the bounds for which `matrix @ x` is nearest to `target`. The columns of the
    matrix must be independent.

    The active set of Stark and Parker (1995): unknowns are free or at a bound; those that are free
    are solved for, and one that reaches a bound stays there until the slope leads away from it.
    """
    x = np.clip(_solved(matrix, target), lower, upper)
    free = (lower < x) & (x < upper)
    while True:
        x, free = _settled(matrix, target, x, free, (lower, upper))
        slope = matrix.T @ (target - matrix @ x)
        held = ~free & np.where(x <= lower, slope > 0, slope < 0) & (lower < upper)
        leads = np.where(held, np.abs(slope), 0.0)
        if leads.max(initial=0.0) <= ROUNDING * np.abs(matrix.T @ target).max(initial=0.0):
            return x
        free[leads.argmax()] = True


def _settled(
    matrix: Floats, target: Floats, x: Floats, free: Bools, bounds: tuple[Floats, Floats]
) -> tuple[Floats, Bools]:
    """The free unknowns solved for, without those that reached a bound on the way."""
    free = free.copy()
    while free.any():
        wanted = x.copy()
        wanted[free] = _solved(matrix[:, free], target - matrix[:, ~free] @ x[~free])
        inside = np.clip(wanted, *bounds)
        if np.array_equal(inside, wanted):
            return wanted, free
        # As far as the first bound on the way.
        far = np.divide(inside - x, wanted - x, out=np.ones_like(x), where=wanted != x)
        x = np.clip(x + far.min() * (wanted - x), *bounds)
        first = far == far.min()
        x[first], free = inside[first], free & ~first
    return x, free


def _solved(matrix: Floats, target: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(matrix, target, rcond=None)[0], dtype=np.float64)
