"""What programs launched, in the order of the launches, and what their CUDA graphs launched, in the
order of the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.rungs import spec_of
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]

NODE_MASK = (1 << 32) - 1
"""The part of a `graphNodeId` that numbers the nodes."""

_SET_KERNEL = r"memset\d+"
"""Name of a kernel that does a set of a graph, with the bits of an element: `memset32`, seen on an
H200 in a captured ResNet-50, whose first set is a record of its own without the graph.
"""


def replayed_in(tables: Tables) -> pd.DataFrame:
    """The activities that graphs launched, in the order of launches and nodes."""
    if "graph_nodes" not in tables:
        return pd.DataFrame()
    every = activities_of(tables, None)
    traced = [
        row.run
        for row in tables["runs"].itertuples()
        if Level.LAYER in spec_of(str(row.rung)).levels
    ]
    return every[(every["graph"] > 0) & every["run"].isin(traced)].reset_index(drop=True)


def activities_of(tables: Tables, run: int | None) -> pd.DataFrame:
    """Device activities of one run, or of all, in the order of their launches: run, row (of
    `spans`), kernel, parent, thread, launch_ns, correlation_id, graph, node.
    """
    spans, api = tables["spans"], tables["api_calls"]
    mine = spans["level"] == Level.KERNEL
    if run is not None:
        mine &= spans["run"] == run
    kernels = spans[mine.to_numpy()]
    launch = launch_of(
        kernels["correlation_id"].to_numpy(),
        api["correlation_id"].to_numpy(),
        api["start_ns"].to_numpy(),
        run=kernels["run"].to_numpy(),
        api_run=api["run"].to_numpy(),
    )
    graph, node = graph_nodes(tables)
    row = kernels.index.to_numpy()
    started = np.append(api["start_ns"].to_numpy(), 0)[launch]
    found = pd.DataFrame(
        {
            "run": kernels["run"].to_numpy(),
            "row": row,
            "kernel": kernels["detail"].to_numpy(),
            "parent": kernels["parent"].to_numpy(),
            "thread": kernels["thread"].to_numpy(),
            "launch_ns": np.where(launch >= 0, started, kernels["start_ns"].to_numpy()),
            "start_ns": kernels["start_ns"].to_numpy(),
            "correlation_id": kernels["correlation_id"].to_numpy(),
            "graph": graph[row],
            "node": node[row],
        }
    )
    order = ["run", "launch_ns", "correlation_id", "node", "start_ns"]
    return found.sort_values(order, kind="stable", ignore_index=True)


def graph_nodes(tables: Tables) -> tuple[Ints, Ints]:
    """Id of the graph and number of the node of every span, 0 for none."""
    graph, node = (np.zeros(len(tables["spans"]), dtype=np.int64) for _ in range(2))
    if "graph_nodes" in tables:
        known = tables["graph_nodes"]
        graph[known["span"]] = known["graph"].to_numpy(np.int64)
        node[known["span"]] = known["node"].to_numpy(np.int64)
    return graph, node


def last_run(tables: Tables) -> int:
    """The last run, of those with kernels if there are some."""
    spans = tables["spans"]
    with_kernels = spans.loc[spans["level"] == Level.KERNEL, "run"]
    return int(with_kernels.max() if len(with_kernels) else tables["runs"]["run"].max())


def codes_of(kernels: Sequence[pd.DataFrame]) -> list[Ints]:
    """A number for each row of these tables of kernels, the same where all that they say is. Of
    sets they say too little: one that a program makes can run in a graph as a kernel of the
    driver's, of which the record has no bytes.
    """
    shared = set.intersection(*(set(each.columns) for each in kernels))
    facts = [column for column in kernels[0].columns if column in shared]
    every = pd.concat([each[facts] for each in kernels], ignore_index=True)
    alike = every.groupby(facts, sort=False).ngroup().to_numpy().astype(np.int64)
    is_drivers = every["name"].astype(str).str.fullmatch(_SET_KERNEL)
    is_set = (every["kind"] == "memset") | is_drivers
    alike[is_set.to_numpy(bool)] = len(every)
    number = np.unique(alike, return_inverse=True)[1]
    ends = np.cumsum([len(each) for each in kernels])
    return np.split(number, ends[:-1])
