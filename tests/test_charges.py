"""Where each tracer does its work: what is taken out of which side of a stamp follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from xsp.analysis.correction.charges import (
    COST_LEVELS,
    KERNEL_COST,
    PLACEMENTS,
    Costs,
    EventKind,
    placed,
)
from xsp.types import Level

ALL = Costs.from_values([100, 200, 300, 400, 500, 600, 650, 700])


@pytest.mark.parametrize("kind", EventKind)
def test_a_price_is_paid_whole(kind: EventKind) -> None:
    """Its shares are none below 0 and add up to 1: nothing is taken out twice or lost."""
    shares = PLACEMENTS[kind]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    assert placed(ALL)[kind].sum() == pytest.approx(ALL.host()[kind])


def test_tracers_work_outside_the_calls_that_they_time() -> None:
    """Those of layers, operators and libraries read the clock last on the way in and first on the
    way out, and do as much before as after.
    """
    for kind in (EventKind.LAYER, EventKind.OPERATOR, EventKind.LIBRARY):
        assert PLACEMENTS[kind] == (0.5, 0, 0, 0.5)


def test_cupti_works_after_its_stamps() -> None:
    """A call's record is prepared after the stamp at its begin, and finished after that at its end:
    half of the price lies inside.
    """
    for kind in (EventKind.LAUNCH, EventKind.API):
        assert PLACEMENTS[kind] == (0, 0.5, 0, 0.5)


def test_a_function_and_a_backward_node_pay_within_too() -> None:
    """A function is called with packed arguments, which costs 15 % of its price inside; a backward
    node has one hook around its only stamp.
    """
    assert PLACEMENTS[EventKind.FUNCTIONAL] == (0.425, 0.15, 0, 0.425)
    assert PLACEMENTS[EventKind.BACKWARD] == (0.5, 0.5, 0, 0)


def test_costs_belong_to_the_level_whose_tracer_causes_them() -> None:
    """Three are of layers, one each of libraries and operators, three of kernels; the last alone is
    the device's.
    """
    assert ALL.of_levels([Level.LAYER]).values().tolist() == [100, 200, 300, 0, 0, 0, 0, 0]
    assert ALL.of_levels([Level.LIBRARY]).values().tolist() == [0, 0, 0, 400, 0, 0, 0, 0]
    assert ALL.of_levels([Level.KERNEL]).values().tolist() == [0, 0, 0, 0, 500, 600, 0, 700]
    assert ALL.of_levels([Level.OP]).values().tolist() == [0, 0, 0, 0, 0, 0, 650, 0]
    assert not ALL.of_levels([Level.MODEL]).values().any()
    assert list(COST_LEVELS)[KERNEL_COST] == "kernel_ns"
    assert ALL.host().tolist() == [100, 200, 300, 400, 500, 600, 650]
    np.testing.assert_array_equal(Costs.from_values(ALL.values()).values(), ALL.values())
