"""One untimed execution in which MODEL and LAYER are NVTX ranges of domain `xsp`, for Nsight
Systems and Compute.

Ranges in timed runs would cost time that belongs to no level, so they are made in an execution of
their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import nvtx

from xsp.levels._native.signals import held
from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.levels.layer.recorder import PythonRecorder, Stamp
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tracer import LayerTracer
from xsp.measuring.executor import Executor
from xsp.measuring.switching import tracing
from xsp.types import BACKWARD_BASE

DOMAIN = "xsp"

Ranges = Any
"""An nvtx.Domain, or the package's stand-in for one while no tool is attached."""


def annotated_run(executor: Executor, structure: Structure, *, layers: bool) -> None:
    """Execute the target once with ranges around its model calls and, if `layers`, its layers."""
    ranges: Ranges = nvtx.get_domain(DOMAIN)
    target = executor.target
    log = RangeLog(ranges, structure)
    make = partial(PythonRecorder, log=log)
    tracers = [LayerTracer(structure.codes, make, names=structure.names)] if layers else []
    calls = [
        replace(call, function=_annotated(call.function, target.name, ranges))
        for call in target.calls
    ]
    executor.target = replace(target, calls=tuple(calls))
    try:
        with held(), tracing(tracers, "while its NVTX ranges were made"):
            executor.run(partial(_begin, tracers, log))
    finally:
        executor.target = target
        log.close()


def _begin(tracers: Sequence[LayerTracer], log: RangeLog) -> None:
    for tracer in tracers:
        tracer.new_run()
    log.on = True


def _annotated(function: Callable[..., Any], name: str, ranges: Ranges) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        ranges.push_range(ranges.get_event_attributes(message=name))
        try:
            return function(*args, **kwargs)
        finally:
            ranges.pop_range()

    return called


class RangeLog(list[Stamp]):
    """A log of stamps that opens and closes ranges instead of keeping the stamps.

    Calls nest on their thread and are pushed and popped. A backward node has a begin only and can
    run on a thread of autograd's: it is started, and ended by the next node of its thread or by the
    end of the engine's run.
    """

    def __init__(self, ranges: Ranges, structure: Structure) -> None:
        super().__init__()
        self.on = False
        """Switched on when the model's state is restored, which calls torch functions too."""
        self._ranges = ranges
        self._names = _names_by_code(structure)
        self._seen: Counter[int] = Counter()
        self._nodes: dict[int, Any] = {}

    def append(self, stamp: Stamp) -> None:
        """Open or close the range that this stamp is about."""
        if not self.on:
            return
        event, _, thread = stamp
        code, ends = event >> 1, event & 1
        if code == ENGINE_CODE:
            if ends:
                self.close()
        elif code >= BACKWARD_BASE:
            self._end_node(thread)
            self._nodes[thread] = self._ranges.start_range(self._attributes(code))
        elif ends:
            self._ranges.pop_range()
        else:
            self._ranges.push_range(self._attributes(code))

    def close(self) -> None:
        """End the backward nodes that are still open."""
        for thread in list(self._nodes):
            self._end_node(thread)

    def _end_node(self, thread: int) -> None:
        node = self._nodes.pop(thread, None)
        if node is not None:
            self._ranges.end_range(node)

    def _attributes(self, code: int) -> Any:
        names, seen = self._names.get(code, ("(not in the structure run)",)), self._seen[code]
        self._seen[code] += 1
        return self._ranges.get_event_attributes(message=names[min(seen, len(names) - 1)])


def _names_by_code(structure: Structure) -> dict[int, Sequence[str]]:
    """Names of the structure run's layers in order of their start, by the code that timed runs
    write.
    """
    names: dict[int, list[str]] = {}
    columns = (structure.layer_columns()[name] for name in ("code", "name", "phase"))
    for code, name, phase in zip(*columns, strict=True):
        suffix = " (bwd)" if phase == "backward" else ""
        names.setdefault(int(code), []).append(name + suffix)
    return {code: tuple(found) for code, found in names.items()}
