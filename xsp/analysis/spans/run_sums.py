"""What the runs of a capture tell of every node, run by run: all of the latency table that takes a
look at spans. A run's sums need no other run's spans, so that runs can be summed a few at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.corrected_times import timeline_spans
from xsp.analysis.spans.device_interval import device_extents
from xsp.analysis.spans.device_timeline import turns_of
from xsp.analysis.spans.doubt_of_tracing import (
    DoubtSums,
    MostCosts,
    sums_of_corrected,
    sums_of_measured,
)
from xsp.analysis.spans.graph_layers import run_by_graphs
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.host_shares import HostShares, host_shares, nodes_of_pieces
from xsp.analysis.spans.latency_parts import LatencyParts, latency_parts
from xsp.analysis.spans.node_sums import host_sums
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.sums import sum_by_run
from xsp.analysis.spans.timed_events import timed_events
from xsp.types import Level, Tables

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """Of one level: the nodes that its events tell about, and by run and node the sum of their
    durations (ns) and their number.
    """

    at: npt.NDArray[np.bool_]
    sums: Array
    counts: Array


@dataclass(frozen=True)
class RunSums:
    """Matrices of (runs, nodes), in ns where they are no counts; None where no kernels were traced.

    - latency_ns: the latency of each run of the timeline, the sum of its parts
    - shares, doubt: see there
    - cost: what a node costs the latency without its children
    - busy, kernels: the GPU's busy time that is the node's, and its kernels, copies and sets
    - extents: from the first kernel below the node to the last, NaN where there is none
    - recorded: host intervals as their rung recorded them, by level
    - of_graphs: calls of layers that CUDA graphs ran, of the runs that traced kernels and layers
    """

    latency_ns: Array
    shares: HostShares
    doubt: DoubtSums
    cost: Array | None
    busy: Array | None
    kernels: Array | None
    extents: Array
    recorded: Mapping[Level, Recorded]
    of_graphs: Array


def run_sums(
    tree: Hierarchy,
    tables: Tables,
    corrected: pd.DataFrame | None,
    most: MostCosts | None,
    known: LatencyParts | None = None,
) -> RunSums:
    """Of all runs of these tables. `tree` has the nodes of their spans, `corrected` their corrected
    times; `most` is as in `sums_of_measured`; `known` are their `latency_parts`, if they have
    been worked out.
    """
    timed = None if corrected is None else timeline_spans(tables["spans"], corrected)
    parts = known or latency_parts(tables, corrected, timed)
    if corrected is None:
        doubt = sums_of_measured(tree, tables, most)
    else:
        doubt = sums_of_corrected(tree, tables, corrected)
    busy, kernels = busy_times(tree, tables, parts)
    return RunSums(
        latency_ns=parts.latency_ns,
        shares=host_shares(tree, tables, parts, timed),
        doubt=doubt,
        cost=_cost(tree, parts),
        busy=busy,
        kernels=kernels,
        extents=device_extents(tree, tables, corrected),
        recorded=_recorded(tree, tables),
        of_graphs=_of_graphs(tree, tables),
    )


def stacked(parts: Sequence[RunSums]) -> RunSums:
    """The sums of runs of which each part has some, in order."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return RunSums(
        latency_ns=np.concatenate([part.latency_ns for part in parts]),
        shares=HostShares(
            np.concatenate([part.shares.by_node for part in parts]),
            _joined([part.shares.library for part in parts]),
            _joined([part.shares.operators for part in parts]),
        ),
        doubt=DoubtSums(
            _joined([part.doubt.layers for part in parts]),
            _joined([part.doubt.calls for part in parts]),
            _joined([part.doubt.operators for part in parts]),
        ),
        cost=_joined([part.cost for part in parts]),
        busy=_joined([part.busy for part in parts]),
        kernels=_joined([part.kernels for part in parts]),
        extents=np.concatenate([part.extents for part in parts]),
        recorded={
            level: _joined_recorded([part.recorded[level] for part in parts])
            for level in first.recorded
        },
        of_graphs=np.concatenate([part.of_graphs for part in parts]),
    )


def _joined(parts: Sequence[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _joined_recorded(parts: Sequence[Recorded]) -> Recorded:
    return Recorded(
        parts[0].at,
        np.concatenate([part.sums for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def busy_times(
    tree: Hierarchy, tables: Tables, parts: LatencyParts
) -> tuple[Array, Array] | tuple[None, None]:
    """GPU-busy time and number of kernels of every node, from the runs that traced kernels alone or
    else from those of `parts`.
    """
    kernels, runs = parts.kernels, parts.runs
    if (events := timed_events(tables, Level.KERNEL)).alone:
        kernels, runs = turns_of(tables, events), events.of
    if kernels is None:
        return None, None
    size = len(tree.nodes)
    run, node = kernels["run"].to_numpy(), tree.of_span[kernels["row"]]
    busy = sum_by_run(run, node, kernels["busy_ns"].to_numpy(), size, runs)
    return busy, sum_by_run(run, node, None, size, runs)


def _cost(tree: Hierarchy, parts: LatencyParts) -> Array | None:
    if parts.kernels is None:
        return None
    size, kernels = len(tree.nodes), parts.kernels
    node, cost = nodes_of_pieces(tree, parts.host), parts.host["cost_ns"].to_numpy()
    matrix = sum_by_run(parts.host["run"].to_numpy(), node, cost, size, parts.runs)
    charged = (kernels["busy_ns"] + kernels["idle_ns"]).to_numpy()
    run = kernels["run"].to_numpy()
    matrix += sum_by_run(run, tree.of_span[kernels["row"]], charged, size, parts.runs)
    return matrix


def _recorded(tree: Hierarchy, tables: Tables) -> dict[Level, Recorded]:
    found = {}
    for level in (Level.MODEL, Level.LAYER, Level.OP, Level.LIBRARY):
        events = timed_events(tables, level)
        if len(events.of):
            found[level] = Recorded(*host_sums(tree, tables["spans"], level, events))
    return found


def _of_graphs(tree: Hierarchy, tables: Tables) -> Array:
    spans, runs = tables["spans"], tables["runs"]
    own = runs.loc[runs["rung"] == deepest_rung(tables), "run"].to_numpy()
    is_layer = (spans["level"] == Level.LAYER) & spans["run"].isin(own)
    layers = np.flatnonzero(is_layer)
    detail = spans["detail"].to_numpy()[layers]
    rows = layers[run_by_graphs(tables["layers"])[detail]]
    run = spans["run"].to_numpy()[rows]
    return sum_by_run(run, tree.of_span[rows], None, len(tree.nodes), own)
