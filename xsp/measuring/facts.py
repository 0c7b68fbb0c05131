"""What was found out besides the tables, and the capture that both make: whoever made the runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xsp.analysis.correction import Correction, correction_row
from xsp.capture.file import Capture
from xsp.doubts import Doubt, Stopped
from xsp.machine import devices
from xsp.machine.environment import environment
from xsp.machine.gpu_state import GpuWatch
from xsp.measuring.afterwards.counting import Counters
from xsp.measuring.afterwards.memory import LayerMemory
from xsp.tracing.clock import read_bracketed
from xsp.tracing.context import TraceContext
from xsp.types import Level, LevelStatus, Status, Tracer
from xsp.words.doubts import end_of_rounds, sentence_of
from xsp.words.labels import in_unicode, printable

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("xsp")


@dataclass(frozen=True)
class CaptureFacts:
    """Everything that a capture says outside its tables. `device` is the GPU that the program used
    most, None without one; `counters` and `memory` need runs of their own; `place` is this rank's
    among those that profiled together; `compiled` is what torch.compile did, None where nothing
    was compiled.
    """

    name: str
    statuses: Sequence[LevelStatus]
    tracers: Mapping[Level, Tracer]
    stopped: Stopped
    watch: GpuWatch
    doubts: Sequence[Doubt | str]
    device: int | None
    trace: TraceContext
    correction: Correction | None = None
    counters: Counters | None = None
    memory: LayerMemory | None = None
    place: Mapping[str, Any] | None = None
    compiled: Mapping[str, Any] | None = None


def capture_of(facts: CaptureFacts, tables: dict[str, pd.DataFrame]) -> Capture:
    """Facts and tables as a capture."""
    with devices.on(facts.device):
        machine = environment()
    doubts, trace = facts.doubts, facts.trace
    warnings = [each if isinstance(each, str) else sentence_of(each) for each in doubts]
    for sentence in warnings:
        # Names can hold what no log file can.
        _log.warning("%s: %s", printable(facts.name), printable(sentence))
    meta = {
        "name": facts.name,
        "levels": [_status_row(status) for status in facts.statuses],
        "environment": machine | facts.watch.ranges(),
        "correction": correction_row(facts.correction),
        "warnings": warnings,
        "compiled": facts.compiled,
        "counters": facts.counters.facts if facts.counters else None,
        "stopped": end_of_rounds(facts.stopped),
        "stop": facts.stopped.row(),
        "doubts": [each.row() for each in doubts if isinstance(each, Doubt)],
        "gpu_states": facts.watch.rows(),
        "memory_device": facts.memory.device if facts.memory else None,
        "clock": None,
        "rank": facts.place,
        "epoch_offset_ns": -read_bracketed(time.time_ns, time.perf_counter_ns).offset_ns,
        "trace": {
            "trace_id": trace.trace_id_hex,
            "parent_span_id": f"{trace.parent_span_id:016x}",
            "first_span_id": trace.first_span_id,
        },
    }
    for tracer in facts.tracers.values():
        meta |= tracer.facts()
    return Capture(_in_unicode(meta), tables)


def _in_unicode(value: Any) -> Any:
    """A JSON-able value in which names, wherever they are, can be written to a file."""
    if isinstance(value, str):
        return in_unicode(value)
    if isinstance(value, dict):
        return {name: _in_unicode(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_in_unicode(each) for each in value]
    return value


def told(
    statuses: Sequence[LevelStatus],
    tracers: Mapping[Level, Tracer],
    tables: Mapping[str, pd.DataFrame],
) -> list[LevelStatus]:
    """Statuses that say what the tracers tell of themselves, which levels were timed alone, and how
    what their events belong to is known.
    """
    return _ladder_told([_tracer_told(each, tracers.get(each.level)) for each in statuses], tables)


def _tracer_told(status: LevelStatus, tracer: Tracer | None) -> LevelStatus:
    if tracer is None or status.status is not Status.TRACED:
        return status
    name, why = tracer.told()
    return replace(status, tracer=name, reason=why or status.reason)


def _ladder_told(
    statuses: Sequence[LevelStatus], tables: Mapping[str, pd.DataFrame]
) -> list[LevelStatus]:
    repeats = tables.get("repeats")
    alone = set() if repeats is None else set(repeats["level"])
    return [
        replace(status, reason="; ".join(filter(None, (_TIMED_ALONE, status.reason))))
        if status.level in alone
        else status
        for status in statuses
    ]


_TIMED_ALONE = "timed alone; its events belong to what those of annotated runs do, by their order"


def _status_row(status: LevelStatus) -> dict[str, str]:
    return {
        "level": status.level.name,
        "tracer": status.tracer,
        "status": status.status.value,
        "reason": status.reason,
    }
