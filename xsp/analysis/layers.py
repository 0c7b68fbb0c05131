"""Analyses of layers: A2 to A7 of XSP, section III-D. One row per layer, or per type of layer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.memo import once_per_profile
from xsp.analysis.spans.layer_time import layer_rows, layer_times
from xsp.analysis.spans.outside import NO_LAYER_KIND

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_TABLES = ("runs", "spans", "layers")


def layer_information(profile: ProfileData) -> pd.DataFrame:
    """A2: one row per layer and phase, in the order in which they first begin; several calls of one
    layer are pooled.

    Columns: index (from 0), name, type (of the layer, in backward too), phase, shape (of the
    outputs, of the first call), latency_ms and latency_ci_ms (what the layer costs the latency: the
    device's busy time for it and the idle time that it causes, without a device the host's time in
    it; see `xsp.analysis.spans.latency_parts`), host_ms, device_ms (as in `Profile.tree`),
    allocated_bytes (NaN where not known), share (of the model latency; the shares of all layers and
    of the time in no layer make 1).
    """
    columns = [
        "index",
        "name",
        "type",
        "phase",
        "shape",
        "latency_ms",
        "latency_ci_ms",
        "host_ms",
        "device_ms",
    ]
    return _layers(profile)[[*columns, "allocated_bytes", "share"]]


@once_per_profile
def rows_of_layers(profile: ProfileData) -> pd.DataFrame:
    """`layer_rows` of a profile."""
    return layer_rows(profile.raw_tables(*_TABLES))


@once_per_profile
def _layers(profile: ProfileData) -> pd.DataFrame:
    """`layer_information` with one column more: calls, in one run."""
    tables, rows = profile.raw_tables(*_TABLES), rows_of_layers(profile)
    times = layer_times(tables, profile._latency_parts, rows)
    facts = _facts(tables["layers"].assign(index=rows["index"])[rows["index"] >= 0])
    table = facts.join(times[["latency_ms", "latency_ci_ms", "share"]], on="index")
    table = table.merge(_tree_times(profile), how="left", on=["name", "phase"])
    # What is in no layer has no type: it appears under its own name.
    table["type"] = table["type"].where(table["calls"] > 0, table["name"])
    return table


def _facts(called: pd.DataFrame) -> pd.DataFrame:
    """index, name, phase, shape, allocated_bytes, calls of each layer from its rows.

    A forward row is a call; backward rows are autograd nodes, of which those of one forward call
    count once.
    """
    first = called.drop_duplicates("index").sort_values("index")
    known = _own_bytes(called)
    call = called["forward"].where(called["forward"] >= 0, called.index.to_series())
    calls = (
        call.where(called["kind"] != NO_LAYER_KIND).groupby(called["index"]).nunique().sort_index()
    )
    return pd.DataFrame(
        {
            "index": first["index"].to_numpy(np.int64),
            "name": first["name"].to_numpy(object),
            "phase": first["phase"].to_numpy(object),
            "shape": [_shape(text) for text in first["output_shapes"]],
            "allocated_bytes": known.groupby(called["index"])
            .sum(min_count=1)
            .sort_index()
            .to_numpy(),
            "calls": calls.to_numpy(np.int64),
        }
    )


def _own_bytes(called: pd.DataFrame) -> pd.Series[float]:
    """Bytes that each row allocates; NaN where not known.

    A call of `backward()` is recorded with all that the autograd nodes below it allocate, which are
    rows of their own. With one such call they are subtracted; with several it is not known whose
    they are.
    """
    recorded = called["allocated_bytes"].astype(np.float64)
    known = recorded.where(recorded >= 0)
    engine = (called["kind"] == "function") & (called["phase"] == "backward")
    nodes = known[called["kind"] == "autograd"].sum()
    rest = (known - nodes).clip(lower=0) if engine.sum() == 1 else np.nan
    return known.mask(engine, rest)


def _shape(text: str) -> str:
    """`32, 64, 112, 112`, outputs of several tensors separated by semicolons."""
    return "; ".join(
        ", ".join(map(str, shape)) for shape in json.loads(text) if isinstance(shape, list)
    )


def _tree_times(profile: ProfileData) -> pd.DataFrame:
    """name, phase, type, host_ms, device_ms of the layers, nodes of one name and phase summed."""
    nodes = profile._pooled_layers.groupby(["name", "phase"], sort=False)
    times: pd.DataFrame = (
        nodes[["host_ms", "device_ms"]].sum(min_count=1).join(nodes["type"].first())
    )
    return times.reset_index()


def layer_latency(profile: ProfileData) -> pd.DataFrame:
    """A3: index, name, type, phase, latency_ms, latency_ci_ms of each layer, as in
    `layer_information`.
    """
    return layer_information(profile)[
        ["index", "name", "type", "phase", "latency_ms", "latency_ci_ms"]
    ]


def layer_memory(profile: ProfileData) -> pd.DataFrame:
    """A4: index, name, type, phase, allocated_bytes of each layer, as in `layer_information`."""
    return layer_information(profile)[["index", "name", "type", "phase", "allocated_bytes"]]


def layer_type_distribution(profile: ProfileData) -> pd.DataFrame:
    """A5: type, count (layer calls of a run), share (of all of them), most frequent first."""
    counts = _by_type(profile)
    counts = counts[counts["count"] > 0]
    return _ranked(counts, "count")[["type", "count", "share"]]


def layer_latency_by_type(profile: ProfileData) -> pd.DataFrame:
    """A6: type, count (layer calls of a run), latency_ms (sum), share (of the sum over all types),
    longest first.
    """
    return _ranked(_by_type(profile), "latency_ms")[["type", "count", "latency_ms", "share"]]


def layer_memory_by_type(profile: ProfileData) -> pd.DataFrame:
    """A7: type, count (layer calls of a run), allocated_bytes (sum), share (of the sum over all
    types), most first.
    """
    return _ranked(_by_type(profile), "allocated_bytes")[
        ["type", "count", "allocated_bytes", "share"]
    ]


def _by_type(profile: ProfileData) -> pd.DataFrame:
    """Sums over the layers of a type. What is in no layer has its name for a type, and no calls."""
    layers = _layers(profile).rename(columns={"calls": "count"})
    sums = layers.groupby("type", sort=False)[["count", "latency_ms", "allocated_bytes"]]
    table: pd.DataFrame = sums.sum(min_count=1).reset_index()
    return table


def _ranked(table: pd.DataFrame, by: str) -> pd.DataFrame:
    ranked = table.sort_values(by, ascending=False, kind="stable", ignore_index=True)
    return ranked.assign(share=ranked[by] / ranked[by].sum())
