"""One profile from start to end: prepare, climb the ladder, assemble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from xsp.analysis.correction import Correction, fitted
from xsp.analysis.correction.charges import Costs
from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.overlap import overlapped
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
from xsp.measuring.afterwards.counting import Counters, counted
from xsp.measuring.afterwards.memory import LayerMemory
from xsp.measuring.afterwards.serialized import serialized
from xsp.measuring.executor import Executor
from xsp.measuring.findings import Findings, capture_of
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared, prepare
from xsp.measuring.progress import bar
from xsp.measuring.ranks import Ranks
from xsp.measuring.state import RandomState
from xsp.measuring.stopping import MINIMUM_ROUNDS, rule_for
from xsp.measuring.target import Target
from xsp.measuring.vocabulary import words_of
from xsp.measuring.warnings import (
    about_correction,
    about_modified,
    about_overlap,
    about_runs,
    about_several_gpus,
    about_shared,
    about_short_kernels,
    about_steps,
)
from xsp.tracing import context
from xsp.types import Level

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm


@dataclass(frozen=True)
class _Rounds:
    """The rounds that count, why no more were run, and how the GPU fared meanwhile."""

    runs: list[Run]
    stopped: Stopped
    watch: GpuWatch
    suspect: str | None


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


def climbed(target: Target, options: Options, random: RandomState | None = None) -> Capture:
    """Measure `target` and return everything as a capture. `random` is the state re-runs start
    from, now by default.
    """
    trace = context.current()
    ranks = Ranks.together(alone=options.alone)
    agreed = ("levels", "iterations", "warmup", "seed", "serialize", "metrics", "nvtx")
    ranks.same("options", {name: getattr(options, name) for name in agreed})
    executor = Executor(
        target,
        random,
        accept_changed=options.accept_changed,
        restore=options.restore,
        ranks=ranks,
    )
    with held(), executor.restored_afterwards(), let_through():
        prepared = prepare(executor, options)
        # Only now has a plain callable shown which GPU it uses.
        device = target.device()
        rounds = _rounds(executor, prepared, options, device)
        tables = assemble(rounds.runs, words_of(target, prepared))
        afterwards = _afterwards(executor, prepared, options, tables, device)
    correction = None
    with _dispensable(afterwards.cut_off, "corrected times, costs and closure error"):
        correction = fitted(tables, afterwards.loops)
    doubts = _doubts(prepared, rounds, afterwards, tables, correction)
    found = Findings(
        target.name,
        prepared.statuses,
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
    return capture_of(found, tables)


def _rounds(
    executor: Executor, prepared: Prepared, options: Options, device: int | None
) -> _Rounds:
    with devices.on(device):
        watch = GpuWatch()
    ladder = Ladder(rungs_for(prepared.traced), options.seed)
    rule = executor.ranks.stop_together(rule_for(options))
    title = f"xsp {executor.target.name}: rounds of {len(ladder.rungs)} rungs"
    with bar(title, options.iterations, options.progress, "round") as shown:
        finished = partial(_after, shown=shown, watch=watch)
        runs, stopped = climb(executor, ladder, prepared.tracers, rule, finished)
    kept, suspect = kept_rounds(watch.states, runs[-1].round + 1, MINIMUM_ROUNDS)
    return _Rounds([run for run in runs if run.round in kept], stopped, watch, suspect)


def _afterwards(
    executor: Executor,
    prepared: Prepared,
    options: Options,
    tables: dict[str, pd.DataFrame],
    device: int | None,
) -> _Afterwards:
    """Runs of their own, whose latencies are not used. Adds tables."""
    deepest_runs = int((tables["runs"]["deepest"] == Level.KERNEL.name).sum())
    done = _Afterwards(Costs(), len(overlapped(tables)) // max(deepest_runs, 1))
    with _dispensable(done.cut_off, "the tracers' costs in tight loops"), devices.on(device):
        done.loops = tight_loops(prepared.tracers)
    overlapping = executor.ranks.any(done.shared > 0)
    wanted = options.serialize or (options.serialize is None and overlapping)
    missing = [level.name for level in (Level.LAYER, Level.KERNEL) if level not in prepared.traced]
    if options.serialize and missing:
        done.cut_off.append(Doubt.of(Slug.NOT_SERIALIZED, missing=missing))
    elif wanted and not missing:
        with _dispensable(done.cut_off, "layers with the device to themselves"):
            tables["serialized"] = serialized(executor, executor.target, prepared)
    if options.metrics:
        done.counters = counted(executor, tables, options.metrics, options.caches, options.progress)
        tables["counters"] = done.counters.table
    # After the counters: torch's profiler, once used, keeps CUPTI's callbacks, which flushing the
    # caches needs.
    with _dispensable(done.cut_off, "bytes allocated per layer"):
        done.memory, doubts = memory.measured(executor.run, prepared.structure)
        done.cut_off += doubts
    if done.memory is not None:
        tables["layers"] = memory.filled(tables["layers"], done.memory)
    if options.nvtx:
        with _dispensable(done.cut_off, "NVTX ranges for other tools"):
            annotated_run(executor, prepared.structure, layers=Level.LAYER in prepared.traced)
    return done


def _doubts(
    prepared: Prepared,
    rounds: _Rounds,
    afterwards: _Afterwards,
    tables: dict[str, pd.DataFrame],
    correction: Correction | None,
) -> list[Doubt | str]:
    return [
        *prepared.executor.target.notes,
        *about_modified(prepared.executor.modified()),
        *about_shared(prepared.executor.shared),
        *about_steps(prepared.executor.steps_made()),
        *prepared.doubts,
        *(sentence for sentence in (rounds.watch.why, rounds.suspect) if sentence),
        *about_others(rounds.watch.states, len(rounds.watch.states)),
        *about_runs(tables, rounds.stopped, prepared.device_work),
        *about_short_kernels(tables, afterwards.loops.kernel_ns),
        *about_several_gpus(tables),
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


def _after(number: int, shown: tqdm[NoReturn], watch: GpuWatch) -> None:
    shown.update()
    watch.read(number - 1)
