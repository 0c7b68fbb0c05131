"""One more run at the deepest rung, in which calls of compiled graphs are noted, leads the kernels
of compiled code to the source layers that they come from.

Its times are not used. What its kernels come from holds for those of the rounds that have the same
place, since the target's work does not change from run to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.compiled.matching import match_launches
from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.run import call_of
from xsp.levels.layer.naming import is_leaf
from xsp.machine.compiler_internals import MovedError, live_graph
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, climb, rungs_for
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.vocabulary import words_of
from xsp.provenance.calls import GraphCall, GraphCalls
from xsp.provenance.graphs import explained
from xsp.provenance.tables import Described, described
from xsp.types import IntArray, Level
from xsp.words.slugs import with_slug

if TYPE_CHECKING:
    from xsp.capture.run import Run
    from xsp.types import Tables

GENERATED_S = 5.0
"""What generating the code of a graph once more takes, often."""

NOT_LED = "compiled-not-led"

_NAMED = frozenset({"triton", "template"})
"""Kinds of launches whose kernels bear the names that the wrapper has for them."""


def expected_s(latency_ns: float) -> float:
    """Seconds that the run takes, settling ones included."""
    return (1 + SETTLING_RUNS) * latency_ns / 1e9


def lead_kernels(
    executor: Executor, prepared: Prepared, tables: Tables, deadline: Deadline
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables `compiled_launches`, `compiled_origins` and `compiled_kernels` of a profile with
    these tables, none where no compiled code ran; and sentences on what is missing.
    """
    watch = GraphCalls()
    try:
        with watch.watched():
            ladder = Ladder(rungs_for(prepared.traced)[-1:])
            runs, _ = climb(executor, ladder, prepared.tracers, after_rounds(1))
    except MovedError as error:
        return {}, [_said(f"{error}")]
    calls = _within(watch.calls, runs[-1])
    if not calls:
        return {}, []
    found = assemble(runs[-1:], words_of(executor.target, prepared))
    handles = list({id(call.handle): call.handle for call in calls}.values())
    graphs = explained(
        [live_graph(each) for each in handles],
        prepared.recorder,
        lambda: deadline.fits(GENERATED_S),
    )
    number = {id(handle): place for place, handle in enumerate(handles)}
    called = np.array([number[id(call.handle)] for call in calls], dtype=np.int64)
    model = executor.target.model
    is_whole = model is not None and is_leaf(model)
    prefixes = [""] * len(handles) if is_whole else _modules(found, calls, called, len(handles))
    rows = described(list(zip(graphs.graphs, prefixes, strict=True)))
    made = {
        "compiled_launches": pd.DataFrame(rows.launches),
        "compiled_origins": pd.DataFrame(rows.origins),
    }
    doubts = [_said(each) for each in graphs.remarks]
    if not rows.launches:
        return {}, [*doubts, _said("the code of its graphs is not Python, and is not read")]
    if Level.KERNEL in prepared.traced:
        sequence = kernel_sequence(found)
        if sequence["name"].tolist() == kernel_sequence(tables)["name"].tolist():
            made["compiled_kernels"] = _kernels(sequence, calls, called, rows)
        else:
            doubts.append(_said("the run in which they were looked for ran other kernels"))
    return made, doubts


def _said(why: str) -> str:
    return with_slug(NOT_LED, f"kernels of compiled code are not all led to source layers: {why}")


def _within(calls: list[GraphCall], run: Run) -> list[GraphCall]:
    """Calls that began inside the model calls of a run, in the order of their start."""
    starts = np.array([call.start_ns for call in calls], dtype=np.int64)
    inside = np.flatnonzero(call_of(starts, run.model_calls) >= 0)
    return [calls[place] for place in inside[np.argsort(starts[inside])]]


def _columns(calls: list[GraphCall]) -> tuple[IntArray, IntArray, IntArray]:
    """Thread, start and end of each call."""
    table = np.array([(each.thread, each.start_ns, each.end_ns) for each in calls], dtype=np.int64)
    return table[:, 0], table[:, 1], table[:, 2]


def _modules(tables: Tables, calls: list[GraphCall], called: IntArray, graphs: int) -> list[str]:
    """For each graph the qualified name of the module that was compiled, "" for a function."""
    spans, layers = tables["spans"], tables["layers"]
    of_layer = spans[spans["level"] == Level.LAYER]
    start, thread = of_layer["start_ns"].to_numpy(), of_layer["thread"].to_numpy(dtype=np.int64)
    end = start + of_layer["duration_ns"].to_numpy()
    at = innermost(thread, start, end, *_columns(calls))
    names = [""] * graphs
    for graph, place in zip(called.tolist(), at.tolist(), strict=True):
        if place < 0 or names[graph]:
            continue
        row = layers.iloc[of_layer["detail"].iloc[place]]
        origin = layers.iloc[row["forward"]] if row["forward"] >= 0 else row
        names[graph] = str(origin["name"]) if origin["kind"] == "module" else ""
    return names


def _kernels(
    sequence: pd.DataFrame, calls: list[GraphCall], called: IntArray, rows: Described
) -> pd.DataFrame:
    """The table `compiled_kernels`: each kernel that a graph launched, and its launch."""
    launch_ns = sequence["launch_ns"].to_numpy()
    at = innermost(*_columns(calls), sequence["thread"].to_numpy(), launch_ns, launch_ns)
    launches = pd.DataFrame(rows.launches)
    parts = [
        _of_call(sequence.iloc[np.flatnonzero(at == place)], int(called[place]), launches, rows)
        for place in range(len(calls))
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
    row: npt.NDArray[Any] = np.where(launch >= 0, launch + rows.first[graph], -1)
    return pd.DataFrame(
        {
            "position": kernels["position"].to_numpy(),
            "graph": np.full(len(kernels), graph, dtype=np.int64),
            "launch": row,
            "by": how,
        }
    )
