"""The hierarchical latency table: model, modules, layers, library calls, kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected import corrected_runs, with_corrected_times
from xsp.analysis.spans.hierarchy import Hierarchy, hierarchy
from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.sums import sum_by_run, sum_up
from xsp.types import IntArray, Level


def latency_table(
    tables: dict[str, pd.DataFrame], model: str, corrected: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per node, as the model runs. All times are trimmed means over runs; `_ci_` columns
    half a 95 % interval.

    - depth, level, name, type, phase ("forward", "backward"), calls (per run)
    - host_ms, host_ci_ms: host interval, from the rung whose deepest level is the node's own (XSP,
      section III-C). For the model it is the unprofiled latency, call to device finished; for
      modules the sum of the layers below.
    - corrected_ms, corrected_ci_ms: the same interval on the deepest rung's timeline with the
      tracers' cost taken out (`corrected`, see `xsp.analysis.correction`); NaN without. Its
      interval allows for that of the costs.
    - device_ms, device_ci_ms: GPU-busy time, the union of the kernels below the node, from the
      deepest rung.
    - device_interval_ms: from the first of these kernels' start to the last one's end, on the
      corrected timeline if there is one; summed over calls for layers and the model.
      device_idle_ms: what of it no kernel below the node is running.
    - share: device_ms, or host_ms where no kernels were traced, over the unprofiled model latency.
    - kernels (per run), input_shapes, output_shapes, path, node, parent
    """
    tree = hierarchy(tables, model)
    runs, spans = tables["runs"], tables["spans"]
    table = pd.DataFrame(
        [tree.nodes[node] | {"node": node, "depth": depth} for node, depth in tree.in_order()]
    )
    size = len(tree.nodes)
    host, host_ci, calls = _host(tree, runs, spans, size)
    device, device_ci, kernels = _device(tree, runs, spans, size)
    node = table["node"].to_numpy()
    latency = float(trimmed(runs_of(runs, Level.MODEL)["latency_ns"])[0])
    table["calls"] = calls[node]
    table["host_ms"], table["host_ci_ms"] = host[node] / 1e6, host_ci[node] / 1e6
    table["device_ms"], table["device_ci_ms"] = device[node] / 1e6, device_ci[node] / 1e6
    table["kernels"] = kernels[node]
    after, after_ci = _corrected_host(tree, spans, corrected)
    table["corrected_ms"], table["corrected_ci_ms"] = after[node] / 1e6, after_ci[node] / 1e6
    interval = _device_interval(tree, runs, spans, corrected)
    table["device_interval_ms"] = interval[node] / 1e6
    table["device_idle_ms"] = np.maximum(table["device_interval_ms"] - table["device_ms"], 0.0)
    measured = table["host_ms"] if np.isnan(device).all() else table["device_ms"]
    table["share"] = measured / (latency / 1e6)
    table["path"] = _paths(tree)[node]
    columns = (
        "depth level name type phase calls host_ms host_ci_ms corrected_ms corrected_ci_ms "
        "device_ms device_ci_ms "
        "device_interval_ms device_idle_ms share kernels input_shapes output_shapes path node "
        "parent"
    )
    return table[columns.split()]


def _paths(tree: Hierarchy) -> npt.NDArray[Any]:
    paths: list[str] = []
    for node in tree.nodes:
        above = node["parent"]
        paths.append(node["name"] if above < 0 else f"{paths[above]}/{node['name']}")
    return np.array(paths, dtype=object)


def _host(
    tree: Hierarchy, runs: pd.DataFrame, spans: pd.DataFrame, size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    host, interval, calls = (
        np.full(size, np.nan),
        np.full(size, np.nan),
        np.zeros(size, dtype=np.int64),
    )
    for level in _HOST_LEVELS:
        own = runs_of(runs, level)["run"].to_numpy()
        if len(own):
            at, sums, counts = host_sums(tree, spans, level, own)
            mean, half = trimmed(sums)
            host[at], interval[at] = mean[at], half[at]
            calls[at] = np.rint(np.median(counts, axis=0)).astype(np.int64)[at]
    modules = _kinds(tree) == "MODULE"
    calls[modules] = [node["calls"] for node in tree.nodes if node["level"] == "MODULE"]
    return host, interval, calls


def _corrected_host(
    tree: Hierarchy, spans: pd.DataFrame, corrected: pd.DataFrame | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    size = len(tree.nodes)
    host, interval = np.full(size, np.nan), np.full(size, np.nan)
    if corrected is None:
        return host, interval
    own = corrected_runs(spans, corrected)
    doubt_ns = np.zeros(len(spans))
    doubt_ns[corrected["row"]] = corrected["doubt_ns"]
    doubts = spans.assign(duration_ns=doubt_ns)
    spans = with_corrected_times(spans, corrected)
    for level in _HOST_LEVELS:
        at, sums, _ = host_sums(tree, spans, level, own)
        mean, half = trimmed(sums)
        doubt, _ = trimmed(host_sums(tree, doubts, level, own)[1])
        host[at], interval[at] = mean[at], np.hypot(half, doubt)[at]
    return host, interval


_HOST_LEVELS = (Level.MODEL, Level.LAYER, Level.LIBRARY)


def _kinds(tree: Hierarchy) -> npt.NDArray[Any]:
    return np.array([node["level"] for node in tree.nodes])


def host_sums(
    tree: Hierarchy, spans: pd.DataFrame, level: Level, own: IntArray
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes that this level's spans tell about, and total duration (ns) and number of spans as
    matrices (runs `own`, nodes).
    """
    size, kind = len(tree.nodes), _kinds(tree)
    here = (spans["level"] == level).to_numpy() & np.isin(spans["run"], own)
    run, node = spans["run"].to_numpy()[here], tree.of_span[here]
    sums = sum_by_run(run, node, spans["duration_ns"].to_numpy()[here], size, own)
    counts = sum_by_run(run, node, None, size, own)
    at = kind == level.name
    if level is Level.LAYER:
        exclusive = sum_by_run(run, node, exclusive_ns(spans, level)[here], size, own)
        sums = np.where(at, sums, sum_up(tree.parents, np.where(at, exclusive, 0)))
        at = at | (kind == "MODULE")
    return at, sums, counts


def _device_interval(
    tree: Hierarchy, runs: pd.DataFrame, spans: pd.DataFrame, corrected: pd.DataFrame | None
) -> npt.NDArray[Any]:
    """First start to last end of the kernels below each layer call and each model call, summed over
    calls, and below modules that are called once; NaN elsewhere.
    """
    result = np.full(len(tree.nodes), np.nan)
    own = runs.loc[runs["deepest"] == Level.KERNEL.name, "run"].to_numpy()
    rows = np.flatnonzero((spans["level"] == Level.KERNEL).to_numpy())
    if not len(own) or not len(rows):
        return result
    start = with_corrected_times(spans, corrected)["start_ns"].to_numpy()[rows]
    end = start + spans["duration_ns"].to_numpy()[rows]
    run, layer = spans["run"].to_numpy()[rows], layer_spans(spans, rows)
    by_call = pd.DataFrame({"run": run, "span": layer, "start": start, "end": end}).groupby(
        ["run", "span"]
    )
    length = (by_call["end"].max() - by_call["start"].min()).reset_index(name="ns")
    node = tree.of_span[length["span"].to_numpy()]
    sums = sum_by_run(length["run"].to_numpy(), node, length["ns"].to_numpy(), len(tree.nodes), own)
    layers = np.unique(node)
    result[layers] = trimmed(sums)[0][layers]
    above, parents, call = tree.of_span[layer], tree.parents, model_spans(spans, rows)
    while (alive := parents[above] >= 0).any():
        above = np.where(alive, parents[above], above)
        part = pd.DataFrame({"run": run, "node": above, "call": call, "start": start, "end": end})[
            alive
        ]
        by_call = part.groupby(["run", "node", "call"])
        length = (
            (by_call["end"].max() - by_call["start"].min())
            .groupby(["run", "node"])
            .sum()
            .reset_index(name="ns")
        )
        for one, values in length.groupby("node")["ns"]:
            if tree.nodes[int(str(one))].get("calls", 1) == 1:
                result[int(str(one))] = trimmed(values.to_numpy())[0]
    return result


def exclusive_ns(spans: pd.DataFrame, level: Level) -> npt.NDArray[np.int64]:
    """Each span's duration without the spans of the same level directly inside it.

    A layer can contain layers (recomputation in backward, backward on the CPU): sums over modules
    must not count twice.
    """
    duration, parent = spans["duration_ns"].to_numpy().copy(), spans["parent"].to_numpy()
    is_level = (spans["level"] == level).to_numpy()
    nested = is_level & (parent >= 0) & is_level[parent]
    np.subtract.at(duration, parent[nested], spans["duration_ns"].to_numpy()[nested])
    return duration


def _device(
    tree: Hierarchy, runs: pd.DataFrame, spans: pd.DataFrame, size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    own = runs.loc[runs["deepest"] == Level.KERNEL.name, "run"].to_numpy()
    nothing = np.full(size, np.nan)
    if not len(own):
        return nothing, nothing, np.zeros(size, dtype=np.int64)
    busy, counts = device_sums(tree, spans, own)
    mean, half = trimmed(busy)
    return mean, half, np.rint(np.median(counts, axis=0)).astype(np.int64)


def device_sums(
    tree: Hierarchy, spans: pd.DataFrame, own: IntArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """GPU-busy ns and number of kernels, copies and sets below every node, as matrices (runs `own`,
    nodes).
    """
    size = len(tree.nodes)
    here = (spans["level"] == Level.KERNEL).to_numpy() & np.isin(spans["run"], own)
    start = spans["start_ns"].to_numpy()[here]
    end = start + spans["duration_ns"].to_numpy()[here]
    place = np.searchsorted(own, spans["run"].to_numpy()[here])
    parents, node = tree.parents, tree.of_span[here]
    busy = np.zeros(len(own) * size, dtype=np.int64)
    counts = np.zeros((len(own), size))
    alive = np.ones(len(node), dtype=bool)
    while alive.any():
        busy += covered_ns((place * size + node)[alive], start[alive], end[alive], len(own) * size)
        counts += sum_by_run(own[place[alive]], node[alive], None, size, own)
        node = np.where(alive, parents[node], -1)
        alive = node >= 0
    return busy.reshape(len(own), size), counts
