"""At which rate a given share of queries is late: a curve through counts at several rates."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.statistics import student_quantile

_STEPS = 50
_LARGEST_STEP = 3.0
"""In units of the logarithm: Newton's method must not leap where a count is zero."""
_FEWEST = 3
OVERLOAD = 0.3
"""Beyond this share of late queries the server is overloaded and the curve another one."""


class Crossing(NamedTuple):
    """Logarithm of the rate, half its 95 % interval, and the slope of log(share) over log(rate);
    NaN where the counts do not tell.
    """

    log_rate: float
    half_width: float
    slope: float


UNKNOWN = Crossing(math.nan, math.inf, math.nan)


def crossing(
    rates: npt.ArrayLike, late: npt.ArrayLike, queries: npt.ArrayLike, share: float
) -> Crossing:
    """Where `late / queries` is `share`, from counts at rates near that place.

    Counts are taken as Poisson around queries × exp(a + b log rate), fitted by Newton's method; the
    interval is by the delta method with Student's t. Latencies in a queue come in bursts, so counts
    scatter more than Poisson's: the variance is scaled by Pearson's chi-square over its degrees of
    freedom where that is above 1 (quasi-likelihood; McCullagh and Nelder, Generalized Linear
    Models, 1989, sections 4.5 and 6.2).
    """
    rate, count, total = (np.asarray(x, dtype=np.float64) for x in (rates, late, queries))
    usable = count <= OVERLOAD * total
    rate, count, total = rate[usable], count[usable], total[usable]
    if len(rate) < _FEWEST or count.sum() == 0:
        return UNKNOWN
    centre = float(np.log(rate).mean())
    design = np.column_stack([np.ones(len(rate)), np.log(rate) - centre])
    fitted = _fitted(design, count, total)
    if fitted is None or fitted[1] <= 0:
        return UNKNOWN
    level, slope = (float(x) for x in fitted)
    expected = total * np.exp(design @ fitted)
    freedom = len(rate) - 2
    scatter = max(float(((count - expected) ** 2 / expected).sum()) / freedom, 1.0)
    covariance = scatter * np.linalg.inv(design.T @ (expected[:, None] * design))
    distance = (math.log(share) - level) / slope
    gradient = np.array([-1 / slope, -distance / slope])
    error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    return Crossing(centre + distance, float(student_quantile(freedom)) * error, slope)


def _fitted(
    design: npt.NDArray[np.float64],
    count: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64] | None:
    """Level and slope with the largest likelihood, None where Newton's method finds none."""
    found = np.array([math.log(count.sum() / total.sum()), 1.0])
    for _ in range(_STEPS):
        expected = total * np.exp(np.clip(design @ found, -50, 50))
        information = design.T @ (expected[:, None] * design)
        try:
            step = np.linalg.solve(information, design.T @ (count - expected))
        except np.linalg.LinAlgError:
            return None
        step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        found = np.asarray(found + step, dtype=np.float64)
        if np.abs(step).max() < 1e-9:
            return found
    return None
