"""Of the pooled latency table what analyses of layers need: it takes half the time of the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.analysis.spans.corrected_times import timeline_spans
from xsp.analysis.spans.hierarchy import hierarchy
from xsp.analysis.spans.host_shares import host_shares
from xsp.analysis.spans.latency_parts import LatencyParts
from xsp.analysis.spans.node_times import host_wholes
from xsp.analysis.spans.run_sums import busy_times
from xsp.analysis.spans.statistics import plain_mean
from xsp.analysis.spans.sums import sum_up
from xsp.types import Tables

COLUMNS = ["name", "phase", "type", "host_ms", "device_ms"]


def pooled_layers(
    tables: Tables, model: str, corrected: pd.DataFrame | None, parts: LatencyParts
) -> pd.DataFrame:
    """COLUMNS of the rows of level LAYER in `latency_table(..., pooled=True)`, in another order.
    `parts` are the `latency_parts` of these tables.
    """
    tree = hierarchy(tables, model)
    timed = None if corrected is None else timeline_spans(tables["spans"], corrected)
    host = host_wholes(tree, host_shares(tree, tables, parts, timed))
    busy, _ = busy_times(tree, tables, parts)
    device = np.full(len(host), np.nan)
    if busy is not None:
        device = plain_mean(sum_up(tree.parents, busy))[0].astype(np.float64)
    nodes = pd.DataFrame(tree.nodes).assign(host_ms=host / 1e6, device_ms=device / 1e6)
    return nodes.loc[nodes["level"] == "LAYER", COLUMNS]
