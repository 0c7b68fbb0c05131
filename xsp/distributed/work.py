"""What a rank did by itself: time by layer, without communication and what layers contain."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.rungs import runs_of
from xsp.distributed.collective_calls import is_communication
from xsp.distributed.nccl_kernels import types_of_kernels
from xsp.types import Level, Tables

OWN_TIME = "(own time)"
"""Of the model: Python between layers, and waiting that is no collective."""

OUTSIDE = "(outside layers)"


def work_of(tables: Tables) -> pd.DataFrame:
    """Time by round and layer: round, where (`host`, `device`), name, phase, ns.

    On the host it is each layer's time less that of the layers inside it, in the runs that trace
    layers alone; on the device that of its kernels, copies and sets, in the deepest runs.
    """
    return pd.concat([_host(tables), _device(tables)], ignore_index=True)


def _host(tables: Tables) -> pd.DataFrame:
    layers, runs = tables["layers"], runs_of(tables["runs"], Level.LAYER)
    spans = tables["spans"]
    mine = spans["run"].isin(runs["run"]) & (spans["level"] <= Level.LAYER)
    spans = spans[mine].assign(row=np.flatnonzero(mine.to_numpy()))
    inside = spans[spans["parent"] >= 0].groupby("parent")["duration_ns"].sum()
    own = spans["duration_ns"] - spans["row"].map(inside).fillna(0)
    is_layer = (spans["level"] == Level.LAYER).to_numpy()
    is_collective = is_communication(layers).to_numpy()
    detail = np.where(is_layer, spans["detail"], -1)
    kept = ~is_layer | ~is_collective[detail]
    return _summed(tables, "host", spans["run"][kept], detail[kept], own[kept], OWN_TIME)


def _device(tables: Tables) -> pd.DataFrame:
    spans, runs = tables["spans"], runs_of(tables["runs"], Level.KERNEL)
    is_kernel = (spans["level"] == Level.KERNEL) & spans["run"].isin(runs["run"])
    is_collective = types_of_kernels(tables["kernels"]).notna().to_numpy()
    rows = np.flatnonzero(is_kernel.to_numpy())
    rows = rows[~is_collective[spans["detail"].to_numpy()[rows]]]
    level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
    above = nearest(parent, level <= Level.LAYER, parent[rows])
    is_layer = (above >= 0) & (level[above] == Level.LAYER)
    detail = np.where(is_layer, spans["detail"].to_numpy()[above], -1)
    kernels = spans.iloc[rows]
    return _summed(tables, "device", kernels["run"], detail, kernels["duration_ns"], OUTSIDE)


def _summed(
    tables: Tables,
    where: str,
    run: pd.Series,
    detail: np.ndarray[tuple[int], np.dtype[np.int64]],
    ns: pd.Series,
    no_layer: str,
) -> pd.DataFrame:
    """Sums by round and layer; -1 stands for none."""
    layers = tables["layers"]
    names = np.append(layers["name"].astype(object).to_numpy(), no_layer)
    phases = np.append(layers["phase"].astype(object).to_numpy(), "")
    rounds = tables["runs"].set_index("run")["round"]
    table = pd.DataFrame(
        {
            "round": run.map(rounds).to_numpy(np.int64),
            "where": where,
            "name": names[detail],
            "phase": phases[detail],
            "ns": ns.to_numpy(np.float64),
        }
    )
    return table.groupby(["round", "where", "name", "phase"])["ns"].sum().reset_index()
