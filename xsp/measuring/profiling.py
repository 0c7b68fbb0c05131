"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from xsp.analysis.correction import Correction, fitted
from xsp.analysis.correction.charges import Costs
from xsp.analysis.spans.assembly import assemble_runs
from xsp.analysis.spans.overlap import find_overlaps
from xsp.analysis.spans.rungs import runs_of
from xsp.capture.file import Capture
from xsp.capture.run import Run
from xsp.doubts import Doubt, Slug, Stopped
from xsp.levels._native.signals import held, let_through
from xsp.levels.layer.compiled import compiled_again
from xsp.machine import devices
from xsp.machine.gpu_state import GpuWatch, about_others, kept_rounds
from xsp.measuring.afterwards import memory
from xsp.measuring.afterwards.annotated import annotated_run
from xsp.measuring.afterwards.calibration import tight_loops
from xsp.measuring.afterwards.counting import Counters, count_kernels
from xsp.measuring.afterwards.memory import LayerMemory
from xsp.measuring.afterwards.serialized import expected_s, serialize_layers
from xsp.measuring.deadline import Deadline, fit_s
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
from xsp.measuring.executor import Executor
from xsp.measuring.facts import CaptureFacts, capture_of, ladder_told
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


@dataclass
class _Afterwards:
    """What was measured once the rounds were over; `shared` counts activities that overlap another
    layer's.
    """

    loops: Costs
    shared: int
    counters: Counters | None = None
    memory: LayerMemory | None = None
    cut_off: list[Doubt | str] = field(default_factory=list)


def measure_target(target: Target, options: Options, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start
    from, now by default.
    """
    deadline = Deadline.of(options)
    trace = context.current()
    ranks = Ranks.together(alone=options.alone)
    agreed = ("levels", "ladder", "iterations", "warmup", "seed", "serialize", "metrics", "nvtx")
    ranks.same("options", {name: getattr(options, name) for name in agreed})
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
        deadline.reserve(memory.expected_s(prepared.structure_s))
        # Only now has a plain callable shown which GPU it uses.
        device = target.device()
        rounds = _rounds(executor, prepared, options, device, deadline, shown)
        shown.begin("tables")
        words = words_of(target, prepared)
        found = assemble_runs(rounds.runs, words)
        tables = found.tables
        rounds.doubts.extend(about_not_joined(found.differences, words))
        shown.begin("what comes after the rounds")
        afterwards = _afterwards(executor, prepared, options, tables, device, deadline)
        # The time for the run that records memory was kept from the rounds only.
        deadline.release()
        correction = _correction(tables, afterwards, rounds.stopped.rounds, deadline)
        _last_runs(executor, prepared, options, tables, afterwards, deadline)
    doubts = _doubts(prepared, rounds, afterwards, tables, correction)
    facts = CaptureFacts(
        target.name,
        ladder_told(prepared.statuses, tables),
        prepared.tracers,
        rounds.stopped,
        rounds.watch,
        doubts,
        device,
        trace,
        correction,
        afterwards.counters,
        afterwards.memory,
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


def _afterwards(
    executor: Executor,
    prepared: Prepared,
    options: Options,
    tables: dict[str, pd.DataFrame],
    device: int | None,
    deadline: Deadline,
) -> _Afterwards:
    """Runs of their own, whose latencies are not used. Adds tables. What was not asked for is left
    out where no time is left for it.
    """
    deepest_runs = len(runs_of(tables["runs"], Level.KERNEL))
    done = _Afterwards(Costs(), len(find_overlaps(tables)) // max(deepest_runs, 1))
    with _dispensable(done.cut_off, "the tracers' costs in tight loops"), devices.on(device):
        done.loops = tight_loops(prepared.tracers)
    _serialize(executor, prepared, options, tables, done, deadline)
    if options.metrics:
        done.counters = count_kernels(
            executor, tables, options.metrics, options.caches, options.progress
        )
        tables["counters"] = done.counters.table
    return done


def _serialize(
    executor: Executor,
    prepared: Prepared,
    options: Options,
    tables: dict[str, pd.DataFrame],
    done: _Afterwards,
    deadline: Deadline,
) -> None:
    """Layers with the device to themselves, if that was asked for, or if layers overlapped on any
    rank and there is time.
    """
    what = "layers with the device to themselves"
    overlapping = executor.ranks.any(done.shared > 0)
    wanted = options.serialize or (options.serialize is None and overlapping)
    if wanted and not options.serialize:
        latest_ns = tables["runs"]["latency_ns"].iloc[-len(prepared.traced) :]
        seconds = expected_s(float(latest_ns.max())) + fit_s(len(tables["spans"]))
        wanted = _in_time(deadline, seconds, done.cut_off, what, executor.ranks)
    missing = [level.name for level in (Level.LAYER, Level.KERNEL) if level not in prepared.traced]
    if options.serialize and missing:
        done.cut_off.append(Doubt.of(Slug.NOT_SERIALIZED, missing=missing))
    elif wanted and not missing:
        with _dispensable(done.cut_off, what):
            tables["serialized"] = serialize_layers(executor, executor.target, prepared)


def _last_runs(
    executor: Executor,
    prepared: Prepared,
    options: Options,
    tables: dict[str, pd.DataFrame],
    done: _Afterwards,
    deadline: Deadline,
) -> None:
    """Memory and ranges for other tools: after the fit, which matters more if time is short."""
    # After the counters: torch's profiler, once used, keeps CUPTI's callbacks, which flushing the
    # caches needs.
    memory_s = memory.expected_s(prepared.structure_s)
    what = "bytes allocated per layer"
    if _in_time(deadline, memory_s, done.cut_off, what, executor.ranks):
        with _dispensable(done.cut_off, what):
            done.memory, doubts = memory.measure_memory(executor.run, prepared.structure)
            done.cut_off += doubts
    if done.memory is not None:
        tables["layers"] = memory.fill_bytes(tables["layers"], done.memory)
    if options.nvtx:
        with _dispensable(done.cut_off, "NVTX ranges for other tools"):
            annotated_run(executor, prepared.structure, layers=Level.LAYER in prepared.traced)


def _correction(
    tables: dict[str, pd.DataFrame], afterwards: _Afterwards, rounds: int, deadline: Deadline
) -> Correction | None:
    """The fit of costs, where there is time for it and there was for rounds enough."""
    what = "corrected times, costs and closure error"
    if not _in_time(deadline, fit_s(len(tables["spans"])), afterwards.cut_off, what):
        return None
    correction = None
    with _dispensable(afterwards.cut_off, what):
        correction = fitted(tables, afterwards.loops)
        several = tables["runs"]["rung"].nunique() > 1
        if correction is None and several and rounds < MINIMUM_ROUNDS and deadline.is_limited:
            afterwards.cut_off.append(Doubt.of(Slug.OUT_OF_TIME, missing=what))
    return correction


def _doubts(
    prepared: Prepared,
    rounds: _Rounds,
    afterwards: _Afterwards,
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
        *about_other_launches(rounds.runs, tables),
        *about_overlap(afterwards.shared, "serialized" in tables),
        *compiled_again(prepared.compilations),
        *about_correction(correction),
        *(afterwards.counters.doubts if afterwards.counters else ()),
        *afterwards.cut_off,
    ]


@contextmanager
def _dispensable(cut_off: list[Doubt | str], what: str) -> Iterator[None]:
    """Work after the rounds: interrupting it costs what it would have given, and a warning, but not
    the rounds.
    """
    try:
        yield
    except KeyboardInterrupt:
        cut_off.append(Doubt.of(Slug.CUT_SHORT, missing=what))


def _in_time(
    deadline: Deadline,
    seconds: float,
    cut_off: list[Doubt | str],
    what: str,
    ranks: Ranks | None = None,
) -> bool:
    """Whether there is time for work of so many seconds, on every rank where all do it together;
    if not, a warning says what is missing.
    """
    late = not deadline.fits(seconds)
    if ranks is not None:
        late = ranks.any(late)
    if late:
        cut_off.append(Doubt.of(Slug.OUT_OF_TIME, missing=what))
    return not late


def _after(number: int, shown: Phases, watch: GpuWatch) -> None:
    shown.step(rounds=1)
    watch.read(number - 1)
