"""What the tracers' events cost in tight loops: a check on what they cost inside a program.

In a tight loop caches are warm and branches are predicted; inside a program the same event usually
costs two to three times as much. So the costs are fitted in place. These loops do not bound the fit
either: on an H100, loops that began right after the tracer had been switched on showed launches
dearer than they are in place, and as bounds they put the closure off by up to 10 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from xsp.analysis.correction.charges import COST_LEVELS, Costs
from xsp.levels import TRACED_LEVELS
from xsp.levels._native.signals import held
from xsp.levels.layer.discovery import Discovered
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.levels.layer.tracer import LayerTracer, is_following
from xsp.levels.layer.ways import Plan, Way
from xsp.machine.torch_internals import sleep_on_gpu
from xsp.measuring.switching import tracing
from xsp.types import Level, Tracer

EVENTS = 200
BATCHES = 7
SHORT_KERNEL_ELEMENTS = 1 << 20  # 256 blocks or more, some 2 us
QUEUE_CYCLES = 20_000_000  # some 10 ms


@torch.inference_mode(False)
def tight_loops(tracers: Mapping[Level, Tracer]) -> Costs:
    """Cost in ns of one event of each kind that can be provoked here; 0 where it cannot.

    `tracers` are those of the profile, stopped; the KERNEL tracer is used and left stopped and
    empty.
    """
    found = {
        cost: _LOOPS[cost](tracer)
        for level, tracer in tracers.items()
        for cost in TRACED_LEVELS[level].costs
        if cost in _LOOPS
    }
    return Costs.from_values([found.get(cost, 0.0) for cost in COST_LEVELS])


def _layer(_tracer: Tracer) -> float:
    module, codes = nn.Identity(), Codes()
    codes.of_module(module)
    with torch.no_grad():
        return _added(lambda: [module(None) for _ in range(EVENTS)], LayerTracer(codes))


def _functional(tracer: Tracer) -> float:
    """In the way in which the profile's own tracer saw functional calls."""
    x = torch.zeros(())

    def loop() -> None:
        for _ in range(EVENTS):
            torch.neg(x)

    with torch.no_grad():
        codes = _codes_of_two(loop) if is_following(tracer) else Codes()
        return _added(loop, LayerTracer(codes))


def _codes_of_two(loop: Callable[[], None]) -> Codes:
    """What two rounds of a loop consist of: each batch makes so many while the tracer is on."""
    recorder = StructureRecorder(Discovered())
    with recorder:
        recorder.new_run()
        loop()
        loop()
    return recorder.structure.codes


def _backward(_tracer: Tracer) -> float:
    """The hooks alone: the nodes are made by a module whose own cost lies outside the
    timed part.
    """
    x = torch.zeros((), requires_grad=True)

    class Chain(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            for _ in range(EVENTS):
                value = -value
            return value

    module, codes = Chain(), Codes()
    # Each batch makes the graph twice while the tracer is on.
    codes.plans[codes.of_module(module)] = [_chain(EVENTS)] * 2

    def make() -> Callable[[], object]:
        with torch.enable_grad():
            output = module(x)
        return lambda: torch.autograd.grad(output, x)

    return _added(make(), LayerTracer(codes), make)


def _chain(nodes: int) -> Plan:
    """Ways to this many graph nodes in a row, each with a stamp, which is not read."""
    return tuple(Way(place - 1, 0, (), 0) for place in range(nodes))


def _operator(tracer: Tracer) -> float:
    x = torch.zeros(())
    with torch.no_grad():
        added = _added(lambda: [torch.neg(x) for _ in range(EVENTS)], tracer)
    tracer.lost()
    return added


def _launch(tracer: Tracer) -> float:
    if not torch.cuda.is_available():
        return 0.0
    x = torch.zeros(1, device="cuda")

    def launches() -> None:
        for _ in range(EVENTS):
            x.add_(1)

    added = _added(launches, tracer, after=torch.cuda.synchronize)
    tracer.collect()
    tracer.lost()
    return added


def _kernel(tracer: Tracer) -> float:
    """Device time that tracing adds to one of many short kernels of many blocks, between two
    events.
    """
    if not torch.cuda.is_available():
        return 0.0
    x = torch.zeros(SHORT_KERNEL_ELEMENTS, device="cuda")
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    best = [float("inf"), float("inf")]  # tracer off, tracer on
    for _ in range(BATCHES):
        for on in (False, True):
            with held(), _tracing(tracer, on=on):
                x.add_(1)
                sleep_on_gpu(QUEUE_CYCLES)  # until all are queued
                begin.record()
                for _ in range(EVENTS):
                    x.add_(1)
                end.record()
                torch.cuda.synchronize()
            best[on] = min(best[on], begin.elapsed_time(end) * 1e6)
    tracer.collect()
    tracer.lost()
    return max(best[True] - best[False], 0.0) / EVENTS


def _tracing(tracer: Tracer, *, on: bool) -> AbstractContextManager[None]:
    return tracing([tracer] if on else [], "in a tight loop")


def _added(
    loop: Callable[[], object],
    tracer: Tracer,
    make: Callable[[], Callable[[], object]] | None = None,
    after: Callable[[], object] = lambda: None,
) -> float:
    """Least time of an event with the tracer on, minus that with it off, at least 0. `make`
    prepares each batch.
    """
    best = [float("inf"), float("inf")]  # tracer off, tracer on
    for _ in range(BATCHES):
        for on in (False, True):
            with held(), _tracing(tracer, on=on):
                # Once without a clock: what the tracer does when it is new is not an event's cost.
                (make() if make else loop)()
                after()
                timed = make() if make else loop
                start = time.perf_counter_ns()
                timed()
                best[on] = min(best[on], time.perf_counter_ns() - start)
                after()
    tracer.collect()
    return max(best[1] - best[0], 0.0) / EVENTS


_LOOPS: Mapping[str, Callable[[Tracer], float]] = {
    "layer_ns": _layer,
    "functional_ns": _functional,
    "backward_ns": _backward,
    "operator_ns": _operator,
    "launch_ns": _launch,
    "kernel_ns": _kernel,
}
"""The costs of which one event can be provoked in a loop."""
