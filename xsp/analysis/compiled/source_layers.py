"""What compiled code spends on the layers of the program, kernel by kernel and layer by layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.compiled.activities import AROUND, INPUTS
from xsp.analysis.compiled.matching import BY_KIND
from xsp.analysis.spans.sequence import activity_sequence
from xsp.types import Tables

LAUNCHES, ORIGINS, GRAPHS = "compiled_launches", "compiled_origins", "compiled_graphs"
KERNELS, COPIES = "compiled_kernels", "compiled_copies"
"""Names of the tables of a capture that this reads."""

NOT_KNOWN = "(unknown)"
"""Layer of kernels of compiled code that nothing leads back to the program."""

NO_LAYERS = {INPUTS: "(inputs of CUDA graphs)", AROUND: "(around compiled graphs)"}
"""What stands for a layer, by how it was told, where the compiler copies inputs to where its
captured graphs read them, and where autograd prepares what graphs are given and keeps what they
give.
"""

SURE = ("exact", "verified", "inferred", "unknown")
"""How sure an owner is, the surest first."""

COLUMNS = (
    "graph",
    "phase",
    "ordinal",
    "kernel",
    "kind",
    "layer",
    "operators",
    "source",
    "share",
    "confidence",
    "flops",
    "kernels",
    "device_ms",
)
_BY_LAYER = ("layer", "phase", "device_ms", "share", "flops", "launches", "confidence")


def compiled_kernels(tables: Tables) -> pd.DataFrame:
    """A row for each launch of a compiled graph and each layer that shares it, in order.

    Columns: graph (from 0, in the order of their first calls), phase, ordinal (of the launch in its
    graph), kernel (as the wrapper launches it), kind (`triton`, `template`, `extern`, `cpp`),
    layer, operators (ATen's), source (`path:line`), share (of the launch, 0 to 1: they add up to
    1), confidence (SURE), flops (of its matrix products, convolutions and attention in one run of
    the target; 0 without any, NaN where not known), kernels (with copies and sets, that the launch
    ran in one run of the target; 0 where none were traced) and device_ms (the share of their time;
    NaN where none were traced). Those that a compiled graph ran, and that no launch was found for,
    are rows of their own, of ordinal -1 and layer NOT_KNOWN, or one of NO_LAYERS. Empty where no
    compiled code ran, or where it was not looked into.
    """
    if LAUNCHES not in tables:
        return pd.DataFrame(columns=list(COLUMNS))
    launches, origins = tables[LAUNCHES], tables[ORIGINS]
    led = _led(tables)
    count, time_ns, is_doubtful = _of_launches(led, len(launches))
    at = origins["launch"].to_numpy()
    facts = launches.drop(columns="confidence").iloc[at].reset_index(drop=True)
    table = pd.concat([facts, origins.drop(columns="launch").reset_index(drop=True)], axis=1)
    table["flops"] = _flops(table, tables)
    table["kernels"] = count[at]
    table["device_ms"] = table["share"].to_numpy() * time_ns[at] / 1e6
    less_sure = np.where(table["confidence"] == "unknown", "unknown", "inferred")
    table["confidence"] = np.where(is_doubtful[at], less_sure, table["confidence"])
    table = pd.concat([table, _without_launch(led, launches)], ignore_index=True)
    return table[list(COLUMNS)].sort_values("graph", kind="stable", ignore_index=True)


def compiled_layers(tables: Tables) -> pd.DataFrame:
    """What compiled code spends on each layer of the program, the most first.

    Columns: layer, phase, device_ms (NaN where no kernels were traced), share (of all compiled
    kernels' time), flops (of its matrix products, convolutions and attention in one run; NaN
    without any, and where those of one are not known), launches (that it shares) and confidence
    (the least sure of these). `device_ms` adds up to the time of all kernels of compiled code.
    """
    table = compiled_kernels(tables)
    if not len(table):
        return pd.DataFrame(columns=list(_BY_LAYER))
    table["rank"] = table["confidence"].map({name: rank for rank, name in enumerate(SURE)})
    groups = table.groupby(["layer", "phase"], sort=False)
    found = groups.agg(
        device_ms=("device_ms", lambda each: each.sum(min_count=1)),
        flops=("flops", lambda each: each.sum(skipna=False)),
        launches=("ordinal", "size"),
        rank=("rank", "max"),
    ).reset_index()
    # What fused kernels compute beside products is not counted: 0 would be too little.
    found["flops"] = found["flops"].where(found["flops"] > 0)
    total = found["device_ms"].sum()
    found["share"] = found["device_ms"] / total if total else np.nan
    found["confidence"] = [SURE[rank] for rank in found["rank"]]
    ordered = found.sort_values("device_ms", ascending=False, kind="stable", ignore_index=True)
    return ordered[list(_BY_LAYER)]


def _flops(rows: pd.DataFrame, tables: Tables) -> pd.Series:
    """Of each origin in one run, which may call its graph several times."""
    if "flops" not in rows or GRAPHS not in tables:
        return pd.Series(np.nan, index=rows.index)
    calls = tables[GRAPHS].set_index("graph")["calls"]
    return rows["flops"].astype("float64") * rows["graph"].map(calls)


def _led(tables: Tables) -> pd.DataFrame:
    """Kernels, copies and sets that compiled graphs ran: name, graph, launch (-1: none found), by,
    duration_ns.
    """
    columns = ["name", "graph", "launch", "by", "duration_ns"]
    known = [tables[name] for name in (KERNELS, COPIES) if name in tables and len(tables[name])]
    if not known:
        return pd.DataFrame(columns=columns)
    every = activity_sequence(tables)
    is_kernel = every["kind"] == "kernel"
    parts = []
    for name, own in ((KERNELS, every[is_kernel]), (COPIES, every[~is_kernel])):
        if name in tables:
            facts = own.set_index("position")[["name", "duration_ns"]]
            parts.append(tables[name].join(facts, on="position", how="inner")[columns])
    return pd.concat(parts, ignore_index=True)


def _of_launches(
    led: pd.DataFrame, launches: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Of each launch: its kernels, their time (NaN where no kernels were traced), and whether any
    of them was matched with a doubt.
    """
    found = led[led["launch"] >= 0]
    at = found["launch"].to_numpy(dtype=np.int64)
    time_ns = found["duration_ns"].to_numpy(dtype=np.float64)
    count = np.bincount(at, minlength=launches).astype(np.int64)
    total = np.full(launches, np.nan)
    if len(led):
        total = np.bincount(at, weights=time_ns, minlength=launches).astype(np.float64)
    doubtful = np.zeros(launches, dtype=bool)
    doubtful[at[(found["by"] == BY_KIND).to_numpy()]] = True
    return count, total, doubtful


def _without_launch(led: pd.DataFrame, launches: pd.DataFrame) -> pd.DataFrame:
    rest = led[led["launch"] < 0]
    if not len(rest):
        return pd.DataFrame()
    phases = launches.groupby("graph")["phase"].first()
    return pd.DataFrame(
        {
            "graph": rest["graph"].to_numpy(),
            "phase": phases.reindex(rest["graph"]).fillna("forward").to_numpy(),
            "ordinal": -1,
            "kernel": rest["name"].to_numpy(),
            "kind": "",
            "layer": rest["by"].map(NO_LAYERS).fillna(NOT_KNOWN).to_numpy(),
            "operators": "",
            "source": "",
            "share": 1.0,
            "confidence": "unknown",
            "flops": np.nan,
            "kernels": 1,
            "device_ms": rest["duration_ns"].to_numpy(dtype=np.float64) / 1e6,
        }
    )
