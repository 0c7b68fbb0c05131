"""One folder per level of the stack, and the one table that says what the driver needs of each.

Whoever traces a level knows its tracer only as a `Tracer`, from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsp.types import Level, LevelStatus, Status, Tracer, by_depth

if TYPE_CHECKING:
    from xsp.levels.layer.structure import Structure


@dataclass(frozen=True)
class TracedLevel:
    """A level whose events a tracer records. Tracers are imported when they are asked for: a
    machine without a GPU has no use for CUPTI.

    `tracer` names the mechanism for people. `availability` gives None if the level can be traced in
    this process now, else one sentence: what is missing and what would bring it. `timed` makes the
    tracer of timed runs; `recorder`, where a level has one, that of the untimed structure run.
    `costs` are the prices that one event of the level can have, fields of
    `analysis.correction.Costs`. What `survives_fork` can be switched off in a forked child.
    """

    tracer: Callable[[], str]
    availability: Callable[[], str | None]
    timed: Callable[[Structure], Tracer]
    recorder: Callable[[], Tracer] | None = None
    costs: tuple[str, ...] = ()
    survives_fork: bool = True


def _layer(structure: Structure) -> Tracer:
    from xsp.levels.layer.tracer import LayerTracer

    return LayerTracer(structure.codes, names=structure.names)


def _layer_tracer_name() -> str:
    from xsp.levels.layer.tracer import tracer_name

    return tracer_name()


def _operators(_structure: Structure) -> Tracer:
    from xsp.levels.op.tracer import OperatorTracer

    return OperatorTracer()


def _operator_availability() -> str | None:
    from xsp.levels.op import tracer

    return tracer.availability()


def _library(_structure: Structure) -> Tracer:
    from xsp.levels.library.tracer import LibraryTracer

    return LibraryTracer()


def _library_recorder() -> Tracer:
    from xsp.levels.library.tracer import LibraryTracer

    return LibraryTracer(structure=True)


def _library_availability() -> str | None:
    from xsp.levels.library import tracer

    return tracer.availability()


def _kernel(_structure: Structure) -> Tracer:
    from xsp.levels.kernel.tracer import KernelTracer

    return KernelTracer()


def _kernel_availability() -> str | None:
    from xsp.levels.kernel import tracer

    return tracer.availability()


TRACED_LEVELS: Mapping[Level, TracedLevel] = {
    Level.LAYER: TracedLevel(
        _layer_tracer_name,
        lambda: None,
        _layer,
        costs=("layer_ns", "functional_ns", "backward_ns"),
    ),
    Level.OP: TracedLevel(
        lambda: "record function callback",
        _operator_availability,
        _operators,
        costs=("operator_ns",),
    ),
    Level.LIBRARY: TracedLevel(
        lambda: "import slots",
        _library_availability,
        _library,
        _library_recorder,
        costs=("library_ns",),
    ),
    Level.KERNEL: TracedLevel(
        lambda: "CUPTI activity",
        _kernel_availability,
        _kernel,
        costs=("launch_ns", "api_ns", "kernel_ns"),
        # Neither CUPTI nor anything else of CUDA may be touched in a forked child.
        survives_fork=False,
    ),
}
"""Every level but MODEL, which the driver itself stamps."""

_MODEL = "host clock and device synchronisation"


def why_unavailable(level: Level) -> str | None:
    """None if `level` can be traced in this process now, else one sentence: what is missing and
    what would bring it.
    """
    return TRACED_LEVELS[level].availability() if level in TRACED_LEVELS else None


def statuses(
    requested: Iterable[Level], refused: Mapping[Level, str] | None = None
) -> list[LevelStatus]:
    """What can be traced of what was asked for, one row per level, outermost first. `refused` says
    of levels why they cannot be traced as things were asked for.
    """
    wanted = set(requested)
    rows = []
    for level in Level:
        # Finding out whether CUPTI works runs a kernel: not for a level that nobody asked for.
        reason: str | None = "not asked for"
        if level in wanted:
            reason = (refused or {}).get(level) or why_unavailable(level)
        status = (
            Status.OFF if level not in wanted else Status.UNAVAILABLE if reason else Status.TRACED
        )
        name = TRACED_LEVELS[level].tracer() if level in TRACED_LEVELS else _MODEL
        rows.append(LevelStatus(level, name, status, reason or ""))
    return rows


def timed_tracers(traced: Iterable[Level], structure: Structure) -> dict[Level, Tracer]:
    """A tracer for timed runs of every level in `traced` that has one, outermost first."""
    return {
        level: TRACED_LEVELS[level].timed(structure)
        for level in by_depth(traced)
        if level in TRACED_LEVELS
    }


def recorders(traced: Iterable[Level]) -> dict[Level, Tracer]:
    """Tracers for the structure run, of those levels that record there what does not change from
    run to run. Layers are recorded by `StructureRecorder`, which makes the codes of all others.
    """
    entries = {level: TRACED_LEVELS[level] for level in by_depth(traced) if level in TRACED_LEVELS}
    return {level: entry.recorder() for level, entry in entries.items() if entry.recorder}
