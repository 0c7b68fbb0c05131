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
