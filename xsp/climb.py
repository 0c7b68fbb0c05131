"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from tqdm.auto import tqdm

from xsp.analysis.correction import correction_row, fitted
from xsp.assembly import Vocabulary, assemble
from xsp.capture import Capture
from xsp.doubts import about_closure, about_runs
from xsp.driver import Executor, Ladder, climb, rungs_for
from xsp.environment import environment
from xsp.gpu_state import GpuWatch, kept_rounds
from xsp.levels.compiled import compiled_again
from xsp.preparation import Prepared, Settings, prepare
from xsp.progress import bar
from xsp.state import RandomState
from xsp.stopping import MINIMUM_ROUNDS, after_rounds, until_precise
from xsp.target import Target, described
from xsp.tracing import context
from xsp.tracing.clock import read_bracketed
from xsp.types import Level, LevelStatus


def climbed(target: Target, settings: Settings, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start from, now by default."""
    trace = context.current()
    executor = Executor(target, random)
    with executor.restored_afterwards():
        prepared = prepare(executor, settings)
        watch = GpuWatch()
        ladder = Ladder(rungs_for(prepared.traced), settings.seed)
        rounds = settings.iterations
        stop = until_precise(budget_s=settings.budget_s) if rounds is None else after_rounds(rounds)
        with bar(f"xsp {target.name}: rounds of {len(ladder.rungs)} rungs", rounds, settings.progress) as shown:
            runs, why = climb(executor, ladder, prepared.tracers, stop, lambda number: _after(number, shown, watch))
        facts = environment() | watch.clocks()
    rounds_run = runs[-1].round + 1
    kept, suspect = kept_rounds(watch.states, rounds_run, MINIMUM_ROUNDS)
    runs = [run for run in runs if run.round in kept]
    tables = assemble(runs, _vocabulary(target, prepared))
    correction = fitted(tables)
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
            *compiled_again(prepared.compilations),
            *about_closure(correction),
        ],
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


def _vocabulary(target: Target, prepared: Prepared) -> Vocabulary:
    structure, layer_memory, library_calls = prepared.structure, prepared.memory, prepared.library_calls
    layers = structure.layer_records()
    if layer_memory is not None:
        for row, allocated, peak in zip(layers, layer_memory.allocated_bytes, layer_memory.peak_bytes, strict=True):
            row["allocated_bytes"], row["peak_bytes"] = int(allocated), int(peak)
    library: Any = prepared.tracers.get(Level.LIBRARY)
    kernel: Any = prepared.tracers.get(Level.KERNEL)
    symbols: list[str] = list(library.symbols) if library else []
    known = {name: index for index, name in enumerate(symbols)}
    calls = [
        {"symbol": known[row["name"]], "arguments": row["arguments"]} for row in library_calls if row["name"] in known
    ]
    return Vocabulary(
        calls=[_call_row(target, index) for index in range(len(target.calls))],
        modules=[asdict(module) for module in structure.modules],
        layers=layers,
        library_calls=calls,
        symbols=symbols,
        library_of=_library_of(),
        kernels=kernel.names if kernel else (),
        api_name=_api_name(kernel),
    )


def _library_of() -> Callable[[str], str]:
    from xsp.levels.library_symbols import library_of

    return library_of


def _api_name(kernel: Any) -> Callable[[int, int], str]:
    if kernel is None:
        return lambda domain, cbid: f"{domain}:{cbid}"
    from xsp.levels.cupti import api_name

    return api_name


def _call_row(target: Target, index: int) -> dict[str, Any]:
    call = target.calls[index]
    shapes, dtypes = described((call.args, dict(call.kwargs)))
    return {
        "name": target.name,
        "call": index,
        "input_shapes": json.dumps(shapes),
        "input_dtypes": json.dumps(dtypes),
        "batch_size": shapes[0][0] if shapes and shapes[0] else -1,
    }


def _clock(prepared: Prepared) -> dict[str, Any] | None:
    kernel: Any = prepared.tracers.get(Level.KERNEL)
    return asdict(kernel.clock) if kernel is not None and kernel.clock is not None else None
