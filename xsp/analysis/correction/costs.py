"""The tracers' costs, estimated in place from what each rung of the ladder adds.

docs/replay.md has the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xsp.analysis.correction.bounds import ceilings
from xsp.analysis.correction.certainty import described, least_shown
from xsp.analysis.correction.charges import COST_LEVELS, KERNEL_COST, Bools, Costs, Floats
from xsp.analysis.correction.evidence import Evidence, Prediction, Round
from xsp.analysis.correction.least_squares import Problem
from xsp.analysis.correction.rung_limits import bounded_by_rungs, within_rungs
from xsp.types import Level

SHAPE = Costs(
    layer_ns=8000,
    functional_ns=7000,
    backward_ns=6000,
    library_ns=150,
    launch_ns=4000,
    api_ns=300,
    operator_ns=400,
    kernel_ns=900,
)
"""Costs found in place on an H100 host. Only their ratios are used: how kinds of one level divide
what the rungs tell of them together.
"""

VISIBLE = 0.02
"""Of the latency: less than this need not be said."""

FEW_ROUNDS = 4
"""Replayed while the search is far from its end."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Costs, and what they were fitted to: the evidence, and the replays at these costs.

    `spread` (8, 8) in ns² is such that n @ spread @ n is the square of half the 95 % interval of
    what n events of each kind cost together: their sum can be known better than each of them.
    """

    costs: Costs
    spread: Floats
    problem: Problem
    prediction: Prediction

    @property
    def unshown(self) -> tuple[Level, ...]:
        """Levels whose costs were kept at 0 but could be a visible part of the latency."""
        evidence, found = self.problem.evidence, set()
        latency = evidence.measured[:, 0, 0].mean()
        highest = np.array([self.costs.intervals[name][1] for name in COST_LEVELS])
        for number in self.problem.dropped:
            step, group = self.problem.groups[number]
            if (evidence.events * highest)[group].sum() > VISIBLE * latency:
                found |= evidence.levels_of(step)
        return tuple(sorted(found))

    @property
    def taken(self) -> tuple[float, float]:
        """What all tracers together took of the host's time, and half its interval, both over the
        unprofiled host's time.
        """
        evidence = self.problem.evidence
        paid = np.where(np.arange(len(COST_LEVELS)) == KERNEL_COST, 0.0, evidence.events)
        total = float(paid @ self.costs.values())
        half = float(np.sqrt(np.maximum(paid @ self.spread @ paid, 0.0)))
        unprofiled = float(evidence.measured[:, 0, -1].mean())
        return total / unprofiled, half / unprofiled

    def again_on(self, rounds: Bools) -> Floats:
        """The costs that these rounds alone give, to first order in the difference."""
        problem = self.problem
        differences = problem.differences(self.prediction)[rounds]
        change = problem.change(self.costs.values(), differences, self.prediction.slope)
        values = self.costs.values() + change
        return within_rungs(problem, values, self.prediction.moved(change))


def fit_costs(rounds: Sequence[Round]) -> Fit:
    """Costs with which the deepest rung, replayed, has each shallower rung's latency in the same
    rounds.

    The search begins at what each rung adds per event, and brings the trimmed mean over rounds of
    (replayed - measured) addition of each step of the ladder to 0 by bounded least squares. No cost
    is above the room between the stamps of its events (`bounds`), nor above what its step adds,
    with its interval, over the events on the critical path; nor do all costs of a step together
    take out more than that, replayed. Costs of a level that the rungs do not
    show to be above 0 are 0. A cost is `identified` if half its 95 % interval is less than half of
    it.

    Raises:
        XspError: fewer than 3 rounds, rounds with different rungs, no rung to compare with, or no
            runs.

    """
    evidence = Evidence.of(rounds)
    few = evidence.some(FEW_ROUNDS)
    problem = whole = Problem(evidence, SHAPE, ceilings(few.timelines))
    values, prediction = problem.search(problem.start(), few)
    while (hidden := least_shown(problem, values, prediction)) is not None:
        problem = problem.without(hidden)
        values, prediction = problem.search(np.where(problem.free, values, 0.0), few)
    values, _ = problem.search(values, evidence)
    values, prediction = bounded_by_rungs(problem, values)
    # What was kept at 0 may still have cost something: all intervals allow for it.
    costs, spread = described(whole, values, prediction)
    return Fit(costs, spread, problem, prediction)
