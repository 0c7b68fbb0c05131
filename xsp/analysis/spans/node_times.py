"""Host time, device time and cost of every node of a hierarchy; children and a node's own time add
up to the node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest_above
from xsp.analysis.spans.doubt_of_tracing import TracingDoubt
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.host_shares import HostShares
from xsp.analysis.spans.outside import OUTSIDE_LAYERS
from xsp.analysis.spans.run_sums import RunSums
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import plain_mean, trimmed
from xsp.analysis.spans.sums import sum_up
from xsp.types import Level

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


def device_times(tree: Hierarchy, sums: RunSums) -> tuple[NodeTimes, npt.NDArray[np.int64]]:
    """GPU-busy time and the number of kernels, copies and sets below every node.

    Where kernels of several streams overlap, the one that began first has the time. A node runs
    nothing that is not below it: its own time is zero. Plain means: trimming each kernel for itself
    would lose time, and parts must add up.
    """
    size = len(tree.nodes)
    if sums.busy is None or sums.kernels is None:
        nothing = np.full(size, np.nan)
        return NodeTimes(nothing, nothing, nothing, nothing), np.zeros(size, dtype=np.int64)
    counts = sum_up(tree.parents, sums.kernels)
    mean, half = plain_mean(sum_up(tree.parents, sums.busy))
    number = np.rint(np.median(counts, axis=0)).astype(np.int64)
    none = np.zeros(size)
    return NodeTimes(mean.astype(np.float64), half.astype(np.float64), none, none), number


def cost_times(tree: Hierarchy, sums: RunSums, doubt: TracingDoubt) -> NodeTimes:
    """What every node costs the latency (`latency_parts`), the model its whole.

    Without kernels a library call costs the host's time in it.
    """
    if sums.cost is None:
        return _doubted(_means(tree, sums.shares), doubt)
    own, own_half = (each.astype(np.float64) for each in plain_mean(sums.cost))
    half = plain_mean(sum_up(tree.parents, sums.cost))[1].astype(np.float64)
    return NodeTimes(sum_up(tree.parents, own), half, own, own_half)


def host_times(
    tree: Hierarchy, runs: pd.DataFrame, shares: HostShares, doubt: TracingDoubt
) -> NodeTimes:
    """The host's time: of the model the unprofiled latency (call to device finished), of all below
    it without the tracers' cost if that is known, else as recorded by the rung whose deepest level
    is the node's own (XSP, section III-C).

    Every instant counts once (`host_turns`, `library_turns`). A layer has its operators, these have
    their library calls, and each the rest; a module has the layers below it and the time between
    them. What is left of the model is its own: Python outside of all modules, and waiting for the
    device. It is below zero where the layers' times hold tracing that the model's does not. No
    other own time is, unless layers, operators and library calls are read from different rungs.
    """
    known = _doubted(_means(tree, shares), doubt)
    times = NodeTimes(*(each.copy() for each in vars(known).values()))
    unknown = _unknown_on_host(tree)
    for each in vars(times).values():
        each[unknown] = np.nan
    _add_model(times, tree, runs, shares, doubt)
    return times


def host_wholes(tree: Hierarchy, shares: HostShares) -> Array:
    """The wholes of `host_times` of all nodes but the model, in ns."""
    whole = _means(tree, shares).whole.copy()
    whole[_unknown_on_host(tree)] = np.nan
    return whole


def _unknown_on_host(tree: Hierarchy) -> npt.NDArray[np.bool_]:
    unknown: npt.NDArray[np.bool_] = (tree.levels == "KERNEL") | _outside_without_calls(tree)
    return unknown


def _add_model(
    times: NodeTimes, tree: Hierarchy, runs: pd.DataFrame, shares: HostShares, doubt: TracingDoubt
) -> None:
    """The model has the unprofiled latency, and what is left of it is its own."""
    root, children = tree.levels == "MODEL", tree.parents == 0
    latency, half = trimmed(runs_of(runs, Level.MODEL)["latency_ns"])
    times.whole[root] = latency
    times.half[root] = half
    below = sum_up(tree.parents, shares.by_node)[:, children].sum(axis=1)
    half_below = np.hypot(trimmed(below)[1], doubt.whole[0])
    is_known = len(below) > 0
    times.own[root] = latency - np.nansum(times.whole[children]) if is_known else np.nan
    times.own_half[root] = np.hypot(half, half_below) if is_known else np.nan


def _means(tree: Hierarchy, shares: HostShares) -> NodeTimes:
    """Own times as trimmed means over runs, and wholes that are sums of these.

    Trimming a whole leaves out other runs than trimming its parts does, so that its own mean is not
    their sum: its interval is widened by the difference.
    """
    own, own_half = (each.astype(np.float64) for each in trimmed(shares.by_node))
    direct, half = (
        each.astype(np.float64) for each in trimmed(sum_up(tree.parents, shares.by_node))
    )
    for level, matrix in ((Level.OP, shares.operators), (Level.LIBRARY, shares.library)):
        if matrix is None:
            continue
        at = tree.levels == level.name
        timed, timed_half = (each.astype(np.float64) for each in trimmed(matrix))
        below, below_half = (
            each.astype(np.float64) for each in trimmed(sum_up(tree.parents, matrix))
        )
        own, own_half = np.where(at, timed, own), np.where(at, timed_half, own_half)
        direct, half = np.where(at, below, direct), np.where(at, below_half, half)
        _take_from_around(own, tree, at, timed)
    whole = sum_up(tree.parents, own)
    return NodeTimes(whole, half + np.abs(whole - direct), own, own_half)


def _take_from_around(own: Array, tree: Hierarchy, at: npt.NDArray[np.bool_], timed: Array) -> None:
    """What nodes of a level have is not that of the node of an outer level that they lie in."""
    holds = np.isin(tree.levels, ("LAYER", "OP")) & ~at & (tree.names != OUTSIDE_LAYERS)
    stands_in = (tree.levels == "LAYER") & (tree.names == OUTSIDE_LAYERS)
    rows = np.flatnonzero(at)
    around = nearest_above(tree.parents, holds | stands_in | (tree.levels == "MODEL"))[rows]
    inside = holds[around]
    np.subtract.at(own, around[inside], timed[rows[inside]])


def _doubted(times: NodeTimes, doubt: TracingDoubt) -> NodeTimes:
    """The same with intervals that allow for the tracers' costs, too."""
    half, own_half = np.hypot(times.half, doubt.whole), np.hypot(times.own_half, doubt.own)
    return NodeTimes(times.whole, half, times.own, own_half)


def _outside_without_calls(tree: Hierarchy) -> npt.NDArray[np.bool_]:
    """Rows for work outside layers without operators and library calls: no time is known of
    them.
    """
    outside = (tree.levels == "LAYER") & (tree.names == OUTSIDE_LAYERS)
    called = tree.parents[np.isin(tree.levels, ("OP", "LIBRARY"))]
    without: npt.NDArray[np.bool_] = outside & (np.bincount(called, minlength=len(outside)) == 0)
    return without
