"""One profile from start to end: choose tracers, warm up, record the structure, climb the ladder, assemble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from xsp import levels as level_table
from xsp.assembly import Vocabulary, assemble
from xsp.capture import Capture
from xsp.driver import Executor, Ladder, add_note, climb, rungs_for, tracing
from xsp.environment import environment
from xsp.errors import TargetError
from xsp.levels import memory
from xsp.levels.layer import LayerTracer
from xsp.levels.structure import Structure, StructureRecorder, discovered, qualified_names
from xsp.progress import bar
from xsp.state import RandomState
from xsp.stopping import BUDGET_S, after_rounds, until_precise
from xsp.target import Target, tensors_in
from xsp.tracing import context
from xsp.types import Columns, Level, LevelStatus, Status, Tracer
from xsp.warmup import warm_up


@dataclass(frozen=True)
class Settings:
    """How to measure; see `xsp.measure` for the meaning of each."""

    levels: tuple[Level, ...] = tuple(Level)
    iterations: int | None = None
    warmup: int | None = None
    budget_s: float = BUDGET_S
    seed: int = 0
    progress: bool | None = None

    @classmethod
    def of(
        cls,
        levels: str | Iterable[Level | str] | None,
        iterations: int | None,
        warmup: int | None,
        budget_s: float | None,
        seed: int,
        progress: bool | None,
    ) -> Settings:
        """Checked settings. Raises LevelError for an unknown level, TargetError for a count that cannot be."""
        for name, value, least in (("iterations", iterations, 1), ("warmup", warmup, 0), ("budget_s", budget_s, 0)):
            if value is not None and value < least:
                raise TargetError(f"{name}={value!r} cannot be: it must be at least {least}, or None for the default")
        budget = BUDGET_S if budget_s is None else budget_s
        return cls(level_table.parse_levels(levels), iterations, warmup, budget, seed, progress)


def climbed(target: Target, settings: Settings, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start from, now by default."""
    trace = context.current()
    statuses = level_table.statuses(settings.levels)
    traced = [status.level for status in statuses if status.status is Status.TRACED]
    executor = Executor(target, random)
    warnings = list(target.notes)
    with executor.restored_afterwards():
        called, roots = _warmed_up(executor, settings, warnings)
        structure, library_calls = _structure(executor, called, roots, traced)
        layer_memory = _memory(executor, structure, warnings)
        tracers = _tracers(traced, structure)
        ladder = Ladder(rungs_for(traced), settings.seed)
        rounds = settings.iterations
        stop = until_precise(budget_s=settings.budget_s) if rounds is None else after_rounds(rounds)
        with bar(f"xsp {target.name}: rounds of {len(ladder.rungs)} rungs", rounds, settings.progress) as shown:
            runs, why = climb(executor, ladder, tracers, stop, lambda _: shown.update() and None)
        facts = environment()
    words = _vocabulary(target, structure, library_calls, layer_memory, tracers)
    tables = assemble(runs, words)
    warnings += _doubts(tables["runs"], why)
    meta = {
        "name": target.name,
        "levels": [_status_row(status) for status in statuses],
        "environment": facts,
        "warnings": warnings,
        "stopped": why,
        "memory_device": layer_memory.device if layer_memory else None,
        "clock": _clock(tracers),
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


def _warmed_up(
    executor: Executor, settings: Settings, warnings: list[str]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """The first run, under watch for the modules it calls, then warm-up runs."""
    called: list[nn.Module] = []
    roots: list[nn.Module] = []
    with _noted("while xsp looked for its layers", called, roots), discovered(called, roots):
        executor.run()

    def run() -> int:
        calls = executor.run()
        return int((calls["end_ns"] - calls["start_ns"]).sum())

    with bar(f"xsp {executor.target.name}: warm-up", None, settings.progress) as shown:
        _, unsettled = warm_up(lambda: (shown.update(), run())[1], settings.warmup, settings.budget_s / 3)
    if unsettled:
        warnings.append(unsettled)
    return called, roots


@contextmanager
def _noted(when: str, called: list[nn.Module], roots: list[nn.Module]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed = error.__dict__.pop("_xsp_layer", None)
        name = qualified_names(roots).get(failed) if failed is not None else None
        where = f"in layer {name!r} ({type(failed).__name__}), " if failed is not None else ""
        add_note(error, f"xsp: raised {where}{when}")
        raise


def _structure(
    executor: Executor, called: list[nn.Module], roots: list[nn.Module], traced: list[Level]
) -> tuple[Structure, list[dict[str, Any]]]:
    """The untimed structure run: layers, and library calls with decoded arguments (`name` and `arguments`)."""
    recorder = StructureRecorder(called, roots)
    active: list[Tracer] = []
    if Level.LIBRARY in traced:
        from xsp.levels.library import LibraryTracer

        active.append(LibraryTracer(structure=True))
    with tracing(active, "in the structure run"), recorder:
        calls = executor.run(recorder.new_run)
    structure = recorder.structure.within(calls)
    if not active:
        return structure, []
    library: Any = active[0]
    events = library.collect()["library_events"]
    inside = _inside(events, calls)
    rows = [
        {"name": library.symbols[symbol], "arguments": library.details[index]}
        for index, symbol in zip(inside, events["symbol"][inside], strict=True)
    ]
    return structure, rows


def _inside(events: Columns, calls: Columns) -> np.ndarray[Any, Any]:
    order = np.argsort(events["start_ns"], kind="stable")
    call = np.searchsorted(calls["start_ns"], events["start_ns"][order], side="right") - 1
    return order[(call >= 0) & (events["start_ns"][order] <= calls["end_ns"][np.maximum(call, 0)])]


def _memory(executor: Executor, structure: Structure, warnings: list[str]) -> memory.LayerMemory | None:
    codes = np.array([layer.code for layer in structure.layers], dtype=np.int64)
    reason = memory.why_unavailable()
    if reason is not None:
        warnings.append(reason)
        return None
    return memory.recorded(executor.run, structure.codes, codes)


def _tracers(traced: list[Level], structure: Structure) -> dict[Level, Tracer]:
    tracers: dict[Level, Tracer] = {}
    if Level.LAYER in traced:
        tracers[Level.LAYER] = LayerTracer(structure.codes, names=structure.names)
    if Level.LIBRARY in traced:
        from xsp.levels.library import LibraryTracer

        tracers[Level.LIBRARY] = LibraryTracer()
    if Level.KERNEL in traced:
        from xsp.levels.kernel import KernelTracer

        tracers[Level.KERNEL] = KernelTracer()
    return tracers


def _vocabulary(
    target: Target,
    structure: Structure,
    library_calls: list[dict[str, Any]],
    layer_memory: memory.LayerMemory | None,
    tracers: dict[Level, Tracer],
) -> Vocabulary:
    layers = structure.layer_records()
    if layer_memory is not None:
        for row, allocated, peak in zip(layers, layer_memory.allocated_bytes, layer_memory.peak_bytes, strict=True):
            row["allocated_bytes"], row["peak_bytes"] = int(allocated), int(peak)
    library: Any = tracers.get(Level.LIBRARY)
    kernel: Any = tracers.get(Level.KERNEL)
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


def _clock(tracers: dict[Level, Tracer]) -> dict[str, Any] | None:
    kernel: Any = tracers.get(Level.KERNEL)
    return asdict(kernel.clock) if kernel is not None and kernel.clock is not None else None


def _doubts(runs: Any, why: str) -> list[str]:
    """Sentences on what is missing or uncertain, from the table of runs."""
    doubts = [why] if "only" in why or "interrupted" in why else []
    if lost := int(runs["lost"].sum()):
        doubts.append(f"{lost} records were lost; counts and device times are too low by what they held")
    if orphans := int(runs["orphans"].sum()):
        doubts.append(f"{orphans} device activities had no launch record and are in no table")
    if unmatched := int(runs["unmatched"].sum()):
        doubts.append(
            f"{unmatched} layer or library events did not occur in the structure run: the control flow depends on data, "
            "and their names and shapes are unknown"
        )
    return doubts


