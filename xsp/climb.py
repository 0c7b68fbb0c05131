"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.correction import Correction, correction_row, fitted
from xsp.analysis.statistics import trimmed
from xsp.assembly import Vocabulary, assemble
from xsp.capture import Capture
from xsp.driver import Executor, Ladder, climb, rungs_for
from xsp.environment import environment
from xsp.levels.compiled import compiled_again
from xsp.preparation import Prepared, Settings, prepare
from xsp.progress import bar
from xsp.state import RandomState
from xsp.stopping import TARGET, after_rounds, until_precise
from xsp.target import Target, tensors_in
from xsp.tracing import context
from xsp.types import Level, LevelStatus


def climbed(target: Target, settings: Settings, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start from, now by default."""
    trace = context.current()
    executor = Executor(target, random)
    with executor.restored_afterwards():
        prepared = prepare(executor, settings)
        ladder = Ladder(rungs_for(prepared.traced), settings.seed)
        rounds = settings.iterations
        stop = until_precise(budget_s=settings.budget_s) if rounds is None else after_rounds(rounds)
        with bar(f"xsp {target.name}: rounds of {len(ladder.rungs)} rungs", rounds, settings.progress) as shown:
            runs, why = climb(executor, ladder, prepared.tracers, stop, lambda _: shown.update() and None)
        facts = environment()
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
            *_doubts(tables, why, prepared.device_work),
            *compiled_again(prepared.compilations),
            *_closure_doubts(correction),
        ],
        "stopped": why,
        "memory_device": prepared.memory.device if prepared.memory else None,
        "clock": _clock(prepared),
        "trace": {
            "trace_id": trace.trace_id_hex,
            "parent_span_id": f"{trace.parent_span_id:016x}",
            "first_span_id": trace.first_span_id,
        },
    }
    return Capture(meta, tables)


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
    tensors = tensors_in((call.args, dict(call.kwargs)))
    return {
        "name": target.name,
        "call": index,
        "input_shapes": str([list(tensor.shape) for tensor in tensors]),
        "input_dtypes": str([str(tensor.dtype).removeprefix("torch.") for tensor in tensors]),
        "batch_size": tensors[0].shape[0] if tensors and tensors[0].ndim else -1,
    }


def _clock(prepared: Prepared) -> dict[str, Any] | None:
    kernel: Any = prepared.tracers.get(Level.KERNEL)
    return asdict(kernel.clock) if kernel is not None and kernel.clock is not None else None


def _doubts(tables: dict[str, pd.DataFrame], why: str, device_work: int | None) -> list[str]:
    """Sentences on what is missing or uncertain."""
    runs = tables["runs"]
    latency, half = trimmed(runs.loc[runs["deepest"] == Level.MODEL.name, "latency_ns"])
    doubts = [why] if "interrupted" in why or "budget" in why else []
    if not doubts and not half <= TARGET * latency:
        known = f"to ±{half / latency:.1%} only" if np.isfinite(half) else "from too few rounds for an interval"
        doubts.append(f"the model latency is known {known}; more iterations narrow it")
    if lost := int(runs["lost"].sum()):
        doubts.append(f"{lost} records were lost; counts and device times are too low by what they held")
    if orphans := int(runs["orphans"].sum()):
        doubts.append(f"{orphans} device activities had no launch record and are in no table")
    if unmatched := int(runs["unmatched"].sum()):
        doubts.append(
            f"{unmatched} layer or library events did not occur in the structure run: the control flow depends on "
            "data, and their names and shapes are unknown"
        )
    return [*doubts, *_changed_work(tables, device_work)]


def _changed_work(tables: dict[str, pd.DataFrame], device_work: int | None) -> list[str]:
    if device_work is None:
        return []
    spans, runs = tables["spans"], tables["runs"]
    counts = spans.loc[spans["level"] == Level.KERNEL, "run"].value_counts()
    deepest = runs.loc[runs["deepest"] == Level.KERNEL.name, "run"]
    seen = sorted(set(counts.reindex(deepest, fill_value=0)))
    if seen == [device_work]:
        return []
    return [
        f"without layer and library tracing the program ran {device_work} kernels, copies and sets, with it "
        f"{' to '.join(map(str, sorted({seen[0], seen[-1]})))}: it does other work when it is traced, or from run to run"
    ]


def _closure_doubts(correction: Correction | None) -> list[str]:
    if correction is None:
        return []
    rung, closure = list(correction.closure.items())[-1]
    if closure.low <= 0 <= closure.high or max(abs(closure.low), abs(closure.high)) <= TARGET:
        return []
    return [
        f"the corrected timeline of {rung} is {closure.error:+.1%} off the unprofiled latency, more than chance explains "
        f"({closure.low:+.1%} to {closure.high:+.1%}): its corrected times are wrong by about as much"
    ]
