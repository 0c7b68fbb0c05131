"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from xsp.analysis.correction import correction_row, fitted
from xsp.analysis.correction.charges import Costs
from xsp.analysis.overlap import overlapped
from xsp.assembly import assemble
from xsp.calibration import tight_loops
from xsp.capture import Capture
from xsp.counting import counted
from xsp.doubts import about_closure, about_overlap, about_runs, about_short_kernels
from xsp.driver import Executor, Ladder, climb, rungs_for
from xsp.environment import environment
from xsp.gpu_state import GpuWatch, kept_rounds
from xsp.levels.compiled import compiled_again
from xsp.levels.nvtx import annotated_run
from xsp.preparation import Prepared, Settings, prepare
from xsp.progress import bar
from xsp.serialized import serialized
from xsp.slugs import tagged
from xsp.state import RandomState
from xsp.stopping import MINIMUM_ROUNDS
from xsp.target import Target
from xsp.tracing import context
from xsp.tracing.clock import read_bracketed
from xsp.types import Level, LevelStatus
from xsp.vocabulary import vocabulary

if TYPE_CHECKING:
    from tqdm import tqdm


def climbed(target: Target, settings: Settings, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start from, now by default."""
    trace = context.current()
    executor = Executor(target, random)
    with executor.restored_afterwards():
        prepared = prepare(executor, settings)
        watch = GpuWatch()
        ladder = Ladder(rungs_for(prepared.traced), settings.seed)
        title = f"xsp {target.name}: rounds of {len(ladder.rungs)} rungs"
        with bar(title, settings.iterations, settings.progress, "round") as shown:
            finished = partial(_after, shown=shown, watch=watch)
            runs, why = climb(executor, ladder, prepared.tracers, settings.stopping_rule(), finished)
        loops, cut_off = Costs(), list[str]()
        with _dispensable(cut_off, "lower bounds of the tracers' costs"):
            loops = tight_loops(prepared.tracers)
        facts = environment() | watch.clocks()
        kept, suspect = kept_rounds(watch.states, runs[-1].round + 1, MINIMUM_ROUNDS)
        runs = [run for run in runs if run.round in kept]
        tables = assemble(runs, vocabulary(target, prepared))
        shared = len(overlapped(tables)) // max((tables["runs"]["deepest"] == Level.KERNEL.name).sum(), 1)
        wanted = settings.serialize or (settings.serialize is None and shared)
        if wanted and {Level.LAYER, Level.KERNEL} <= set(prepared.traced):
            with _dispensable(cut_off, "layers with the device to themselves"):
                tables["serialized"] = serialized(executor, target, prepared)
        counters = counted(executor, tables, settings.metrics, settings.progress) if settings.metrics else None
        if settings.nvtx:
            with _dispensable(cut_off, "NVTX ranges for other tools"):
                annotated_run(executor, prepared.structure, layers=Level.LAYER in prepared.traced)
    correction = None
    with _dispensable(cut_off, "corrected times, costs and closure error"):
        correction = fitted(tables, loops)
    if counters is not None:
        tables["counters"] = counters.table
    meta = {
        "name": target.name,
        "levels": [_status_row(status) for status in prepared.statuses],
        "environment": facts,
        "correction": correction_row(correction),
        "warnings": [
            *target.notes,
            *prepared.doubts,
            *(sentence for sentence in (watch.why, suspect) if sentence),
            *about_runs(tables, why, prepared.device_work),
            *about_short_kernels(tables, loops.kernel_ns),
            *about_overlap(shared, "serialized" in tables),
            *compiled_again(prepared.compilations),
            *about_closure(correction),
            *(counters.doubts if counters else ()),
            *cut_off,
        ],
        "counters": counters.facts if counters else None,
        "stopped": why,
        "gpu_states": watch.rows(),
        "memory_device": prepared.memory.device if prepared.memory else None,
        "clock": _clock(prepared),
        "epoch_offset_ns": -read_bracketed(time.time_ns, time.perf_counter_ns).offset_ns,
        "trace": {
            "trace_id": trace.trace_id_hex,
            "parent_span_id": f"{trace.parent_span_id:016x}",
            "first_span_id": trace.first_span_id,
        },
    }
    return Capture(meta, tables)


@contextmanager
def _dispensable(cut_off: list[str], what: str) -> Iterator[None]:
    """Work after the rounds: interrupting it costs what it would have given, and a warning, but not the rounds."""
    try:
        yield
    except KeyboardInterrupt:
        cut_off.append(tagged("cut-short", f"interrupted after the rounds: {what} are missing"))


def _after(number: int, shown: tqdm[NoReturn], watch: GpuWatch) -> None:
    shown.update()
    watch.read(number - 1)


def _status_row(status: LevelStatus) -> dict[str, str]:
    return {
        "level": status.level.name,
        "tracer": status.tracer,
        "status": status.status.value,
        "reason": status.reason,
    }


def _clock(prepared: Prepared) -> dict[str, Any] | None:
    kernel: Any = prepared.tracers.get(Level.KERNEL)
    return asdict(kernel.clock) if kernel is not None and kernel.clock is not None else None
