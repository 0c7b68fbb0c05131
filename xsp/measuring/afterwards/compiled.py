"""Runs in which calls of compiled graphs are noted lead the kernels of compiled code to the source
layers that they come from, and tell what the host spends around them.

Their latencies are not used. What a kernel comes from holds for those of the rounds that have the
same place, since the target's work does not change from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.compiled.graph_calls import CALLS, graph_times, layer_spans_of
from xsp.analysis.compiled.matching import match_launches
from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.run import Run, call_of
from xsp.levels.layer.naming import is_leaf
from xsp.machine.compiler_internals import MovedError, live_graph
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, climb, rungs_for
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.switching import switched
from xsp.measuring.vocabulary import words_of
from xsp.provenance.calls import EntryModes, GraphCalls
from xsp.provenance.graphs import explained
from xsp.provenance.tables import Described, described
from xsp.types import Level, RunSpec
from xsp.words.slugs import with_slug

if TYPE_CHECKING:
    from xsp.types import Tables

GENERATED_S = 5.0
"""What generating the code of a graph once more takes, often."""

TIMED_RUNS = 5

_NAMED = frozenset({"triton", "template"})
"""Kinds of launches whose kernels bear the names that the wrapper has for them."""


def expected_s(latency_ns: float) -> float:
    """Seconds that the runs take, settling ones included."""
    return (1 + TIMED_RUNS) * (1 + SETTLING_RUNS) * latency_ns / 1e9


@dataclass(frozen=True)
class _Noted:
    """The calls of graphs (CALLS, `run` from 0) in some runs of a rung, the tables of those runs,
    and the graphs that were called, by number.
    """

    calls: pd.DataFrame
    tables: Tables
    handles: list[Any]


def lead_kernels(
    executor: Executor, prepared: Prepared, tables: Tables, deadline: Deadline
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables `compiled_graphs`, `compiled_launches`, `compiled_origins` and `compiled_kernels`
    of a profile with these tables, none where no compiled code ran; and sentences on what is
    missing.
    """
    modes = EntryModes()
    try:
        with switched(modes.watched()):
            deepest = _noted(executor, prepared, rungs_for(prepared.traced)[-1], 1, [])
        if not len(deepest.calls):
            return {}, []
        spec = RunSpec(tuple(each for each in prepared.traced if each <= Level.LAYER))
        timed = _noted(executor, prepared, spec, TIMED_RUNS, deepest.handles)
    except MovedError as error:
        return {}, [_said(str(error))]
    graphs = explained(
        [live_graph(each) for each in deepest.handles],
        prepared.recorder,
        lambda: deadline.fits(GENERATED_S),
        modes.modes,
    )
    prefixes = _modules(executor, deepest)
    rows = described(list(zip(graphs.graphs, prefixes, strict=True)))
    doubts = [_said(each) for each in graphs.remarks]
    if not rows.launches:
        return {}, [*doubts, _said("the code of its graphs is not Python, and is not read")]
    phases = [graph.phase for graph in graphs.graphs]
    made = {
        "compiled_graphs": graph_times(timed.calls, timed.tables["spans"], phases),
        "compiled_launches": pd.DataFrame(rows.launches),
        "compiled_origins": pd.DataFrame(rows.origins),
    }
    if Level.KERNEL in prepared.traced:
        sequence = kernel_sequence(deepest.tables)
        if sequence["name"].tolist() == kernel_sequence(tables)["name"].tolist():
            made["compiled_kernels"] = _kernels(sequence, deepest.calls, rows)
        else:
            doubts.append(_said("the run in which they were looked for ran other kernels"))
    return made, doubts


def _said(why: str) -> str:
    sentence = f"kernels of compiled code are not all led to source layers: {why}"
    return with_slug("compiled-not-led", sentence)


def _noted(
    executor: Executor, prepared: Prepared, spec: RunSpec, rounds: int, known: list[Any]
) -> _Noted:
    """Runs of one rung under watch. `known` are graphs that have a number already; calls of others
    are left out where there are any.
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
    calls = pd.DataFrame(rows, columns=list(CALLS), dtype=np.int64)
    calls["run"] = _run_of(calls["start_ns"].to_numpy(), runs)
    ordered = calls[calls["run"] >= 0].sort_values(["run", "start_ns"], ignore_index=True)
    return _Noted(ordered, assemble(runs, words_of(executor.target, prepared)), handles)


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


def _kernels(sequence: pd.DataFrame, calls: pd.DataFrame, rows: Described) -> pd.DataFrame:
    """The table `compiled_kernels`: each kernel that a graph launched, and its launch."""
    launch_ns = sequence["launch_ns"].to_numpy()
    thread, start, end = (calls[name].to_numpy() for name in ("thread", "start_ns", "end_ns"))
    at = innermost(thread, start, end, sequence["thread"].to_numpy(), launch_ns, launch_ns)
    launches = pd.DataFrame(rows.launches)
    parts = [
        _of_call(sequence.iloc[np.flatnonzero(at == place)], graph, launches, rows)
        for place, graph in enumerate(calls["graph"].tolist())
    ]
    return pd.concat(parts, ignore_index=True).sort_values("position", ignore_index=True)


def _of_call(
    kernels: pd.DataFrame, graph: int, launches: pd.DataFrame, rows: Described
) -> pd.DataFrame:
    own = launches[launches["graph"] == graph]
    launch, how = match_launches(
        kernels["name"].tolist(),
        kernels["call_span"].to_numpy(),
        own["kernel"].tolist(),
        own["kind"].isin(_NAMED).tolist(),
    )
    return pd.DataFrame(
        {
            "position": kernels["position"].to_numpy(),
            "graph": np.full(len(kernels), graph, dtype=np.int64),
            "launch": np.where(launch >= 0, launch + rows.first[graph], -1),
            "by": how,
        }
    )
