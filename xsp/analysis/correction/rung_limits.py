"""Costs held to what the rungs were measured to add."""

from __future__ import annotations

from itertools import product

import numpy as np

from xsp.analysis.correction.charges import Costs, Floats
from xsp.analysis.correction.evidence import Prediction
from xsp.analysis.correction.least_squares import Problem

MAX_LOWERINGS = 12
STAMP_NS = 1.0
"""Stamps are whole ns: an excess of one is none."""

NO_EXCESS = 1e-3
"""Nor is one of less than this part of what a step may take out."""


def bounded_by_rungs(problem: Problem, values: Floats) -> tuple[Floats, Prediction]:
    """Costs lowered until no step takes more out of the deepest rung's runs than the upper end of
    the interval of what it was measured to add; all 0 if that does not come to an end.
    """
    for _ in range(MAX_LOWERINGS):
        prediction = problem.evidence.predict(Costs.from_values(values))
        lowered = within_rungs(problem, values, prediction)
        if np.array_equal(lowered, values):
            return values, prediction
        values = lowered
    nothing = np.zeros(len(values))
    return nothing, problem.evidence.predict(Costs.from_values(nothing))


def within_rungs(problem: Problem, values: Floats, prediction: Prediction) -> Floats:
    """The same to first order: what a step takes out too much, its costs lose in proportion to
    their parts of it.
    """
    lowered = values.copy()
    total = prediction.added.mean(axis=0)
    most = np.maximum(problem.mean_added + problem.half_added, 0.0)
    # A step's costs are also taken out for the steps above, so the deepest comes first.
    for step, time in product(reversed(range(len(total))), range(total.shape[1])):
        own = problem.evidence.costs_of(step)
        taken = np.maximum(prediction.slope[step, time, own] * lowered[own], 0.0)
        excess = total[step, time] - most[step, time]
        tolerated = STAMP_NS + NO_EXCESS * most[step, time]
        if excess <= tolerated or not taken.any():
            continue
        change = np.zeros(len(values))
        change[own] = -lowered[own] * np.minimum(excess * taken / (taken @ taken), 1.0)
        lowered = lowered + change
        total = total + prediction.slope @ change
    return lowered
