"""Summaries that outliers do not move, always with an interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

TRIM = 0.2
"""Share cut from each end before averaging (MLModelScope, section IV; the default of XSP's
published code).
"""

CONFIDENCE = 0.95

FloatArray = npt.NDArray[np.floating[Any]]


def trimmed(samples: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Trimmed mean over axis 0 and the half width of its 95 % interval, for each column.

    The interval is Yuen's (1974): Student's t on the winsorised sum of squares, with the degrees of
    freedom of what is left after trimming. Tukey and McLaughlin's, which scipy has, takes the share
    that was to be trimmed for the whole number that was: 95 % intervals of 4 to 20 samples then
    hold the truth in 92 to 99 of 100, and one sample more can widen them by half. It is NaN where
    fewer than two samples are left.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64), axis=0)
    count = values.shape[0]
    cut = int(TRIM * count)
    kept = count - 2 * cut
    if count == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    mean = np.asarray(stats.trim_mean(values, TRIM, axis=0))
    if kept < 2:
        return mean, np.full(mean.shape, np.nan)
    winsorised = np.clip(values, values[cut], values[count - cut - 1])
    error = winsorised.std(axis=0, ddof=1) * np.sqrt((count - 1) / (kept * (kept - 1)))
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, kept - 1)
    return mean, np.asarray(quantile * error)


def trimmed_known(samples: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """`trimmed` for the columns of a matrix in which NaN stands for a missing sample."""
    ordered = np.sort(samples, axis=0)
    known = (~np.isnan(ordered)).sum(axis=0)
    mean, half = np.full(samples.shape[1], np.nan), np.full(samples.shape[1], np.nan)
    for count in np.unique(known[known > 0]).tolist():
        columns = known == count
        mean[columns], half[columns] = trimmed(ordered[:count, columns])
    return mean, half


def plain_mean(samples: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Plain mean over axis 0 and half its 95 % interval (Student's t): for parts that must add up
    to their whole.
    """
    count = len(samples)
    if not count:
        nothing = np.full(samples.shape[1:], np.nan)
        return nothing, nothing
    mean = np.asarray(samples.mean(axis=0))
    if count < 2:
        return mean, np.full(mean.shape, np.nan)
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)
    return mean, np.asarray(quantile * samples.std(axis=0, ddof=1) / np.sqrt(count))
