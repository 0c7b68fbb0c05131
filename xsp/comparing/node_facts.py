"""The nodes of a profile's hierarchy with everything about them that two profiles can differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy, hierarchy
from xsp.analysis.spans.node_sums import device_sums, host_sums
from xsp.analysis.spans.rungs import deepest_rung, runs_of
from xsp.analysis.spans.sums import sum_by_run, sum_up
from xsp.analysis.spans.timed_events import timed_events
from xsp.types import IntArray, Level

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTS = [
    "kernels",
    "copies",
    "sets",
    "copied_bytes",
    "library_calls",
    "synchronizations",
    "allocated_bytes",
]
"""Counts of a node and all below it in one run: executions on the GPU by kind, bytes copied,
library calls, waits of the host for the device, bytes allocated."""

_KINDS = {"kernels": "kernel", "copies": "memcpy", "sets": "memset"}
_TABLES = (
    "repeats",
    "runs",
    "spans",
    "api_calls",
    "model_calls",
    "calls",
    "modules",
    "layers",
    "library_calls",
    "kernels",
    "operators",
)
_SIGNATURE = ["input_shapes", "output_shapes", "input_dtypes", "output_dtypes"]
COLUMNS = [
    "path",
    "level",
    "name",
    "type",
    "phase",
    "kind",
    "parent",
    "order",
    "calls",
    *COUNTS,
    "parameter_bytes",
    *_SIGNATURE,
]
BACKWARD = " (backward)"


@dataclass(frozen=True)
class NodeFacts:
    """`nodes` as in `node_facts`; the host's and the device's times in ms, one per run, by path."""

    nodes: pd.DataFrame
    host: dict[str, Array]
    device: dict[str, Array]


def node_facts(profile: ProfileData) -> NodeFacts:
    """One row per node of the hierarchy, parents before children.

    Columns: path (unique; a layer's backward part ends in ` (backward)`), level, name, type, phase,
    kind ("module" or "function" for layers), parent (row, -1 for the model), order (in which layers
    begin; modules as their first layer), calls (in a run), the columns of COUNTS, parameter_bytes,
    input_shapes, output_shapes, input_dtypes, output_dtypes.
    """
    tables = profile.raw_tables(*_TABLES)
    tree = hierarchy(tables, profile.name)
    host, calls = _host(tree, tables)
    nodes = pd.DataFrame(tree.nodes)[["parent", "level", "name", "type", "phase"]]
    nodes.insert(0, "path", paths(nodes))
    called = _layer_rows(tree, tables)
    nodes = nodes.join(_of_layers(called))
    described = ["kind", *_SIGNATURE]
    nodes[described] = nodes[described].fillna("")
    nodes.loc[0, ["input_shapes", "input_dtypes"]] = _inputs(tables["calls"])
    nodes["parameter_bytes"] = nodes["parameter_bytes"].fillna(0).astype(np.int64)
    nodes["order"] = _order(nodes)
    for name, amount in _counts(tree, tables, called).items():
        nodes[name] = sum_up(nodes["parent"].to_numpy(), amount).astype(np.int64)
    calls[(nodes["level"] == "MODULE").to_numpy()] = _calls_of_modules(tree)
    nodes["calls"] = calls
    kernels = nodes["level"] == "KERNEL"
    nodes.loc[kernels, "calls"] = nodes.loc[kernels, list(_KINDS)].sum(axis=1)
    device = _device(tree, tables)
    return NodeFacts(nodes[COLUMNS], _by_path(nodes, host), _by_path(nodes, device))


def _calls_of_modules(tree: Hierarchy) -> npt.NDArray[np.int64]:
    calls = [node["calls"] for node in tree.nodes if node["level"] == "MODULE"]
    return np.array(calls, dtype=np.int64)


def paths(nodes: pd.DataFrame) -> list[str]:
    """The path of each node from name, parent, level and phase."""
    found: list[str] = []
    taken: dict[str, int] = {}
    for name, parent, level, phase in zip(
        nodes["name"].tolist(),
        nodes["parent"].tolist(),
        nodes["level"].tolist(),
        nodes["phase"].tolist(),
        strict=True,
    ):
        own = f"{name}{BACKWARD}" if level == "LAYER" and phase == "backward" else name
        path = own if parent < 0 else f"{found[parent]}/{own}"
        taken[path] = taken.get(path, 0) + 1
        found.append(path if taken[path] == 1 else f"{path} #{taken[path]}")
    return found


def _layer_rows(tree: Hierarchy, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of `layers` that ran, with their node."""
    spans = tables["spans"]
    here = (spans["level"] == Level.LAYER).to_numpy()
    pairs = pd.DataFrame(
        {"node": tree.of_span[here], "row": spans["detail"].to_numpy()[here]}
    ).drop_duplicates()
    return pairs.join(tables["layers"], on="row").sort_values("row")


def _of_layers(called: pd.DataFrame) -> pd.DataFrame:
    first = called.groupby("node")[["row", "kind", "parameter_bytes", *_SIGNATURE]].first()
    return first.rename(columns={"row": "order"})


def _inputs(calls: pd.DataFrame) -> list[str]:
    return [
        str(calls[name].iloc[0]) if len(calls) else "" for name in ("input_shapes", "input_dtypes")
    ]


def _order(nodes: pd.DataFrame) -> Ints:
    """Layers by their first row; others as the first layer below them, or else the one
    above them.
    """
    parents = nodes["parent"].to_numpy()
    far = np.iinfo(np.int64).max
    order = np.array(
        [far if np.isnan(row) else int(row) for row in nodes["order"].tolist()], dtype=np.int64
    )
    for node in range(len(nodes) - 1, 0, -1):
        order[parents[node]] = min(order[parents[node]], order[node])
    for node in range(1, len(nodes)):
        order[node] = order[parents[node]] if order[node] == far else order[node]
    order[0] = -1
    return order


def _host(tree: Hierarchy, tables: dict[str, pd.DataFrame]) -> tuple[Array, Ints]:
    """Host ms of the nodes as a matrix (runs, nodes), NaN where there is none, and calls
    in a run.
    """
    runs, size = tables["runs"], len(tree.nodes)
    latency = runs_of(runs, Level.MODEL)["latency_ns"].to_numpy(np.float64)
    calls = np.zeros(size, dtype=np.int64)
    calls[0] = len(tables["calls"])
    parts = []
    for level in (Level.LAYER, Level.OP, Level.LIBRARY):
        events = timed_events(tables, level)
        if len(events.of):
            nodes, sums, counts = host_sums(tree, tables["spans"], level, events)
            parts.append(np.where(nodes, sums, np.nan))
            calls[nodes] = np.rint(np.median(counts, axis=0)).astype(np.int64)[nodes]
    most_runs = max([len(latency), *map(len, parts)])
    host = np.full((most_runs, size), np.nan)
    for part in parts:
        known = ~np.isnan(part)
        host[: len(part)][known] = part[known]
    host[: len(latency), 0] = latency
    return host / 1e6, calls


def _device(tree: Hierarchy, tables: dict[str, pd.DataFrame]) -> Array:
    events = timed_events(tables, Level.KERNEL)
    if not len(events.of):
        return np.zeros((0, len(tree.nodes)))
    busy, counts = device_sums(tree, events)
    return np.where(counts.any(axis=0), busy / 1e6, np.nan)


def _kernel_runs(runs: pd.DataFrame) -> Ints:
    return runs_of(runs, Level.KERNEL)["run"].to_numpy(np.int64)


def _by_path(nodes: pd.DataFrame, matrix: Array) -> dict[str, Array]:
    known = ~np.isnan(matrix)
    columns = np.flatnonzero(known.any(axis=0)).tolist()
    names = nodes["path"].tolist()
    return {names[node]: matrix[known[:, node], node] for node in columns}


def _counts(
    tree: Hierarchy, tables: dict[str, pd.DataFrame], called: pd.DataFrame
) -> dict[str, Array]:
    """Counts that belong to each node itself, without what is below it."""
    runs, spans, size = tables["runs"], tables["spans"], len(tree.nodes)
    with_kernels = _kernel_runs(runs)
    deepest = runs.loc[runs["rung"] == deepest_rung(tables), "run"].to_numpy(np.int64)
    device = _rows_of(spans, Level.KERNEL, with_kernels)
    detail = spans["detail"].to_numpy()[device]
    kind = tables["kernels"]["kind"].to_numpy(dtype=object)[detail]
    copied = kind == "memcpy"
    copied_bytes = tables["kernels"]["bytes"].to_numpy(np.float64)[detail[copied]]

    def of_spans(rows: Ints, own: Ints, weights: Any = None) -> Array:
        run = spans["run"].to_numpy()[rows]
        return _per_run(run, tree.of_span[rows], own, size, weights)

    counts = {name: of_spans(device[kind == which], with_kernels) for name, which in _KINDS.items()}
    counts["copied_bytes"] = of_spans(device[copied], with_kernels, copied_bytes)
    counts["library_calls"] = of_spans(_rows_of(spans, Level.LIBRARY, deepest), deepest)
    waits = _waits(tables, with_kernels)
    waited_in = tree.of_span[waits["parent"].to_numpy()]
    counts["synchronizations"] = _per_run(waits["run"].to_numpy(), waited_in, with_kernels, size)
    counts["allocated_bytes"] = _allocated(called, size)
    return counts


def _rows_of(spans: pd.DataFrame, level: Level, runs: Ints) -> Ints:
    """The rows of a level's spans in these runs."""
    return np.flatnonzero((spans["level"] == level).to_numpy() & spans["run"].isin(runs).to_numpy())


def _per_run(run: Ints, node: IntArray, runs: Ints, size: int, weights: Any = None) -> Array:
    """Median over `runs` of the sum of `weights` by node."""
    if not len(runs):
        return np.zeros(size)
    sums = sum_by_run(run, node, weights, size, runs)
    return np.asarray(np.median(sums, axis=0), dtype=np.float64)


def _waits(tables: dict[str, pd.DataFrame], own: Ints) -> pd.DataFrame:
    """Calls with which the host waits for the device, but for the one that ends each model call and
    is xsp's own.
    """
    calls = tables["api_calls"]
    name = calls["name"].astype(str)
    is_wait = name.str.endswith("Synchronize")
    waits: pd.DataFrame = calls[is_wait & calls["run"].isin(own)]
    level_around = tables["spans"]["level"].to_numpy()[waits["parent"].to_numpy()]
    in_model = waits[level_around == Level.MODEL]
    last = in_model.sort_values("start_ns").drop_duplicates("parent", keep="last")
    own_wait = last.index[name[last.index] == "cudaDeviceSynchronize"]
    others: pd.DataFrame = waits.drop(own_wait)
    return others


def _allocated(called: pd.DataFrame, size: int) -> Array:
    """Bytes by node. A call of `backward()` is recorded with what its autograd nodes allocate: that
    is not repeated.
    """
    engine = (called["kind"] == "function") & (called["phase"] == "backward")
    known = called["allocated_bytes"].where(~engine, 0).clip(lower=0)
    return np.bincount(called["node"], weights=known, minlength=size).astype(np.float64)
