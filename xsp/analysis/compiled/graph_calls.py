"""Calls of compiled graphs: the layer that each lies in, and what the host spends before and in
it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.intervals import innermost
from xsp.types import IntArray, Level, Tables

CALLS = ("run", "graph", "thread", "start_ns", "end_ns")
"""Columns of calls of graphs: stamps on the host's clock, `thread` as `xsp.types` says."""

TIMES = ("graph", "phase", "calls", "entering_ns", "running_ns")
"""Columns of `graph_times`."""

COMPILATION = (
    *("id", "function", "source", "phase", "when", "reason", "failed", "no_cudagraph"),
    *("guards", "guard_check_ns", "total_ns", "inductor_ns", "triton_ns"),
)
"""What a capture says of a compilation (docs/captures.md)."""


def layer_spans_of(calls: pd.DataFrame, spans: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The row of `spans` of the innermost LAYER span around each of these calls (CALLS), -1 where
    there is none. A run's calls lie in that run's spans, since no two runs overlap.
    """
    layers = np.flatnonzero(spans["level"].to_numpy() == Level.LAYER)
    start = spans["start_ns"].to_numpy(dtype=np.int64)[layers]
    end = start + spans["duration_ns"].to_numpy(dtype=np.int64)[layers]
    thread = spans["thread"].to_numpy(dtype=np.int64)[layers]
    at = innermost(thread, start, end, *_hosts(calls))
    return np.where(at >= 0, np.append(layers, -1)[at], -1)


def code_around(calls: pd.DataFrame, entered: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """When code of the compiler's ran around these calls, the calls included (CALLS, with the first
    graph of each): calls of what Dynamo compiled, `entered` (CALLS), and the nodes of autograd that
    call graphs. A compiled layer is no such thing: the program's own code runs between its graphs.
    """
    entry = innermost(*_hosts(entered), *_hosts(calls))
    of_entry = calls[entry >= 0].assign(at=entry[entry >= 0]).drop_duplicates("at")
    forward = entered.iloc[of_entry["at"]].assign(graph=of_entry["graph"].to_numpy())
    spans, layers = tables["spans"], tables["layers"]
    at = layer_spans_of(calls, spans)
    layer = np.where(at >= 0, spans["detail"].to_numpy()[at], 0)
    is_node = (at >= 0) & (layers["kind"].to_numpy()[layer] == "autograd")
    of_node = calls[is_node].assign(at=at[is_node]).drop_duplicates("at")
    node = spans.iloc[of_node["at"]]
    backward = of_node.drop(columns="at").assign(
        thread=node["thread"].to_numpy(),
        start_ns=node["start_ns"].to_numpy(),
        end_ns=(node["start_ns"] + node["duration_ns"]).to_numpy(),
    )
    both: pd.DataFrame = pd.concat([forward, backward], ignore_index=True)
    return both[list(CALLS)]


def _hosts(calls: pd.DataFrame) -> tuple[IntArray, IntArray, IntArray]:
    """Thread, start and end of calls."""
    thread, start, end = (
        calls[name].to_numpy(dtype=np.int64) for name in ("thread", "start_ns", "end_ns")
    )
    return thread, start, end


def graph_times(calls: pd.DataFrame, spans: pd.DataFrame, phases: list[str]) -> pd.DataFrame:
    """A row for each graph: graph, phase, calls (in one run), entering_ns and running_ns.

    `entering_ns` is host time before the graph's own code: from the start of the compiled layer, or
    from the end of the graph before it in that layer, to the start of the call. That is Dynamo's
    guards and the code around its graphs, and AOTAutograd's. `running_ns` is host time in the code
    that Inductor wrote, launches included. Medians over the calls of all runs; `entering_ns` is -1
    where a graph was called outside every layer.
    """
    ordered = calls.sort_values(["run", "start_ns"], ignore_index=True)
    at = layer_spans_of(ordered, spans)
    begun = np.append(spans["start_ns"].to_numpy(dtype=np.int64), 0)[at]
    before = ordered.groupby(["run", at])["end_ns"].shift().fillna(0).to_numpy()
    entering = ordered["start_ns"].to_numpy() - np.maximum(begun, before)
    ordered["entering_ns"] = np.where(at >= 0, entering, -1)
    ordered["running_ns"] = ordered["end_ns"] - ordered["start_ns"]
    groups = ordered.groupby("graph")
    found = groups[["entering_ns", "running_ns"]].median().astype(np.int64)
    found["calls"] = np.rint(groups.size() / ordered["run"].nunique()).astype(np.int64)
    found = found.reset_index()
    found["phase"] = [phases[graph] for graph in found["graph"]]
    return found[list(TIMES)]
