"""From the loop's runs to a capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xsp.analysis.correction import fitted
from xsp.analysis.spans.assembly import assemble_runs
from xsp.analysis.spans.overlap import overlapping_in_a_run
from xsp.analysis.spans.rungs import runs_of
from xsp.capture.file import Capture
from xsp.capture.run import Run
from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.levels.layer.compiled import compiled_again
from xsp.levels.layer.structure import Structure
from xsp.machine import devices
from xsp.machine.gpu_state import GpuWatch, about_others, kept_rounds
from xsp.measuring.afterwards.calibration import tight_loops
from xsp.measuring.along.compiled_steps import CompiledSteps
from xsp.measuring.along.step_watch import Step
from xsp.measuring.deadline import Deadline
from xsp.measuring.doubts_about import (
    about_correction,
    about_not_joined,
    about_overlap,
    about_runs,
    about_several_gpus,
    about_short_kernels,
)
from xsp.measuring.doubts_about_graphs import about_graphs
from xsp.measuring.facts import CaptureFacts, capture_of, told
from xsp.measuring.other_launches import about_other_launches
from xsp.measuring.state import RandomState
from xsp.measuring.stopping import MINIMUM_ROUNDS
from xsp.measuring.vocabulary import call_row, vocabulary
from xsp.provenance.compilations import facts_of_compiling
from xsp.tracing.context import TraceContext
from xsp.types import Level, LevelStatus, Status, Tracer

MOST_NAMED = 3
"""Kinds of other steps that a sentence names."""


@dataclass(frozen=True)
class Known:
    """What is known of the loop once its structure step has ended (see `Prepared`). `step` is that
    step, `device` the GPU that the model is on, `begun_ns` when the loop began (since 1970),
    `place` this rank's among the others, `compiled` what is found out of compiled code, None where
    none ran.
    """

    name: str
    statuses: tuple[LevelStatus, ...]
    structure: Structure
    recorded: Mapping[Level, list[dict[str, Any]]]
    tracers: Mapping[Level, Tracer]
    step: Step
    device: int | None
    watch: GpuWatch
    compilations: int
    begun_ns: int
    trace: TraceContext
    place: Mapping[str, Any] | None = None
    compiled: CompiledSteps | None = None
    doubts: list[Doubt | str] = field(default_factory=list)

    @property
    def traced(self) -> tuple[Level, ...]:
        """The levels that are traced, outermost first."""
        return tuple(status.level for status in self.statuses if status.status is Status.TRACED)


@dataclass
class LoopRuns:
    """The runs of whole rounds, and why there are no more; None while or where the loop ended."""

    runs: list[Run] = field(default_factory=list)
    rounds: int = 0
    stopped: Stopped | None = None


def captured(
    known: Known,
    done: LoopRuns,
    others: Mapping[str, int],
    made: int,
    deadline: Deadline,
    *,
    interrupted: bool = False,
) -> Capture:
    """Assemble and assess, until the deadline where that can be left out. The random state is left
    as found.
    """
    if interrupted and done.stopped is None:
        done.stopped = Stopped(StopReason.INTERRUPTED, done.rounds)
    before = RandomState.current()
    try:
        return _captured(known, done, others, made, deadline)
    finally:
        before.restore(RandomState.current().changed(before))


def _captured(
    known: Known, done: LoopRuns, others: Mapping[str, int], made: int, deadline: Deadline
) -> Capture:
    watch = known.watch
    kept, suspect = kept_rounds(watch.states, done.rounds, MINIMUM_ROUNDS)
    stopped = done.stopped or _loop_ended(done.rounds, made)
    words = vocabulary([_call_row(known)], known.structure, known.recorded, known.tracers)
    runs = [run for run in done.runs if run.round in kept]
    found = assemble_runs(runs, words)
    tables = found.tables
    with devices.on(known.device):
        loops = tight_loops(known.tracers)
    correction = fitted(tables, loops)
    deepest = len(runs_of(tables["runs"], Level.KERNEL))
    led, not_led = known.compiled.tables(tables, words, deadline) if known.compiled else ({}, [])
    tables |= led
    doubts = [
        *known.doubts,
        *_about_other_steps(others, made),
        *(sentence for sentence in (watch.why, suspect) if sentence),
        *about_others(watch.states, len(watch.states)),
        *about_runs(tables, stopped, None, len(known.recorded.get(Level.LIBRARY, ()))),
        *about_not_joined(found.differences, words),
        *about_short_kernels(tables, loops.kernel_ns),
        *about_several_gpus(tables),
        *about_other_launches(runs, tables),
        *about_graphs(found),
        *about_overlap(overlapping_in_a_run(tables, deepest), serialized=False),
        *compiled_again(known.compilations),
        *about_correction(correction),
        *not_led,
    ]
    facts = CaptureFacts(
        known.name,
        told(known.statuses, known.tracers, tables),
        known.tracers,
        stopped,
        watch,
        doubts,
        known.device,
        known.trace,
        correction,
        place=known.place,
        compiled=facts_of_compiling(known.begun_ns),
    )
    return capture_of(facts, tables)


def _loop_ended(rounds: int, made: int) -> Stopped:
    said = f"the loop ended after {made} steps, {rounds} rounds of which are kept"
    return Stopped(StopReason.OWN_RULE, rounds, said=said)


def _call_row(known: Known) -> dict[str, Any]:
    first = known.step.first_call
    shapes = [list(shape) for shape in first.shapes] if first else []
    return call_row(known.name, 0, shapes, list(first.dtypes) if first else [])


def _about_other_steps(others: Mapping[str, int], made: int) -> list[Doubt]:
    if not others:
        return []
    by_number = sorted(others.items(), key=lambda item: -item[1])
    facts = {"steps": sum(others.values()), "made": made, "named": dict(by_number[:MOST_NAMED])}
    return [Doubt.of(Slug.OTHER_STEPS, kinds=len(others), **facts)]
