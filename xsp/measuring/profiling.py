"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from xsp.analysis.correction import Correction
from xsp.analysis.spans.assembly import assemble_runs
from xsp.capture.file import Capture
from xsp.capture.run import Run
from xsp.doubts import Doubt, Slug, Stopped
from xsp.levels._native.signals import held, let_through
from xsp.levels.layer.compiled import compiled_again
from xsp.machine import devices
from xsp.machine.gpu_state import GpuWatch, about_others, kept_rounds
from xsp.measuring.afterwards import memory
from xsp.measuring.afterwards.extra_runs import ExtraRuns
from xsp.measuring.captured import with_captured
from xsp.measuring.collecting import no_garbage_collection
from xsp.measuring.deadline import Deadline
from xsp.measuring.doubts_about import (
    about_correction,
    about_modified,
    about_not_joined,
    about_overlap,
    about_runs,
    about_several_gpus,
    about_shared,
    about_short_kernels,
    about_steps,
)
from xsp.measuring.doubts_about_graphs import about_graphs_of
from xsp.measuring.executor import Executor
from xsp.measuring.facts import CaptureFacts, capture_of, told
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import NESTED, Options
from xsp.measuring.other_launches import about_other_launches
from xsp.measuring.preparation import Prepared, prepare
from xsp.measuring.progress import Phases, phases
from xsp.measuring.ranks import Ranks
from xsp.measuring.state import RandomState
from xsp.measuring.stopping import MINIMUM_ROUNDS, after_rounds, rule_for
from xsp.measuring.target import Target
from xsp.measuring.vocabulary import words_of
from xsp.provenance.compilations import facts_of_compiling
from xsp.tracing import context
from xsp.types import Level

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Rounds:
    """The rounds that count, why no more were run, how the GPU fared meanwhile, and what was found
    out about the ladder.
    """

    runs: list[Run]
    stopped: Stopped
    watch: GpuWatch
    suspect: str | None
    doubts: list[Doubt]
    about_launches: list[Doubt] = field(default_factory=list)


def measure_target(target: Target, options: Options, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start
    from, now by default.
    """
    begun_ns = time.time_ns()
    deadline = Deadline.of(options)
    ranks = Ranks.together(alone=options.alone)
    agreed = ("levels", "ladder", "iterations", "warmup", "seed", "serialize", "metrics", "nvtx")
    ranks.same("options", {name: getattr(options, name) for name in agreed})
    trace = ranks.in_one_trace(context.current())
    executor = Executor(
        target,
        random,
        accept_changed=options.accept_changed,
        restore=options.restore,
        ranks=ranks,
    )
    with (
        phases(f"xsp {target.name}", options, deadline) as shown,
        held(),
        executor.restored_afterwards(),
        let_through(),
    ):
        prepared = prepare(executor, options, deadline, shown)
        prepared = with_captured(prepared, options, shown)
        layers = len(prepared.structure.layers)
        if Level.KERNEL not in prepared.traced:
            deadline.without_kernels()
        deadline.reserve(memory.expected_s(prepared.structure_s, layers))
        # Only now has a plain callable shown which GPU it uses.
        device = target.device()
        rounds = _rounds(executor, prepared, options, device, deadline, shown)
        shown.begin("tables")
        with no_garbage_collection():
            tables = _assembled(rounds, prepared, options)
        shown.begin("what comes after the rounds")
        afterwards = ExtraRuns(executor, prepared, options, tables, deadline)
        afterwards.before_the_fit(device)
        # The time for the run that records memory was kept from the rounds only.
        deadline.release()
        correction = afterwards.fit(rounds.stopped.rounds)
        afterwards.after_the_fit()
    doubts = _doubts(prepared, rounds, afterwards, tables, correction)
    facts = CaptureFacts(
        target.name,
        told(prepared.statuses, prepared.tracers, tables),
        prepared.tracers,
        rounds.stopped,
        rounds.watch,
        doubts,
        device,
        trace,
        correction,
        afterwards.counters,
        afterwards.memory,
        ranks.place,
        facts_of_compiling(begun_ns),
    )
    return capture_of(facts, tables)


def _rounds(
    executor: Executor,
    prepared: Prepared,
    options: Options,
    device: int | None,
    deadline: Deadline,
    shown: Phases,
) -> _Rounds:
    with devices.on(device):
        watch = GpuWatch()
    ladder, doubts = _ladder(executor, prepared, options)
    rule = executor.ranks.stop_together(rule_for(options, deadline))
    shown.begin(f"rounds of {len(ladder.rungs)} rungs")
    finished = partial(_after, shown=shown, watch=watch)
    runs, stopped = climb(executor, ladder, prepared.tracers, rule, finished)
    kept, suspect = kept_rounds(watch.states, runs[-1].round + 1, MINIMUM_ROUNDS)
    return _Rounds([run for run in runs if run.round in kept], stopped, watch, suspect, doubts)


def _ladder(executor: Executor, prepared: Prepared, options: Options) -> tuple[Ladder, list[Doubt]]:
    """The ladder to climb: the one asked for, but for a separate one whose events do not repeat
    those of an annotated run in a trial round, which is not used; that is climbed nested, and said.
    """
    nested, wanted = (
        Ladder(rungs_for(prepared.traced, which), options.seed)
        for which in (NESTED, options.ladder)
    )
    if wanted == nested:
        return nested, []
    runs, _ = climb(executor, wanted, prepared.tracers, after_rounds(1))
    words = words_of(executor.target, prepared)
    doubts = about_not_joined(assemble_runs(runs, words).differences, words)
    if not executor.ranks.any(bool(doubts)):
        return wanted, []
    return nested, doubts or [Doubt.of(Slug.NOT_JOINED)]


def _assembled(rounds: _Rounds, prepared: Prepared, options: Options) -> dict[str, pd.DataFrame]:
    """The tables of the rounds, whose runs, which are as large, are let go."""
    words = words_of(prepared.executor.target, prepared)
    found = assemble_runs(rounds.runs, words, spent=True)
    rounds.doubts.extend(about_not_joined(found.differences, words))
    rounds.doubts.extend(about_graphs_of(found, prepared, options))
    rounds.about_launches.extend(about_other_launches(rounds.runs, found.tables))
    rounds.runs.clear()
    return found.tables


def _doubts(
    prepared: Prepared,
    rounds: _Rounds,
    afterwards: ExtraRuns,
    tables: dict[str, pd.DataFrame],
    correction: Correction | None,
) -> list[Doubt | str]:
    return [
        *prepared.executor.target.doubts,
        *about_modified(prepared.executor.modified()),
        *about_shared(prepared.executor.shared),
        *about_steps(prepared.executor.steps_made()),
        *prepared.doubts,
        *(sentence for sentence in (rounds.watch.why, rounds.suspect) if sentence),
        *about_others(rounds.watch.states, len(rounds.watch.states)),
        *about_runs(
            tables,
            rounds.stopped,
            prepared.device_work,
            len(prepared.recorded.get(Level.LIBRARY, ())),
        ),
        *rounds.doubts,
        *about_short_kernels(tables, afterwards.loops.kernel_ns),
        *about_several_gpus(tables),
        *rounds.about_launches,
        *about_overlap(afterwards.shared, "serialized" in tables),
        *compiled_again(prepared.compilations),
        *about_correction(correction),
        *(afterwards.counters.doubts if afterwards.counters else ()),
        *afterwards.cut_off,
    ]


def _after(number: int, shown: Phases, watch: GpuWatch) -> None:
    shown.step(rounds=1)
    watch.read(number - 1)
