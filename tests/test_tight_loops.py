"""What an event costs in a tight loop, on a clock that counts how often it is read: the tracer's
stamps are then all that takes time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from xsp.analysis.correction.charges import Costs
from xsp.levels.layer import hotpath
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.tracer import LayerTracer
from xsp.levels.layer.ways import Plan
from xsp.measuring.afterwards import calibration
from xsp.measuring.afterwards.calibration import tight_loops
from xsp.types import Level

STAMPS = Costs(layer_ns=2.0, functional_ns=2.0, backward_ns=1.02)
"""A module and a function are stamped before and after, a graph node before; the run of the engine
through 200 nodes has four stamps of its own.
"""


def layers() -> Costs:
    """What an event of the LAYER level costs."""
    return tight_loops({Level.LAYER: LayerTracer(Codes())})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], int]], None]:
    """Sets the clock: of its reading of this number, how many ns it took. The tracer is in Python,
    which reads it as any program does.
    """
    monkeypatch.setattr(hotpath, "extension", lambda: None)

    def follow(lasting: Callable[[int], int]) -> None:
        readings = itertools.accumulate(lasting(number) for number in itertools.count())
        monkeypatch.setattr("time.perf_counter_ns", readings.__next__)

    return follow


def test_an_event_costs_what_its_stamps_cost(clock: Any) -> None:
    """Each kind of event of the LAYER level apart, and nothing for what cannot be provoked."""
    clock(lambda _reading: 1)
    assert layers() == STAMPS
    clock(lambda _reading: 70)
    assert layers() == Costs(layer_ns=140.0, functional_ns=140.0, backward_ns=71.4)


def test_what_interrupts_a_loop_is_no_cost(clock: Any) -> None:
    """Of several loops the least counts: a machine that stops for a moment changes nothing."""
    clock(lambda reading: 10**6 if reading % 1499 == 0 else 1)
    assert layers() == STAMPS


def test_gradients_may_be_off(clock: Any) -> None:
    """The cost of a backward node is known under `no_grad` and in inference mode too."""
    clock(lambda _reading: 1)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert layers() == STAMPS


def test_levels_that_are_not_traced_cost_nothing(clock: Any) -> None:
    """Without a level's tracer none of its costs is known."""
    clock(lambda _reading: 1)
    assert tight_loops({}) == Costs()


def reached(plan: Plan, output: torch.Tensor) -> list[Any]:
    """The graph nodes that a plan's ways lead to, from a call's output."""
    nodes: list[Any] = []
    for way in plan:
        begin = output.grad_fn if way.base < 0 else nodes[way.base].next_functions[way.edge][0]
        nodes.append(begin)
    return nodes


def test_every_node_of_the_backward_loop_has_one_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with several would be timed once for all of them, and those without not at all."""
    given: list[Codes] = []

    def tracer(codes: Codes) -> LayerTracer:
        given.append(codes)
        return LayerTracer(codes)

    monkeypatch.setattr(calibration, "LayerTracer", tracer)
    layers()
    plans = [plan for codes in given for every in codes.plans.values() for plan in every if plan]
    value = torch.zeros((), requires_grad=True)
    for _ in range(calibration.EVENTS):
        value = -value
    assert len(plans) == 2
    for plan in plans:
        assert len(set(reached(plan, value))) == calibration.EVENTS
