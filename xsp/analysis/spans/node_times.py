"""Host time, device time and cost of every node of a hierarchy; children and a node's own time add
up to the node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.corrected_times import corrected_runs, with_corrected_times
from xsp.analysis.spans.device_timeline import turns_of
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.host_turns import host_turns
from xsp.analysis.spans.latency_parts import LatencyParts
from xsp.analysis.spans.outside import OUTSIDE_LAYERS
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import plain_mean, trimmed
from xsp.analysis.spans.sums import sum_by_run, sum_up
from xsp.analysis.spans.timed_events import timed_events
from xsp.types import IntArray, Level, Tables

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NodeTimes:
    """Times of all nodes in ns, each with half its 95 % interval; NaN where not known.

    `whole` is of a node with all below it, `own` of the node without its children.
    """

    whole: Array
    half: Array
    own: Array
    own_half: Array

    @classmethod
    def unknown(cls, size: int) -> NodeTimes:
        """Of so many nodes, to be filled in."""
        return cls(*(np.full(size, np.nan) for _ in range(4)))


def device_times(
    tree: Hierarchy, tables: Tables, parts: LatencyParts
) -> tuple[NodeTimes, npt.NDArray[np.int64]]:
    """GPU-busy time and the number of kernels, copies and sets below every node, from the runs that
    traced kernels alone or else from those of `parts`.

    Where kernels of several streams overlap, the one that began first has the time. A node runs
    nothing that is not below it: its own time is zero. Plain means: trimming each kernel for itself
    would lose time, and parts must add up.
    """
    size = len(tree.nodes)
    kernels, runs = parts.kernels, parts.runs
    if (events := timed_events(tables, Level.KERNEL)).alone:
        kernels, runs = turns_of(tables, events), events.of
    if kernels is None:
        nothing = np.full(size, np.nan)
        return NodeTimes(nothing, nothing, nothing, nothing), np.zeros(size, dtype=np.int64)
    run, node = kernels["run"].to_numpy(), tree.of_span[kernels["row"]]
    busy = sum_by_run(run, node, kernels["busy_ns"].to_numpy(), size, runs)
    counts = sum_up(tree.parents, sum_by_run(run, node, None, size, runs))
    mean, half = plain_mean(sum_up(tree.parents, busy))
    number = np.rint(np.median(counts, axis=0)).astype(np.int64)
    none = np.zeros(size)
    return NodeTimes(mean.astype(np.float64), half.astype(np.float64), none, none), number


def cost_times(tree: Hierarchy, parts: LatencyParts, host: NodeTimes) -> NodeTimes:
    """What every node costs the latency (`latency_parts`), the model its whole.

    Without kernels a library call costs the host's time in it.
    """
    size = len(tree.nodes)
    pieces = parts.host
    node = nodes_of_pieces(tree, pieces)
    matrix = sum_by_run(
        pieces["run"].to_numpy(), node, pieces["cost_ns"].to_numpy(), size, parts.runs
    )
    if parts.kernels is not None:
        kernels = parts.kernels
        charged = (kernels["busy_ns"] + kernels["idle_ns"]).to_numpy()
        run = kernels["run"].to_numpy()
        matrix += sum_by_run(run, tree.of_span[kernels["row"]], charged, size, parts.runs)
    own, own_half = (each.astype(np.float64) for each in parts.mean(matrix))
    half = parts.mean(sum_up(tree.parents, matrix))[1].astype(np.float64)
    if parts.kernels is None:
        own = _with_library_calls(tree, own, host)
    return NodeTimes(sum_up(tree.parents, own), half, own, own_half)


def _with_library_calls(tree: Hierarchy, own: Array, host: NodeTimes) -> Array:
    """Each layer's time divided among its library calls and the rest."""
    calls = np.flatnonzero(tree.levels == Level.LIBRARY.name)
    result = own.copy()
    result[calls] = host.whole[calls]
    np.subtract.at(result, tree.parents[calls], host.whole[calls])
    return result


def nodes_of_pieces(tree: Hierarchy, pieces: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The layer of each piece of `host_turns`, or else the module or model that it belongs to."""
    layer_span = pieces["layer_span"].to_numpy()
    names, place = np.unique(pieces["module"].to_numpy(dtype=object), return_inverse=True)
    modules = np.array([tree.module_node(str(name)) for name in names], dtype=np.int64)
    return np.where(layer_span >= 0, tree.of_span[layer_span], modules[place])


def host_times(
    tree: Hierarchy, tables: Tables, parts: LatencyParts, corrected: pd.DataFrame | None
) -> NodeTimes:
    """The host's time: of the model the unprofiled latency (call to device finished), of all below
    it without the tracers' cost if that is known, else as recorded by the rung whose deepest level
    is the node's own (XSP, section III-C).

    Every instant counts once (`host_turns`). A module has the layers below it and the time between
    them. What is left of the model is its own: Python outside of all modules, and waiting for the
    device. It is below zero where the layers' times hold tracing that the model's does not.
    """
    times = NodeTimes.unknown(len(tree.nodes))
    pieces, runs = _host_pieces(tables, parts, corrected)
    by_run = None
    if len(runs):
        node = nodes_of_pieces(tree, pieces)
        length = (pieces["end_ns"] - pieces["start_ns"]).to_numpy()
        by_run = sum_by_run(pieces["run"].to_numpy(), node, length, len(tree.nodes), runs)
    doubt = _doubt_about_costs(tree, tables, corrected)
    if by_run is not None:
        _add_layers_and_modules(times, tree, by_run, doubt)
    _add_library_calls(times, tree, tables, corrected)
    _sum_modules(times, tree)
    _add_model(times, tree, tables, by_run, doubt)
    return times


def _add_layers_and_modules(times: NodeTimes, tree: Hierarchy, by_run: Array, doubt: Array) -> None:
    """Layers have their pieces of the host's time; modules, for now, what is between layers."""
    layers, modules = tree.levels == Level.LAYER.name, tree.levels == "MODULE"
    mean, half = trimmed(by_run)
    _, half_below = trimmed(sum_up(tree.parents, by_run))
    times.whole[layers] = mean[layers]
    times.half[layers] = np.hypot(half, doubt)[layers]
    times.own[modules] = mean[modules]
    times.own_half[modules] = half[modules]
    times.half[modules] = np.hypot(half_below, doubt)[modules]


def _add_library_calls(
    times: NodeTimes, tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None
) -> None:
    """Library calls have their own length; what is left of their layer is the layer's own."""
    layers, calls = tree.levels == Level.LAYER.name, tree.levels == Level.LIBRARY.name
    called, half = _library_times(tree, tables, corrected)
    times.whole[calls] = called[calls]
    times.half[calls] = half[calls]
    inside = _sum_of_children(tree.parents, np.where(calls, times.whole, 0.0))
    # Work outside of all layers takes what its calls take.
    has_calls = np.bincount(tree.parents[calls], minlength=len(tree.nodes)) > 0
    names = np.array([node["name"] for node in tree.nodes], dtype=object)
    outside = layers & (names == OUTSIDE_LAYERS)
    times.whole[outside] = np.where(has_calls, inside, np.nan)[outside]
    times.own[layers] = (times.whole - inside)[layers]
    times.own_half[layers] = times.half[layers]


def _sum_modules(times: NodeTimes, tree: Hierarchy) -> None:
    """A module has the layers below it and the time between them."""
    modules = tree.levels == "MODULE"
    in_module = (tree.parents >= 0) & modules[tree.parents]
    of_children = np.where(in_module, times.whole, 0.0)
    counted = np.where(modules, times.own, of_children)
    below = sum_up(tree.parents, np.nan_to_num(counted))
    times.whole[modules] = np.where(np.isnan(times.own), np.nan, below)[modules]


def _add_model(
    times: NodeTimes, tree: Hierarchy, tables: Tables, by_run: Array | None, doubt: Array
) -> None:
    """The model has the unprofiled latency, and what is left of it is its own."""
    root = tree.levels == Level.MODEL.name
    latency, half = trimmed(runs_of(tables["runs"], Level.MODEL)["latency_ns"])
    times.whole[root] = latency
    times.half[root] = half
    if by_run is None:
        return
    _, half_below = trimmed(by_run.sum(axis=1) - by_run[:, 0])
    times.own[root] = latency - np.nansum(times.whole[tree.parents == 0])
    times.own_half[root] = np.hypot(half, np.hypot(half_below, doubt[0]))


def _doubt_about_costs(tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None) -> Array:
    """Half a 95 % interval of the time of all layers at and below each node, of that of the costs
    that were taken out.
    """
    size = len(tree.nodes)
    if corrected is None:
        return np.zeros(size)
    row = corrected["row"].to_numpy()
    is_layer = (tables["spans"]["level"].to_numpy() == Level.LAYER)[row]
    run, node = tables["spans"]["run"].to_numpy()[row], tree.of_span[row]
    doubt = corrected["doubt_ns"].to_numpy()
    sums = sum_by_run(run[is_layer], node[is_layer], doubt[is_layer], size, np.unique(run))
    return trimmed(sum_up(tree.parents, sums))[0].astype(np.float64)


def _sum_of_children(parents: IntArray, amount: Array) -> Array:
    result = np.zeros(len(parents))
    below = parents >= 0
    np.add.at(result, parents[below], amount[below])
    return result


def _host_pieces(
    tables: Tables, parts: LatencyParts, corrected: pd.DataFrame | None
) -> tuple[pd.DataFrame, IntArray]:
    if corrected is not None:
        return parts.host, parts.runs
    own = runs_of(tables["runs"], Level.LAYER)["run"].to_numpy()
    if not len(own):
        return parts.host.iloc[:0], own
    return host_turns(tables, tables["spans"][tables["spans"]["run"].isin(own)]), own


def _library_times(
    tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None
) -> tuple[Array, Array]:
    size = len(tree.nodes)
    if corrected is None:
        events = timed_events(tables, Level.LIBRARY)
        own, run, row, duration = events.of, events.run, events.row, events.duration_ns
    else:
        spans = with_corrected_times(tables["spans"], corrected)
        own = corrected_runs(spans, corrected)
        here = (spans["level"] == Level.LIBRARY) & spans["run"].isin(own)
        row = np.flatnonzero(here.to_numpy())
        run, duration = spans["run"].to_numpy()[row], spans["duration_ns"].to_numpy()[row]
    if not len(row):
        return np.full(size, np.nan), np.full(size, np.nan)
    mean, half = trimmed(sum_by_run(run, tree.of_span[row], duration, size, own))
    return np.asarray(mean), np.asarray(half)
