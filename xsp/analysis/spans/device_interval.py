"""From the first kernel of a node to its last, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected_times import corrected_starts
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed, trimmed_known
from xsp.analysis.spans.sums import sum_by_run
from xsp.types import IntArray, Level, Tables

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def device_extents(tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None) -> Array:
    """First start to last end of the kernels below each layer call and each model call, summed over
    calls, and below modules that are called once: by run with kernels and node, in ns, NaN for a
    node without kernels.
    """
    spans = tables["spans"]
    own = runs_of(tables["runs"], Level.KERNEL)["run"].to_numpy()
    rows = np.flatnonzero(spans["level"].to_numpy() == Level.KERNEL)
    result = np.full((len(own), len(tree.nodes)), np.nan)
    if not len(own) or not len(rows):
        return result
    start = corrected_starts(spans, corrected)[rows]
    layer = layer_spans(spans, rows)
    kernels = _Extents(
        group=layer, start_ns=start, end_ns=start + spans["duration_ns"].to_numpy()[rows]
    )
    _add_above(result, tree, spans, _add_layers(result, tree, spans, kernels, own), own)
    return result


def device_intervals(tree: Hierarchy, extents: Array) -> Array:
    """Of every node the mean over runs of `device_extents`: of layers over all runs, of the model
    and modules over those in which kernels ran below them; NaN where there are none.
    """
    mean = trimmed_known(extents)[0].astype(np.float64)
    layers = (tree.levels == "LAYER") & ~np.isnan(mean)
    mean[layers] = trimmed(np.nan_to_num(extents[:, layers]))[0]
    return mean


@dataclass(frozen=True)
class _Extents:
    """First start and last end of what has the same number as group."""

    group: Ints
    start_ns: Ints
    end_ns: Ints

    def joined(self, group: Ints) -> _Extents:
        """Those of larger groups, sorted by number, of which each of these is in one."""
        order = np.argsort(group, kind="stable")
        ranked = group[order]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        return _Extents(
            ranked[first],
            np.minimum.reduceat(self.start_ns[order], first),
            np.maximum.reduceat(self.end_ns[order], first),
        )

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> _Extents:
        return _Extents(self.group[chosen], self.start_ns[chosen], self.end_ns[chosen])


def _add_layers(
    result: Array, tree: Hierarchy, spans: pd.DataFrame, kernels: _Extents, runs: Ints
) -> _Extents:
    """The layers' own; returned are the extents of their calls, by row of the layer's span."""
    calls = kernels.joined(kernels.group)
    run = spans["run"].to_numpy()[calls.group]
    _add(result, run, tree.of_span[calls.group], calls.end_ns - calls.start_ns, runs)
    return calls


def _add_above(
    result: Array, tree: Hierarchy, spans: pd.DataFrame, layers: _Extents, runs: Ints
) -> None:
    """The model and modules, of all layers below them however deep these lie."""
    once = np.array([node.get("calls", 1) == 1 for node in tree.nodes])
    size = len(tree.nodes)
    call = model_spans(spans, layers.group)
    found = _of_ancestors(tree, layers.joined(call * size + tree.of_span[layers.group]))
    found = found[once[found.group % size]]
    run, node = spans["run"].to_numpy()[found.group // size], found.group % size
    length_ns = found.end_ns - found.start_ns
    _add(result, run, node, length_ns, runs)


def _of_ancestors(tree: Hierarchy, below: _Extents) -> _Extents:
    """Of everything that lies above these nodes. Groups are a node in a model call: the call's
    number times the number of nodes, and the node.
    """
    size, steps = len(tree.nodes), []
    while True:
        below = below[tree.parents[below.group % size] >= 0]
        if not len(below.group):
            break
        node = below.group % size
        below = below.joined(below.group - node + tree.parents[node])
        steps.append(below)
    if not steps:
        return below
    columns = ("group", "start_ns", "end_ns")
    group, *times = (np.concatenate([getattr(step, name) for step in steps]) for name in columns)
    return _Extents(group, *times).joined(group)


def _add(result: Array, run: IntArray, node: IntArray, length_ns: Ints, runs: Ints) -> None:
    size = result.shape[1]
    sums = sum_by_run(run, node, length_ns, size, runs)
    there = sum_by_run(run, node, None, size, runs) > 0
    result[there] = sums[there]
