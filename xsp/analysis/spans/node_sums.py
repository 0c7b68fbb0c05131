"""Host and device time of every node, run by run: what two profiles are compared by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.sums import sum_by_run, sum_up
from xsp.analysis.spans.timed_events import TimedEvents
from xsp.types import Level


def host_sums(
    tree: Hierarchy, spans: pd.DataFrame, level: Level, events: TimedEvents
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes that this level's events tell about, and total duration (ns) and number of events as
    matrices (runs of the events, nodes).
    """
    size, kind, own = len(tree.nodes), tree.levels, events.of
    run, node = events.run, tree.of_span[events.row]
    sums = sum_by_run(run, node, events.duration_ns, size, own)
    counts = sum_by_run(run, node, None, size, own)
    at = kind == level.name
    if level is Level.LAYER:
        exclusive = sum_by_run(run, node, exclusive_ns(spans, level)[events.row], size, own)
        sums = np.where(at, sums, sum_up(tree.parents, np.where(at, exclusive, 0)))
        at = at | (kind == "MODULE")
    return at, sums, counts


def device_sums(
    tree: Hierarchy, events: TimedEvents
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """GPU-busy ns and number of kernels, copies and sets below every node, as matrices (runs of the
    events, nodes).
    """
    size, own = len(tree.nodes), events.of
    start, end = events.start_ns, events.end_ns
    place = np.searchsorted(own, events.run)
    parents, node = tree.parents, tree.of_span[events.row]
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
