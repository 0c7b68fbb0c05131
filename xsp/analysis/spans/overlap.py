"""Kernels of different layers that run at the same time, and what each layer takes when nothing
else runs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.statistics import trimmed
from xsp.types import Level, Tables

IntArray = npt.NDArray[np.int64]

COLUMNS = ["name", "phase", "kernels", "device_ms", "device_ci_ms", "together_ms", "overlapped"]


def find_overlaps(tables: Tables) -> pd.DataFrame:
    """Device activities that ran while one of another layer was running: their time is not their
    own alone.

    One row each: run, row (of the spans table), layer (row of the layers table). Empty where
    nothing overlaps.
    """
    found = _activities(tables)
    if not len(found):
        return found[["run", "row", "layer"]]
    run = found.groupby("run").ngroup().to_numpy()
    own = found.groupby(["run", "layer"]).ngroup().to_numpy()
    others = _intersecting(run, found) > _intersecting(own, found)
    return found.loc[others, ["run", "row", "layer"]].reset_index(drop=True)


def overlapping_in_a_run(tables: Tables, runs: int) -> int:
    """How many activities of a run overlap another layer's: the mean over so many runs, rounded
    up, so that it is told too where only one of them had any.
    """
    return math.ceil(len(find_overlaps(tables)) / max(runs, 1))


def layer_busy(tables: Tables) -> pd.DataFrame:
    """GPU-busy time of every layer in every run: run, layer (row of the layers table), kernels,
    busy_ns.
    """
    found = _activities(tables)
    grouped = found.groupby(["run", "layer"], sort=True)
    busy = covered_ns(
        grouped.ngroup().to_numpy(),
        found["start_ns"].to_numpy(),
        found["end_ns"].to_numpy(),
        grouped.ngroups,
    )
    return grouped.size().rename("kernels").reset_index().assign(busy_ns=busy)


def serialized_layers(tables: Tables) -> pd.DataFrame:
    """Each layer's GPU-busy time when the device is synchronised after every layer (XSP, section
    III-B).

    Columns: name, phase, kernels, device_ms, device_ci_ms (alone), together_ms (in the ordinary
    runs of the deepest rung), overlapped (activities per run that ran while one of another layer
    did). Empty without serialised runs.
    """
    alone = tables.get("serialized")
    if alone is None or not len(alone):
        return pd.DataFrame(columns=COLUMNS)
    layers = tables["layers"]
    together = layer_busy(tables)
    runs = max(together["run"].nunique(), 1)
    shared = find_overlaps(tables).groupby("layer").size().div(runs)
    frames = {"device": _summed(alone, layers), "together": _summed(together, layers)}
    result = frames["device"].rename(columns={"mean": "device_ms", "half": "device_ci_ms"})
    result["together_ms"] = frames["together"]["mean"].reindex(result.index)
    key = pd.MultiIndex.from_frame(layers.loc[shared.index, ["name", "phase"]])
    result["overlapped"] = shared.groupby(key).sum().reindex(result.index, fill_value=0.0)
    return result.reset_index()[COLUMNS]


def _summed(busy: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Trimmed mean over runs of each named layer's busy time in ms, half its interval, and its
    kernels.
    """
    keys = layers.loc[busy["layer"], ["name", "phase"]].reset_index(drop=True)
    table = pd.concat([busy.reset_index(drop=True), keys], axis=1)
    sums = table.pivot_table(
        index="run",
        columns=["name", "phase"],
        values="busy_ns",
        aggfunc="sum",
        fill_value=0,
        sort=False,
    )
    mean, half = trimmed(sums.to_numpy() / 1e6)
    kernels = (
        table.groupby(["name", "phase"], sort=False)["kernels"].sum().reindex(sums.columns)
        / table["run"].nunique()
    )
    return pd.DataFrame(
        {"mean": mean, "half": half, "kernels": kernels.round().astype(int)}, index=sums.columns
    )


def _activities(tables: Tables) -> pd.DataFrame:
    """Device activities with their layer: run, row, layer, start_ns, end_ns."""
    spans = tables["spans"]
    rows = np.flatnonzero((spans["level"] == Level.KERNEL).to_numpy())
    layer = spans["detail"].to_numpy()[layer_spans(spans, rows)] if len(rows) else rows
    start = spans["start_ns"].to_numpy()[rows]
    return pd.DataFrame(
        {
            "run": spans["run"].to_numpy()[rows],
            "row": rows,
            "layer": layer,
            "start_ns": start,
            "end_ns": start + spans["duration_ns"].to_numpy()[rows],
        }
    )


def _intersecting(group: npt.NDArray[np.integer[Any]], found: pd.DataFrame) -> IntArray:
    """Number of activities of its own group that each activity shares time with, itself
    among them.
    """
    start, end = found["start_ns"].to_numpy(), found["end_ns"].to_numpy()
    # Groups are laid end to end on one axis, so that one search serves them all.
    length = int(end.max() - start.min()) + 1
    shift = group * length - start.min()
    opens, closes = start + shift, end + shift
    begun = np.searchsorted(np.sort(opens), closes, side="left")
    ended = np.searchsorted(np.sort(closes), opens, side="right")
    result: IntArray = begun - ended
    return result
