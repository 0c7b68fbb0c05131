"""Host and device time of every node, run by run: what two profiles are compared by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.sums import sum_by_run, sum_up
from xsp.types import IntArray, Level


def host_sums(
    tree: Hierarchy, spans: pd.DataFrame, level: Level, own: IntArray
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes that this level's spans tell about, and total duration (ns) and number of spans as
    matrices (runs `own`, nodes).
    """
    size, kind = len(tree.nodes), tree.levels
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
