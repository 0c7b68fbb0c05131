"""From the first kernel of a node to its last, on the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected_times import with_corrected_times
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.sums import sum_by_run
from xsp.types import Level, Tables


def device_intervals(
    tree: Hierarchy, tables: Tables, corrected: pd.DataFrame | None
) -> npt.NDArray[np.float64]:
    """First start to last end of the kernels below each layer call and each model call, summed over
    calls, and below modules that are called once; NaN elsewhere.
    """
    runs, spans = tables["runs"], tables["spans"]
    result = np.full(len(tree.nodes), np.nan)
    own = runs_of(runs, Level.KERNEL)["run"].to_numpy()
    rows = np.flatnonzero((spans["level"] == Level.KERNEL).to_numpy())
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
    _add_above(result, tree, kernels)
    return result


def _add_layers(
    result: npt.NDArray[np.float64],
    tree: Hierarchy,
    kernels: pd.DataFrame,
    runs: npt.NDArray[np.int64],
) -> None:
    length = _extent(kernels, ["run", "layer"]).reset_index(name="ns")
    node = tree.of_span[length["layer"].to_numpy()]
    run, length_ns = length["run"].to_numpy(), length["ns"].to_numpy()
    sums = sum_by_run(run, node, length_ns, len(tree.nodes), runs)
    layers = np.unique(node)
    result[layers] = trimmed(sums)[0][layers]


def _add_above(result: npt.NDArray[np.float64], tree: Hierarchy, kernels: pd.DataFrame) -> None:
    """The model and modules: a step up the hierarchy at a time, for all kernels together."""
    above = tree.of_span[kernels["layer"].to_numpy()]
    while (alive := tree.parents[above] >= 0).any():
        above = np.where(alive, tree.parents[above], above)
        part = kernels.assign(node=above)[alive]
        of_calls = _extent(part, ["run", "node", "call"])
        length = of_calls.groupby(["run", "node"]).sum().reset_index(name="ns")
        for name, values in length.groupby("node")["ns"]:
            node = int(str(name))
            if tree.nodes[node].get("calls", 1) == 1:
                result[node] = trimmed(values.to_numpy())[0]


def _extent(kernels: pd.DataFrame, by: list[str]) -> pd.Series[int]:
    """First start to last end of each group, in ns."""
    groups = kernels.groupby(by)
    return groups["end"].max() - groups["start"].min()
