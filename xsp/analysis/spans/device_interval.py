"""From the first kernel of a node to its last, on the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected_times import with_corrected_times
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed, trimmed_known
from xsp.analysis.spans.sums import sum_by_run
from xsp.types import Level, Tables

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def device_extents(tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None) -> Array:
    """First start to last end of the kernels below each layer call and each model call, summed over
    calls, and below modules that are called once: by run with kernels and node, in ns, NaN for a
    node without kernels.
    """
    runs, spans = tables["runs"], tables["spans"]
    own = runs_of(runs, Level.KERNEL)["run"].to_numpy()
    rows = np.flatnonzero((spans["level"] == Level.KERNEL).to_numpy())
    result = np.full((len(own), len(tree.nodes)), np.nan)
    if not len(own) or not len(rows):
        return result
    start = with_corrected_times(spans, corrected)["start_ns"].to_numpy()[rows]
    kernels = pd.DataFrame(
        {
            "run": spans["run"].to_numpy()[rows],
            "layer": layer_spans(spans, rows),
            "call": model_spans(spans, rows),
            "start": start,
            "end": start + spans["duration_ns"].to_numpy()[rows],
        }
    )
    _add_layers(result, tree, kernels, own)
    _add_above(result, tree, kernels, own)
    return result


def device_intervals(tree: Hierarchy, extents: Array) -> Array:
    """Of every node the mean over runs of `device_extents`: of layers over all runs, of the model
    and modules over those in which kernels ran below them; NaN where there are none.
    """
    mean = trimmed_known(extents)[0].astype(np.float64)
    layers = (tree.levels == "LAYER") & ~np.isnan(mean)
    mean[layers] = trimmed(np.nan_to_num(extents[:, layers]))[0]
    return mean


def _add_layers(result: Array, tree: Hierarchy, kernels: pd.DataFrame, runs: Ints) -> None:
    length = _extent(kernels, ["run", "layer"]).reset_index(name="ns")
    node = tree.of_span[length["layer"].to_numpy()]
    _add(result, length["run"].to_numpy(), node, length["ns"].to_numpy(), runs)


def _add_above(result: Array, tree: Hierarchy, kernels: pd.DataFrame, runs: Ints) -> None:
    """The model and modules: a step up the hierarchy at a time, for all kernels together."""
    once = np.array([node.get("calls", 1) == 1 for node in tree.nodes])
    above = tree.of_span[kernels["layer"].to_numpy()]
    while (alive := tree.parents[above] >= 0).any():
        above = np.where(alive, tree.parents[above], above)
        part = kernels.assign(node=above)[alive & once[above]]
        length = _extent(part, ["run", "node", "call"]).reset_index(name="ns")
        run, node, length_ns = (length[name].to_numpy() for name in ("run", "node", "ns"))
        _add(result, run, node, length_ns, runs)


def _add(result: Array, run: Ints, node: Ints, length_ns: Ints, runs: Ints) -> None:
    size = result.shape[1]
    sums = sum_by_run(run, node, length_ns, size, runs)
    there = sum_by_run(run, node, None, size, runs) > 0
    result[there] = sums[there]


def _extent(kernels: pd.DataFrame, by: list[str]) -> pd.Series[int]:
    """First start to last end of each group, in ns."""
    groups = kernels.groupby(by)
    return groups["end"].max() - groups["start"].min()
