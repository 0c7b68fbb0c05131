"""Runs in which calls of compiled graphs are noted, so that their kernels can be led to the source
layers that they come from (`xsp.measuring.leading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from xsp.analysis.spans.graph_launches import replayed_in
from xsp.levels import recorders
from xsp.levels._native.signals import held
from xsp.machine.compiler_internals import MovedError, has_graph_trees, launched_singly
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, climb, rungs_for
from xsp.measuring.leading import (
    GENERATED_S,
    TIMED_RUNS,
    Graph,
    Noted,
    Watched,
    led,
    not_led,
    noted,
)
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.switching import switched, tracing
from xsp.measuring.vocabulary import words_of
from xsp.provenance.calls import Entries, GraphCalls
from xsp.types import Level, RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from xsp.types import Tables


def expected_s(latency_ns: float) -> float:
    """Seconds that the runs take, settling ones included."""
    return (2 + TIMED_RUNS) * (1 + SETTLING_RUNS) * latency_ns / 1e9


def lead_kernels(
    executor: Executor, prepared: Prepared, tables: Tables, deadline: Deadline
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Tables and sentences of `leading.led`, from runs of the target under watch."""
    try:
        watched = _watched(executor, prepared)
    except MovedError as error:
        return {}, [not_led(str(error))]
    return led(
        watched,
        prepared.recorder,
        prepared.traced,
        tables,
        lambda: deadline.fits(GENERATED_S),
    )


def _watched(executor: Executor, prepared: Prepared) -> Watched:
    """Runs under watch. All ranks make the same, whichever of them run compiled code. Raises
    MovedError where torch has not what is watched.
    """
    entries = Entries()
    with switched(entries.watched()):
        deepest = _noted(executor, prepared, rungs_for(prepared.traced)[-1], 1, (), entries)
    spec = RunSpec(tuple(each for each in prepared.traced if each <= Level.LAYER))
    timed = _noted(executor, prepared, spec, TIMED_RUNS, deepest.graphs)
    # Other graphs are the program's own, and `captured_from` leads their kernels.
    is_replaying = has_graph_trees() and len(replayed_in(deepest.tables)) > 0
    if not executor.ranks.any(is_replaying):
        return Watched(deepest, timed, None, entries)
    try:
        return Watched(deepest, timed, _launched_singly(executor, prepared, deepest), entries)
    except MovedError as error:
        return Watched(deepest, timed, None, entries, (not_led(str(error)),))
    except torch.OutOfMemoryError:
        why = "there is no memory to run it without its CUDA graphs"
        return Watched(deepest, timed, None, entries, (not_led(why),))


def _launched_singly(executor: Executor, prepared: Prepared, replaying: Noted) -> Noted:
    """The deepest rung with the compiler's CUDA graphs left out, so that each kernel has the
    library call that launches it.
    """
    others = recorders(prepared.traced)
    with switched(launched_singly()):
        with held(), tracing(list(others.values()), "while its CUDA graphs were left out"):
            calls = executor.run()
        rows = {level: tracer.recorded(calls) for level, tracer in others.items()}
        known = replace(prepared, recorded=rows)
        return _noted(executor, known, rungs_for(prepared.traced)[-1], 1, replaying.graphs)


def _noted(
    executor: Executor,
    prepared: Prepared,
    spec: RunSpec,
    rounds: int,
    known: Sequence[Graph],
    entries: Entries | None = None,
) -> Noted:
    """Runs of one rung under watch (see `leading.noted`)."""
    watch = GraphCalls()
    with watch.watched():
        ladder = Ladder((spec,))
        runs, _ = climb(executor, ladder, prepared.tracers, after_rounds(rounds))
    target = executor.target
    return noted(watch, runs, words_of(target, prepared), target.model, known, entries)
