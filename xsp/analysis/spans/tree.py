"""The hierarchical latency table: model, modules, layers, operators, library calls, kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.device_interval import device_intervals
from xsp.analysis.spans.doubt_of_tracing import MostCosts, doubt_of
from xsp.analysis.spans.hierarchy import Hierarchy, hierarchy
from xsp.analysis.spans.latency_parts import LatencyParts
from xsp.analysis.spans.node_times import NodeTimes, cost_times, device_times, host_times
from xsp.analysis.spans.run_parts import Part, parts_of
from xsp.analysis.spans.run_sums import RunSums, run_sums, stacked
from xsp.analysis.spans.several_cores import one_by_one
from xsp.analysis.spans.statistics import trimmed
from xsp.types import Level, Tables

OWN_TIME = "(own time)"
"""Name of the row for what a node has besides its children."""

OWN_LEVEL = "OWN"
"""Level of these rows."""

_COLUMNS = [
    "depth",
    "level",
    "name",
    "type",
    "phase",
    "calls",
    "host_ms",
    "host_ci_ms",
    "recorded_ms",
    "recorded_ci_ms",
    "device_ms",
    "device_ci_ms",
    "latency_ms",
    "latency_ci_ms",
    "device_interval_ms",
    "device_idle_ms",
    "share",
    "kernels",
    "input_shapes",
    "output_shapes",
    "source",
    "path",
    "node",
    "parent",
    "corrected_ms",
    "corrected_ci_ms",
]


def latency_table(
    tables: Tables,
    model: str,
    corrected: pd.DataFrame | None = None,
    *,
    pooled: bool = False,
    most: MostCosts | None = None,
    parts: LatencyParts | None = None,
) -> pd.DataFrame:
    """One row per node, as the model runs, and one of level "OWN" for what a node has besides its
    children. The children of a node, this row among them, add up to it in `host_ms`, `device_ms`,
    `latency_ms` and `share`, within the stated intervals. `_ci_` columns are half a 95 % interval.

    - depth, level, name, type, phase ("forward", "backward"), calls (per run)
    - host_ms, host_ci_ms: the host's time, every instant counted once
      (`xsp.analysis.spans.node_times.host_times`). For the model it is the unprofiled latency, call
      to device finished.
    - recorded_ms, recorded_ci_ms: the host interval as its rung recorded it, the one whose deepest
      level is the node's own (XSP, section III-C); it holds the cost of that level's tracer.
    - device_ms, device_ci_ms: GPU-busy time below the node, from the runs that traced kernels
      alone or else from the deepest rung; where kernels of several streams overlap, the one that
      began first has the time.
    - latency_ms, latency_ci_ms: what the node costs the latency: the GPU's busy time for it and the
      idle time that it causes, without a GPU the host's time
      (`xsp.analysis.spans.latency_parts`). share is its part of the model's.
    - device_interval_ms: from the first of these kernels' start to the last one's end, on the
      corrected timeline if there is one; summed over calls for layers and the model.
      device_idle_ms: what of it no kernel below the node is running.
    - kernels (per run), input_shapes, output_shapes, source (`path:line` of the program that made a
      layer's first call), path, node, parent

    Calls of a layer with up to four different input shapes are nodes apart, and more than eight
    equal functional calls of one module are one node; `pooled` gives each layer one node instead.
    `most` is what tracing can have cost (`sums_of_measured`), for the intervals of times that
    were not corrected, and `parts` the `latency_parts` of all runs, if they have been worked out.
    """
    tree = hierarchy(tables, model, apart=not pooled)

    def summed(part: Part) -> RunSums:
        known = parts if part.tables is tables else None
        return run_sums(part.tree(tree), part.tables, part.corrected, most, known)

    sums = one_by_one(summed, parts_of(tables, corrected), spans=len(tables["spans"]))
    return table_of(tree, tables["runs"], stacked(list(sums)), is_corrected=corrected is not None)


def table_of(
    tree: Hierarchy, runs: pd.DataFrame, sums: RunSums, *, is_corrected: bool
) -> pd.DataFrame:
    """The latency table, from what its runs tell."""
    doubt = doubt_of(tree, sums.doubt)
    host = host_times(tree, runs, sums.shares, doubt)
    device, kernels = device_times(tree, sums)
    cost = cost_times(tree, sums, doubt)
    recorded, recorded_half, calls = _recorded(tree, sums)
    nodes = pd.DataFrame(tree.nodes).assign(
        node=np.arange(len(tree.nodes)),
        calls=calls,
        kernels=kernels,
        path=_paths(tree),
        recorded_ms=recorded / 1e6,
        recorded_ci_ms=recorded_half / 1e6,
        device_interval_ms=device_intervals(tree, sums.extents) / 1e6,
    )
    nodes["device_idle_ms"] = np.maximum(nodes["device_interval_ms"] - device.whole / 1e6, 0.0)
    own = _own_rows(tree, nodes, host, cost)
    whole = _timed(nodes, *((times.whole, times.half) for times in (host, device, cost)))
    place = own["parent"].to_numpy()
    rest = _timed(
        own, *((times.own[place], times.own_half[place]) for times in (host, device, cost))
    )
    every = pd.concat([whole, rest], ignore_index=True)
    order, depth = _depth_first(every["parent"].to_numpy())
    table = every.iloc[order].assign(depth=depth)
    table["share"] = table["latency_ms"] / (cost.whole[0] / 1e6)
    table = _with_deprecated_columns(table, trimmed(sums.latency_ns), is_corrected=is_corrected)
    return table[_COLUMNS].reset_index(drop=True)


def parent_rows(tree: pd.DataFrame) -> list[int]:
    """The row of each row's parent in a table of `latency_table`; -1 where it has none there."""
    rows: list[int] = pd.Index(tree["node"]).get_indexer(pd.Index(tree["parent"])).tolist()
    return rows


def _with_deprecated_columns(
    table: pd.DataFrame, latency: tuple[Any, Any], *, is_corrected: bool
) -> pd.DataFrame:
    """corrected_ms and corrected_ci_ms: the host's time on the corrected timeline, of which
    `latency` (ns) is the model's; host_ms has it now, but for the model.
    """
    is_model = table["level"] == Level.MODEL.name
    known = 1.0 if is_corrected else np.nan
    columns = {
        f"corrected{name}": table[f"host{name}"].where(~is_model, float(value) / 1e6) * known
        for name, value in zip(("_ms", "_ci_ms"), latency, strict=True)
    }
    return table.assign(**columns)


def _timed(rows: pd.DataFrame, *times: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> pd.DataFrame:
    """The rows with the values and half intervals (ns) of host, device and cost as ms."""
    columns = {}
    for name, (value_ns, half_ns) in zip(("host", "device", "latency"), times, strict=True):
        columns[f"{name}_ms"] = value_ns / 1e6
        columns[f"{name}_ci_ms"] = half_ns / 1e6
    return rows.assign(**columns)


def _own_rows(
    tree: Hierarchy, nodes: pd.DataFrame, host: NodeTimes, cost: NodeTimes
) -> pd.DataFrame:
    """A row for the own time of the model, of modules, layers and operators that have something
    below them, unless all of it is nothing.
    """
    has_children = np.bincount(tree.parents[1:], minlength=len(tree.nodes)) > 0
    kept = has_children & np.isin(tree.levels, ["MODEL", "MODULE", "LAYER", "OP"])
    kept &= (np.nan_to_num(host.own) != 0) | (np.nan_to_num(cost.own) != 0)
    above = np.flatnonzero(kept)
    parents = nodes.iloc[above]
    return pd.DataFrame(
        {
            "level": OWN_LEVEL,
            "name": OWN_TIME,
            "type": "",
            "phase": parents["phase"].to_numpy(),
            "calls": 0,
            "kernels": 0,
            "recorded_ms": np.nan,
            "recorded_ci_ms": np.nan,
            "device_interval_ms": np.nan,
            "device_idle_ms": np.nan,
            "input_shapes": "",
            "output_shapes": "",
            "source": "",
            "path": parents["path"].to_numpy() + f"/{OWN_TIME}",
            "node": len(nodes) + np.arange(len(above)),
            "parent": above,
        }
    )


def _paths(tree: Hierarchy) -> list[str]:
    paths: list[str] = []
    taken: dict[tuple[str, str], int] = {}
    for node in tree.nodes:
        above = node["parent"]
        path = node["name"] if above < 0 else f"{paths[above]}/{node['name']}"
        place = (path, node["phase"])
        taken[place] = taken.get(place, 0) + 1
        paths.append(path if taken[place] == 1 else f"{path} #{taken[place]}")
    return paths


def _depth_first(parents: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Rows depth first, children in order of their rows, and the depth of each."""
    children: dict[int, list[int]] = {}
    for row, parent in enumerate(parents.tolist()):
        children.setdefault(parent, []).append(row)
    order, depths = [], []
    pending = [(row, 0) for row in reversed(children.get(-1, []))]
    while pending:
        row, depth = pending.pop()
        order.append(row)
        depths.append(depth)
        pending.extend((child, depth + 1) for child in reversed(children.get(row, [])))
    return order, depths


def _recorded(
    tree: Hierarchy, sums: RunSums
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Host interval of every node in ns as its rung recorded it, half its interval, and calls."""
    size = len(tree.nodes)
    mean, half = np.full(size, np.nan), np.full(size, np.nan)
    calls = np.zeros(size, dtype=np.int64)
    for found in sums.recorded.values():
        at = found.at
        value, width = trimmed(found.sums)
        mean[at], half[at] = value[at], width[at]
        calls[at] = np.rint(np.median(found.counts, axis=0)).astype(np.int64)[at]
    if len(sums.of_graphs):
        calls += np.rint(np.median(sums.of_graphs, axis=0)).astype(np.int64)
    modules = tree.levels == "MODULE"
    calls[modules] = [node["calls"] for node in tree.nodes if node["level"] == "MODULE"]
    return mean, half, calls
