"""Layers as the analyses count them, and what each costs the latency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.latency_parts import LatencyParts
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.sums import sum_by_run
from xsp.types import Level, Tables


def layer_rows(tables: Tables) -> pd.DataFrame:
    """For every row of `layers` that some span points to, the layer that it is a call of.

    Indexed by row of `layers`; columns: index (of the layer, -1 for rows that no span points to),
    name, phase. A layer is a name and a phase; layers are counted in the order in which they first
    begin in a run of the deepest rung, then those that only other runs have. What lies outside all
    layers comes last.
    """
    layers, spans, runs = tables["layers"], tables["spans"], tables["runs"]
    here = np.flatnonzero(spans["level"].to_numpy() == Level.LAYER)
    row, run = (spans[name].to_numpy()[here] for name in ("detail", "run"))
    deepest = runs.loc[runs["rung"] == deepest_rung(tables), "run"].to_numpy()
    is_last = (layers["kind"] == NO_LAYER_KIND).to_numpy()[row]
    is_later = ~np.isin(run, deepest)
    in_order = np.lexsort((spans["start_ns"].to_numpy()[here], run, is_later, is_last))
    rows = layers[["name", "phase"]].reset_index(drop=True)
    layer = rows.groupby(["name", "phase"], sort=False, dropna=False).ngroup().to_numpy()
    number = np.full(len(rows), -1)
    first = pd.unique(layer[row[in_order]])
    number[first] = np.arange(len(first))
    has_spans = np.zeros(len(rows), dtype=np.bool_)
    has_spans[row] = True
    return rows.assign(index=np.where(has_spans, number[layer], -1).astype(np.int64))


def layer_times(tables: Tables, parts: LatencyParts, rows: pd.DataFrame) -> pd.DataFrame:
    """Times of each layer in ms, in the order of `layer_rows`, from the parts of the latency.

    Columns: latency_ms and latency_ci_ms (what the layer costs the latency), busy_ms and idle_ms
    (the device's busy time for it, and the idle time that it causes: together the latency; NaN
    without kernels), share (of the latency of all layers and of the time in no layer, together 1):
    see `xsp.analysis.spans.latency_parts`. Without kernels the latency is the host's time in the
    layer, layers inside it left out.
    """
    count = int(rows["index"].max()) + 1 if len(rows) else 0
    cost = _by_layer(tables, parts, rows, parts.host, "cost_ns", count)
    busy = np.full(count, np.nan)
    if parts.kernels is not None:
        own = _by_layer(tables, parts, rows, parts.kernels, "busy_ns", count)
        cost += own + _by_layer(tables, parts, rows, parts.kernels, "idle_ns", count)
        busy = parts.mean(own)[0].astype(np.float64)
    mean, half = (each.astype(np.float64) for each in parts.mean(cost))
    outside = (parts.latency_ns - cost.sum(axis=1))[:, np.newaxis]
    rest, _ = parts.mean(outside)
    return pd.DataFrame(
        {
            "latency_ms": mean / 1e6,
            "latency_ci_ms": half / 1e6,
            "busy_ms": busy / 1e6,
            "idle_ms": (mean - busy) / 1e6,
            "share": mean / (mean.sum() + float(rest.sum())),
        }
    )


def _by_layer(
    tables: Tables,
    parts: LatencyParts,
    rows: pd.DataFrame,
    pieces: pd.DataFrame,
    column: str,
    count: int,
) -> npt.NDArray[np.float64]:
    """Sums of a column of pieces by layer, as a matrix (runs, layers)."""
    pieces = pieces[pieces["layer_span"] >= 0]
    detail = tables["spans"]["detail"].to_numpy()[pieces["layer_span"]]
    layer = rows["index"].to_numpy()[detail]
    amount = pieces[column].to_numpy()
    return sum_by_run(pieces["run"].to_numpy(), layer, amount, count, parts.runs)
