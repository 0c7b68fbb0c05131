"""Layers as the analyses count them, and the time that each takes: on the device if there is one,
else on the host.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.corrected import with_corrected_times
from xsp.analysis.spans.device_timeline import device_turns
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.analysis.spans.rungs import deepest_rung, runs_of
from xsp.analysis.spans.statistics import plain_mean, trimmed
from xsp.analysis.spans.sums import sum_by_run
from xsp.analysis.spans.tree import exclusive_ns
from xsp.types import Level, Tables


def layer_rows(tables: Tables) -> pd.DataFrame:
    """For every row of `layers` that some span points to, the layer that it is a call of.

    Indexed by row of `layers`; columns: index (of the layer, -1 for rows that no span points to),
    name, phase. A layer is a name and a phase; layers are counted in the order in which they first
    begin in a run of the deepest rung, then those that only other runs have. What lies outside all
    layers comes last.
    """
    layers, spans, runs = tables["layers"], tables["spans"], tables["runs"]
    here = spans[spans["level"] == Level.LAYER]
    deepest = set(runs.loc[runs["rung"] == deepest_rung(tables), "run"])
    seen = layers.loc[here["detail"], ["name", "phase", "kind"]].assign(
        last=(layers.loc[here["detail"], "kind"] == NO_LAYER_KIND).to_numpy(),
        later=~here["run"].isin(deepest).to_numpy(),
        run=here["run"].to_numpy(),
        start=here["start_ns"].to_numpy(),
    )
    order = seen.sort_values(["last", "later", "run", "start"], kind="stable").drop_duplicates(
        ["name", "phase"]
    )
    number = order.assign(index=np.arange(len(order)))[["name", "phase", "index"]]
    joined = layers[["name", "phase"]].merge(number, how="left", on=["name", "phase"])
    joined["index"] = joined["index"].fillna(-1).astype(np.int64)
    joined.loc[~joined.index.isin(here["detail"].unique()), "index"] = -1
    return joined


def layer_times(tables: Tables, corrected: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame:
    """Latency of each layer, in the order of `layer_rows`: latency_ms, latency_ci_ms, busy_ms,
    idle_ms.

    With kernels, a layer's latency is its turn on the device's timeline: the device's busy time for
    it and the idle time just before, means over the runs of the deepest rung, which add up to the
    model latency with the time before the first kernel and after the last. Without, it is the
    host's time in it, layers inside it left out: the corrected interval, or the one of the rung
    whose deepest level is LAYER; trimmed means; busy_ms and idle_ms are NaN then.
    """
    turns = device_turns(tables, corrected)
    count = int(rows["index"].max()) + 1 if len(rows) else 0
    if len(turns):
        key = rows.drop_duplicates(["name", "phase"]).set_index(["name", "phase"])["index"]
        layer = key.reindex(pd.MultiIndex.from_frame(turns[["name", "phase"]])).to_numpy()
        runs = turns["run"].to_numpy()
        busy, idle = (
            sum_by_run(runs, layer, turns[column].to_numpy(), count)
            for column in ("busy_ns", "idle_ns")
        )
        mean, half = plain_mean(busy + idle)
        parts = plain_mean(busy)[0], plain_mean(idle)[0]
    else:
        mean, half = trimmed(_host(tables, corrected, rows, count))
        parts = np.full(count, np.nan), np.full(count, np.nan)
    columns = {"latency_ms": mean, "latency_ci_ms": half, "busy_ms": parts[0], "idle_ms": parts[1]}
    return pd.DataFrame(
        {name: values / 1e6 for name, values in columns.items()}, index=pd.RangeIndex(count)
    )


def _host(
    tables: Tables, corrected: pd.DataFrame | None, rows: pd.DataFrame, count: int
) -> npt.NDArray[np.float64]:
    spans, runs = tables["spans"], tables["runs"]
    own = runs_of(runs, Level.LAYER)["run"]
    if corrected is not None:
        own = spans["run"].loc[corrected["row"]]
        spans = with_corrected_times(spans, corrected)
    here = (spans["level"] == Level.LAYER).to_numpy() & spans["run"].isin(own.unique()).to_numpy()
    rest = tables["layers"].index[tables["layers"]["kind"] == NO_LAYER_KIND]
    outside = here & spans["detail"].isin(rest).to_numpy()
    alone = exclusive_ns(spans, Level.LAYER)
    alone[outside] -= _layers_of_the_call(spans, here & ~outside)[outside]
    layer = rows["index"].to_numpy()[spans["detail"].to_numpy()[here]]
    return sum_by_run(
        spans["run"].to_numpy()[here], layer, np.maximum(alone[here], 0).astype(np.float64), count
    )


def _layers_of_the_call(
    spans: pd.DataFrame, layers: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """For each span the time of the layers that lie directly in the model call around it."""
    parent = spans["parent"].to_numpy()
    top = layers & (spans["level"].to_numpy()[parent] == Level.MODEL)
    total = np.bincount(
        parent[top], weights=spans["duration_ns"].to_numpy()[top], minlength=len(spans)
    )
    return np.asarray(total[parent], dtype=np.int64)
