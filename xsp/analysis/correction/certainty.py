"""How well the rungs show the costs: which of them they do not show at all, and intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xsp.analysis.correction.charges import COST_LEVELS, Costs, Floats
from xsp.analysis.correction.evidence import Prediction
from xsp.analysis.correction.least_squares import Problem
from xsp.analysis.spans.statistics import student_quantile, trimmed_jointly

IDENTIFIED = 0.5
"""A cost is identified if half its interval is less than this part of it."""

SHOWN = 1.0
"""The rungs show that a group costs something if it costs more than so many standard deviations.
More would be kept out of noisy profiles that is there, and these would be corrected too little.
"""


def least_shown(problem: Problem, values: Floats, prediction: Prediction) -> int | None:
    """The group of which the rungs show least that it costs anything; None if they show it of all.
    One at a time, because what two can make up for is shown of neither.
    """
    kept = [number for number in range(len(problem.groups)) if number not in problem.dropped]
    if not kept:
        return None
    free = np.flatnonzero(problem.free)
    covariance = problem.covariance(values, prediction)
    in_scales = values[free] / problem.scale[free]
    scaled_events = problem.evidence.events * problem.scale
    certainty = []
    for number in kept:
        group = problem.groups[number][1]
        paid = np.zeros(len(free))
        paid[np.searchsorted(free, group)] = scaled_events[group]
        deviation = np.sqrt(paid @ covariance @ paid)
        certainty.append(float(paid @ in_scales / deviation))
    least = int(np.argmin(certainty))
    return None if certainty[least] > SHOWN else kept[least]


def described(problem: Problem, values: Floats, prediction: Prediction) -> tuple[Costs, Floats]:
    """The costs with the intervals that they have if all free ones are to be found, and the spread
    of `Fit`.
    """
    spread = _spread(problem, values, prediction)
    half = np.sqrt(np.diag(spread))
    low = np.maximum(values - half, 0.0)
    most = np.maximum(problem.ceiling(prediction.slope), values)
    high = np.minimum(values + half, most)
    # Bounds that cut an interval off cut the doubt off, too.
    left = np.maximum(high - values, values - low)
    cut = np.divide(left, half, out=np.zeros_like(half), where=half > 0)
    identified = problem.free & (half < IDENTIFIED * values)
    intervals = zip(low.tolist(), high.tolist(), strict=True)
    costs = replace(
        Costs.from_values(values),
        intervals=dict(zip(COST_LEVELS, intervals, strict=True)),
        identified=dict(zip(COST_LEVELS, identified.tolist(), strict=True)),
    )
    return costs, spread * np.outer(cut, cut)


def _spread(problem: Problem, values: Floats, prediction: Prediction) -> Floats:
    """Covariance of the costs in ns², times the square of the quantile of their interval."""
    free = np.flatnonzero(problem.free)
    spread = np.zeros((len(values), len(values)))
    if len(free):
        freedom = trimmed_jointly(problem.evidence.measured[:, 0])[2]
        units = float(student_quantile(freedom)) * problem.scale[free]
        covariance = problem.covariance(values, prediction)
        spread[np.ix_(free, free)] = covariance * np.outer(units, units)
    return spread
