"""A verdict that knows how much a machine differs from one process to the next.

Runs of one process share its memory layout, its clocks and its neighbours. Two samples, however
large, cannot tell a slower program from a slower process; several measurements of the same program,
each by a process of its own, can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from xsp.analysis.spans.statistics import CONFIDENCE
from xsp.comparing.verdict import ALPHA, IMPROVED, REGRESSION, UNDECIDED, Verdict, name_verdicts

LEAST_FREEDOM = 2
"""Degrees of freedom from which on the spread is used: with one, no slow-down could ever be
significant.
"""
SESSION_ALPHA = 0.02
"""Significance that a difference needs against the spread of sessions: one false alarm in a
hundred, as a slow-down.

It is laxer than `ALPHA`, which guards against chance within two samples: five sessions could hardly
reach that.
"""


def spread(versions: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation of the logarithm of the time between sessions, and its degrees of freedom.

    `versions` holds, for each version of the program that was measured, the time of each session,
    in any one unit. Differences between versions are not spread: deviations are from each version's
    own mean. NaN with no freedom.
    """
    logarithms = [np.log(np.asarray(times, dtype=np.float64)) for times in versions if len(times)]
    freedom = sum(len(times) - 1 for times in logarithms)
    if freedom < 1:
        return float("nan"), 0
    deviations = [times - times.mean() for times in logarithms]
    squares = sum(float((each**2).sum()) for each in deviations)
    return float(np.sqrt(squares / freedom)), freedom


def among_sessions(
    within: Verdict,
    versions: Sequence[Sequence[float]],
    time: float,
    *,
    threshold: float,
    alpha: float = ALPHA,
) -> Verdict:
    """`within`, if the spread of the sessions allows it.

    A new session of the same program differs from the mean of k earlier ones by s * sqrt(1 + 1/k),
    where s is their
    spread: the interval is Student's, with the spread's degrees of freedom, and no narrower than
        that of `within`. A
    regression or improvement has to be significant in both ways.

    Args:
        within: the verdict on two samples of runs.
        versions: times of earlier sessions by version of the program, as in `spread`; the last
            version is the baseline.
        time: the candidate's time, in the same unit.
        threshold: slow-down that matters, as a share.
        alpha: significance that `within` needs.

    """
    deviation, freedom = spread(versions)
    if freedom < LEAST_FREEDOM or not np.isfinite(within.ratio):
        return within
    baseline = np.log(np.asarray(versions[-1], dtype=np.float64))
    logarithm = float(np.log(time) - baseline.mean())
    runs = np.log(within.high / within.low) / (2 * stats.norm.ppf(0.5 + CONFIDENCE / 2))
    error = max(
        deviation * np.sqrt(1 + 1 / len(baseline)), float(np.nan_to_num(runs)), np.finfo(float).tiny
    )
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * error
    p_value = 2 * stats.t.sf(abs(logarithm) / error, freedom)
    ratio = np.exp(np.array([logarithm]))
    found = name_verdicts(
        ratio,
        ratio * np.exp(-half),
        ratio * np.exp(half),
        np.array([p_value]),
        threshold,
        SESSION_ALPHA,
    )[0]
    if found.name in {REGRESSION, IMPROVED} and not within.p_value < alpha:
        return replace(found, name=UNDECIDED)
    return found
