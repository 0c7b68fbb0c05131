"""The search for the costs where a replay does not do what its slopes say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from xsp.analysis.correction.charges import COST_LEVELS, Costs
from xsp.analysis.correction.evidence import Evidence, Prediction
from xsp.analysis.correction.least_squares import Problem
from xsp.types import Level, RunSpec

LAYER = list(COST_LEVELS).index("layer_ns")

RUNGS = (RunSpec((Level.MODEL,)), RunSpec((Level.MODEL, Level.LAYER)))

EVENTS, TRUE_NS = 10.0, 100.0


@dataclass(frozen=True, eq=False)
class Misleading(Evidence):
    """Ten layers at 100 ns each; a replay that adds what they cost, and says that it adds `said`
    times as much per ns.
    """

    said: float = 1.0

    @classmethod
    def that_says(cls, said: float) -> Misleading:
        """Of six rounds that hardly differ."""
        added = EVENTS * TRUE_NS + np.array([-2.0, 2.0, -1.0, 1.0, -3.0, 3.0])
        measured = np.stack([np.full(6, 10_000.0), 10_000.0 + added], axis=1)[:, :, None]
        events = np.zeros(len(COST_LEVELS))
        events[LAYER] = EVENTS
        return cls(RUNGS, measured, {}, events, said)

    def predict(self, costs: Costs) -> Prediction:
        """What is added at these costs, in every round."""
        total, slope = np.zeros((6, 2, 1)), np.zeros((2, 1, len(COST_LEVELS)))
        total[:, 1, 0] = EVENTS * costs.layer_ns
        slope[1, 0, LAYER] = EVENTS * self.said
        return Prediction(total, slope, self.steps)


def found(said: float, begin: float) -> float:
    """Where the search ends."""
    evidence = Misleading.that_says(said)
    problem = Problem(evidence, Costs(layer_ns=1.0), np.full(len(COST_LEVELS), np.inf))
    values = np.zeros(len(COST_LEVELS))
    values[LAYER] = begin
    ended, prediction = problem.search(values, evidence)
    at_end = Costs.from_values(ended).layer_ns
    # To first order, where the search ended with a short step.
    assert prediction.total[0, 1, 0] == pytest.approx(EVENTS * at_end, rel=0.05)
    return float(at_end)


@pytest.mark.parametrize("begin", [50.0, 100.0, 150.0])
def test_slopes_that_are_right_lead_to_the_costs(begin: float) -> None:
    """From below and from above."""
    assert found(1.0, begin) == pytest.approx(TRUE_NS, rel=0.02)


def test_a_step_that_is_four_times_too_long_is_quartered() -> None:
    """It would make things worse than they are; a quarter of it is right."""
    assert found(0.25, 50.0) == pytest.approx(TRUE_NS, rel=0.05)


def test_where_a_quarter_makes_things_worse_too_the_search_ends() -> None:
    """With the costs that were best so far."""
    assert found(0.02, 90.0) == 90.0
