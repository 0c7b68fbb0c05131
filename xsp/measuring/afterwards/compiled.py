"""Runs in which calls of compiled graphs are noted lead the kernels of compiled code to the source
layers that they come from, and tell what the host spends around them.

Their latencies are not used. What a kernel comes from holds for those of the rounds that have the
same place, since the target's work does not change from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from xsp.analysis.compiled.activities import CalledGraphs, led_activities, split_by_kind
from xsp.analysis.compiled.graph_calls import CALLS, code_around, graph_times, layer_spans_of
from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.graph_launches import replayed_in
from xsp.analysis.spans.sequence import activity_sequence
from xsp.capture.run import Run, call_of
from xsp.levels import recorders
from xsp.levels._native.signals import held
from xsp.levels.layer.naming import is_leaf
from xsp.machine.compiler_internals import (
    MovedError,
    has_graph_trees,
    launched_singly,
    live_graph,
)
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, climb, rungs_for
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.switching import switched, tracing
from xsp.measuring.vocabulary import words_of
from xsp.provenance.calls import Entries, GraphCalls
from xsp.provenance.graphs import explained
from xsp.provenance.tables import described
from xsp.types import Level, RunSpec
from xsp.words.slugs import with_slug

if TYPE_CHECKING:
    from xsp.types import Tables

GENERATED_S = 5.0
"""What generating the code of a graph once more takes, often."""

TIMED_RUNS = 5


def expected_s(latency_ns: float) -> float:
    """Seconds that the runs take, settling ones included."""
    return (2 + TIMED_RUNS) * (1 + SETTLING_RUNS) * latency_ns / 1e9


@dataclass(frozen=True)
class _Noted(CalledGraphs):
    """Calls of some runs of a rung, which `run` of CALLS counts from 0, and the graphs that were
    called, by number.
    """

    handles: list[Any]


@dataclass(frozen=True)
class _Watched:
    """What was noted of the deepest rung, of five runs of MODEL and LAYER, and of the deepest rung
    without the compiler's CUDA graphs (None where there are none); how the target enters its code;
    and sentences on what could not be noted.
    """

    deepest: _Noted
    timed: _Noted
    singly: _Noted | None
    entries: Entries
    doubts: tuple[str, ...] = ()


def lead_kernels(
    executor: Executor, prepared: Prepared, tables: Tables, deadline: Deadline
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables `compiled_graphs`, `compiled_launches`, `compiled_origins`, `compiled_kernels` and
    `compiled_copies` of a profile with these tables, none where no compiled code ran; and sentences
    on what is missing.
    """
    try:
        watched = _watched(executor, prepared)
    except MovedError as error:
        return {}, [not_led(str(error))]
    deepest, timed = watched.deepest, watched.timed
    if not len(deepest.calls):
        return {}, []
    graphs = explained(
        [live_graph(each) for each in deepest.handles],
        prepared.recorder,
        lambda: deadline.fits(GENERATED_S),
        watched.entries.modes,
    )
    prefixes = _modules(executor, deepest)
    rows = described(list(zip(graphs.graphs, prefixes, strict=True)))
    doubts = [*watched.doubts, *(not_led(each) for each in graphs.remarks)]
    if not rows.launches:
        return {}, [*doubts, not_led("the code of its graphs is not Python, and is not read")]
    phases = [graph.phase for graph in graphs.graphs]
    made = {
        "compiled_graphs": graph_times(timed.calls, timed.tables["spans"], phases),
        "compiled_launches": pd.DataFrame(rows.launches),
        "compiled_origins": pd.DataFrame(rows.origins).astype({"flops": "Int64"}),
    }
    if Level.KERNEL in prepared.traced:
        names = [activity_sequence(each)["name"].tolist() for each in (deepest.tables, tables)]
        if names[0] == names[1]:
            led = led_activities(deepest, watched.singly, made["compiled_launches"])
            made["compiled_kernels"], made["compiled_copies"] = split_by_kind(led)
        else:
            doubts.append(not_led("the run in which they were looked for ran other kernels"))
    return made, doubts


def _watched(executor: Executor, prepared: Prepared) -> _Watched:
    """Runs under watch. All ranks make the same, whichever of them run compiled code. Raises
    MovedError where torch has not what is watched.
    """
    entries = Entries()
    with switched(entries.watched()):
        deepest = _noted(executor, prepared, rungs_for(prepared.traced)[-1], 1, [], entries)
    spec = RunSpec(tuple(each for each in prepared.traced if each <= Level.LAYER))
    timed = _noted(executor, prepared, spec, TIMED_RUNS, deepest.handles)
    # Other graphs are the program's own, and `captured_from` leads their kernels.
    is_replaying = has_graph_trees() and len(replayed_in(deepest.tables)) > 0
    if not executor.ranks.any(is_replaying):
        return _Watched(deepest, timed, None, entries)
    try:
        return _Watched(deepest, timed, _launched_singly(executor, prepared, deepest), entries)
    except MovedError as error:
        return _Watched(deepest, timed, None, entries, (not_led(str(error)),))
    except torch.OutOfMemoryError:
        why = "there is no memory to run it without its CUDA graphs"
        return _Watched(deepest, timed, None, entries, (not_led(why),))


def _launched_singly(executor: Executor, prepared: Prepared, replaying: _Noted) -> _Noted:
    """The deepest rung with the compiler's CUDA graphs left out, so that each kernel has the
    library call that launches it.
    """
    others = recorders(prepared.traced)
    with switched(launched_singly()):
        with held(), tracing(list(others.values()), "while its CUDA graphs were left out"):
            calls = executor.run()
        rows = {level: tracer.recorded(calls) for level, tracer in others.items()}
        known = replace(prepared, recorded=rows)
        return _noted(executor, known, rungs_for(prepared.traced)[-1], 1, replaying.handles)


def not_led(why: str) -> str:
    """The sentence on kernels of compiled code of which the source is not known."""
    sentence = f"kernels of compiled code are not all led to source layers: {why}"
    return with_slug("compiled-not-led", sentence)


def _noted(
    executor: Executor,
    prepared: Prepared,
    spec: RunSpec,
    rounds: int,
    known: list[Any],
    entries: Entries | None = None,
) -> _Noted:
    """Runs of one rung under watch. `known` are graphs that have a number already; calls of others
    are left out where there are any. `entries` watches these runs too.
    """
    watch = GraphCalls()
    with watch.watched():
        ladder = Ladder((spec,))
        runs, _ = climb(executor, ladder, prepared.tracers, after_rounds(rounds))
    handles = known or list({id(call.handle): call.handle for call in watch.calls}.values())
    number = {id(handle): place for place, handle in enumerate(handles)}
    rows = [
        (-1, number[id(call.handle)], call.thread, call.start_ns, call.end_ns)
        for call in watch.calls
        if id(call.handle) in number
    ]
    calls, tables = _within(rows, runs), assemble(runs, words_of(executor.target, prepared))
    copying, entered = (
        _within([(-1, -1, call.thread, call.start_ns, call.end_ns) for call in each], runs)
        for each in (watch.copying, entries.calls if entries is not None else [])
    )
    around = code_around(calls, entered, tables)
    return _Noted(calls, tables, copying, around, handles)


def _within(rows: Sequence[tuple[int, ...]], runs: list[Run]) -> pd.DataFrame:
    """Rows of CALLS that lie in these runs, in order."""
    calls = pd.DataFrame(rows, columns=list(CALLS), dtype=np.int64)
    calls["run"] = _run_of(calls["start_ns"].to_numpy(), runs)
    return calls[calls["run"] >= 0].sort_values(["run", "start_ns"], ignore_index=True)


def _run_of(start_ns: npt.NDArray[np.int64], runs: list[Run]) -> npt.NDArray[np.int64]:
    """The run in whose model calls each stamp lies, -1 for none: settling runs, for example."""
    run = np.full(len(start_ns), -1, dtype=np.int64)
    for number, each in enumerate(runs):
        run[call_of(start_ns, each.model_calls) >= 0] = number
    return run


def _modules(executor: Executor, noted: _Noted) -> list[str]:
    """For each graph the qualified name of the module that was compiled, "" for the model itself
    and for a function.
    """
    names = [""] * len(noted.handles)
    model = executor.target.model
    if model is not None and is_leaf(model):
        return names
    spans, layers = noted.tables["spans"], noted.tables["layers"]
    at = layer_spans_of(noted.calls, spans)
    for graph, span in zip(noted.calls["graph"].tolist(), at.tolist(), strict=True):
        if span < 0 or names[graph]:
            continue
        row = layers.iloc[spans["detail"].iloc[span]]
        origin = layers.iloc[row["forward"]] if row["forward"] >= 0 else row
        names[graph] = str(origin["name"]) if origin["kind"] == "module" else ""
    called = noted.tables["modules"]
    # One module with others below it, and none around it, is the model: names begin below it, as
    # they would if it were not compiled.
    is_model = called["is_leaf"].all() and len(set(names)) == 1
    return [""] * len(names) if is_model else names
