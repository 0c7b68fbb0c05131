"""What one event costs: a module or functional call, a backward node, a library call, a kernel.

Each program makes many events of one kind and next to nothing else. All conditions are run in turn,
in a random order within each round: unprofiled, xsp's tracer (for layers both twins, C and Python),
torch.profiler. A figure is the trimmed mean of the differences to the unprofiled time of the same
round, by event, with its 95 % interval.

    python benchmarks/events.py [--device cuda] [--rounds 40] [--json out.json] [--only NAME]
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from by_name import Measures, report
from event_programs import EVENTS, Chain, Program, layer_programs
from overhead import torch_profiler

from xsp.analysis.spans.statistics import trimmed
from xsp.levels.layer import hotpath
from xsp.levels.layer.discovery import Discovered, discovered
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.recorder import PythonRecorder
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.levels.layer.tracer import LayerTracer
from xsp.types import Tracer

Prepare = Callable[[], Callable[[], object]]
"""Does what must be done before the timed part, and returns that."""

Condition = Callable[[], AbstractContextManager[Any]]
Conditions = dict[str, tuple[Condition, Tracer | None]]


def codes_of(program: Program) -> Codes:
    """What a structure run finds."""
    found = Discovered()
    with discovered(found):
        program.whole()
    recorder = StructureRecorder(found)
    with recorder:
        recorder.new_run()
        program.whole()
    return recorder.structure.codes


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    """As the driver does it: a settling run has been made, and the log is emptied."""
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        tracer.collect()
        if tracer.starts_over():
            raise SystemExit("a run did not call what the structure run did: nothing was measured")


def layer_conditions(program: Program) -> Conditions:
    """Unprofiled, both twins, torch.profiler."""
    codes = codes_of(program)
    conditions: Conditions = {"unprofiled": (nullcontext, None)}
    twins: dict[str, Any] = {"xsp, Python": PythonRecorder}
    if hotpath.extension() is not None:
        twins["xsp, C"] = hotpath.c_recorder
    for name, make in twins.items():
        tracer = LayerTracer(codes, make)
        conditions[name] = partial(traced, tracer), tracer
    conditions["torch.profiler"] = torch_profiler, None
    return conditions


def deeper(device: str) -> dict[str, tuple[Program, Conditions]]:
    """Library calls and kernels, on a GPU."""
    if device != "cuda":
        return {}
    from xsp.levels.kernel.tracer import KernelTracer
    from xsp.levels.library.tracer import LibraryTracer

    small = torch.ones(8, 8, device=device)
    programs = {
        "library call": (
            Program(Chain(function=lambda v: torch.mm(v, small)), small),
            LibraryTracer,
        ),
        "kernel": (Program(Chain(function=lambda value: value + 1), small), KernelTracer),
    }
    found = {}
    for name, (program, make) in programs.items():
        tracer: Tracer = make()
        conditions: Conditions = {
            "unprofiled": (nullcontext, None),
            "xsp, C": (partial(traced, tracer), tracer),
            "torch.profiler": (torch_profiler, None),
        }
        found[name] = program, conditions
    return found


def once(prepare: Prepare, condition: Condition, tracer: Tracer | None, device: str) -> int:
    """Nanoseconds of the timed part, after one untimed execution under the same condition."""
    with condition():
        prepare()()
        if tracer is not None:
            tracer.new_run()
        timed = prepare()
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter_ns()
        timed()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter_ns() - start


def measured(
    program: Program,
    conditions: Conditions,
    rounds: int,
    device: str,
) -> dict[str, Any]:
    """Added ns by event of every condition, and the ratio to what torch.profiler adds."""
    order = random.Random(0)
    found: dict[str, list[int]] = {name: [] for name in conditions}
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(conditions), len(conditions)):
                found[name].append(once(program.prepare, *conditions[name], device))
            gc.collect()
    finally:
        gc.enable()
    base = np.array(found.pop("unprofiled"), dtype=np.float64)
    result: dict[str, Any] = {"unprofiled_ns": round(float(trimmed(base)[0]) / EVENTS, 1)}
    added = {name: trimmed((np.array(values) - base) / EVENTS) for name, values in found.items()}
    for name, (mean, half) in added.items():
        result[name] = {"added_ns": round(float(mean), 1), "half_width_95": round(float(half), 1)}
    if "xsp, C" in found and "xsp, Python" in found:
        result["C over Python"] = ratio(found["xsp, C"], found["xsp, Python"], base)
    if "xsp, C" in found:
        result["C over torch.profiler"] = ratio(found["xsp, C"], found["torch.profiler"], base)
    return result


def ratio(one: list[int], other: list[int], base: np.ndarray) -> dict[str, float] | None:
    """What one adds over what the other adds, with the interval that the two means' give."""
    (top, top_half), (bottom, bottom_half) = (
        trimmed(np.array(values) - base) for values in (one, other)
    )
    if bottom <= bottom_half:
        return None
    value = top / bottom
    half = abs(value) * np.hypot(top_half / top, bottom_half / bottom)
    return {"ratio": round(float(value), 3), "half_width_95": round(float(half), 3)}


def measures(device: str, rounds: int) -> Measures:
    """What measures each kind of events."""
    programs: dict[str, tuple[Program, Callable[[], Conditions]]] = {
        name: (program, partial(layer_conditions, program))
        for name, program in layer_programs(device).items()
    }
    programs |= {
        name: (program, partial(dict, own)) for name, (program, own) in deeper(device).items()
    }

    def measured_in(program: Program, conditions: Callable[[], Conditions]) -> Any:
        return measured(program, conditions(), rounds, device)

    return {name: partial(measured_in, *each) for name, each in programs.items()}


if __name__ == "__main__":
    report(__doc__, "kinds", measures, events_a_round=EVENTS)
