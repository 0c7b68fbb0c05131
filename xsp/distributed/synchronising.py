"""Collectives in one rank's capture: what they are, what they move among whom, and when."""

from __future__ import annotations

import json
import re
from math import nan, prod

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.work.collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BARRIER,
    FUNCTIONAL,
    REDUCE_SCATTER,
)
from xsp.distributed.communications import ALL, communications
from xsp.types import IntArray, Level, Tables

GRADIENTS = "gradients"

_LAYERS = {
    **FUNCTIONAL,
    "all_gather": ALL_GATHER,
    "all_gather_into_tensor": ALL_GATHER,
    "all_gather_object": ALL_GATHER,
    "reduce_scatter": REDUCE_SCATTER,
    "all_to_all": ALL_TO_ALL,
    "barrier": BARRIER,
}
"""Calls of torch.distributed in which every rank of a group waits for every other. A broadcast or a
gather is none: there only some wait, for some.
"""

_NOT_ITS_OWN = ("wait_tensor", "isend", "irecv", "send", "recv", "batch_isend_irecv", "batch_p2p")
"""Calls that wait for other ranks and are no such collectives."""

_SYNCHRONIZATION = "(gradient synchronization)"
_WHOLE = (
    "all_reduce",
    "all_gather_into_tensor",
    "all_gather_single",
    "reduce_scatter_tensor",
    "reduce_scatter_single",
    "all_to_all_single",
)
"""Those whose largest tensor is what nccl-tests calls the size."""

_KERNEL = re.compile(r"nccl(?:Dev)?Kernel_(AllReduce|AllGather|ReduceScatter)")
"""`ncclDevKernel_AllReduce_Sum_f32_RING_LL`, without `Dev` in NCCL 2.18 and before."""

_KERNELS = {"AllReduce": ALL_REDUCE, "AllGather": ALL_GATHER, "ReduceScatter": REDUCE_SCATTER}
_PER_RANK = (ALL_GATHER, REDUCE_SCATTER)
"""NCCL's calls give the count of one rank's part."""

COLUMNS = ("round", "group", "number", "name", "type", "bytes", "dtype", "start_ns", "end_ns")


def collectives(tables: Tables, size: int) -> pd.DataFrame:
    """Collectives of all rounds of one rank of `size`, in order: round, group (`ALL`, or the ranks
    that made it), number (of its group in the round), name, type, bytes (NaN where not known),
    dtype (empty where not known), start_ns and end_ns on that rank's clock.

    Where NCCL's kernels were recorded they are what is listed: a kernel begins when its rank has
    come, and ends when the data has. Else it is the calls that are; one that is waited for later
    ends with that wait.
    """
    found = _kernels(tables, size)
    if found.empty:
        found = _calls(tables)
    found = found.sort_values(["run", "start_ns"], kind="stable")
    rounds = tables["runs"].set_index("run")["round"]
    return pd.DataFrame(
        {
            "round": found["run"].map(rounds).to_numpy(np.int64),
            "group": found["group"].to_numpy(object),
            "number": found.groupby(["run", "group"]).cumcount().to_numpy(np.int64),
            **{name: found[name].to_numpy() for name in COLUMNS[3:]},
        }
    )


def types_of_layers(layers: pd.DataFrame) -> pd.Series:
    """By layer the type of the collective that it is, missing for any other."""
    types = layers["type"].map(_LAYERS).mask(layers["kind"] != "function")
    return types.mask(layers["name"] == _SYNCHRONIZATION, GRADIENTS)


def is_communication(layers: pd.DataFrame) -> pd.Series:
    """By layer whether its time is that of other ranks too."""
    other = layers["type"].isin(_NOT_ITS_OWN) & (layers["kind"] == "function")
    return types_of_layers(layers).notna() | other


def types_of_kernels(kernels: pd.DataFrame) -> pd.Series:
    """The same by kernel."""
    return kernels["name"].astype(str).str.extract(_KERNEL, expand=False).map(_KERNELS)


def _calls(tables: Tables) -> pd.DataFrame:
    layers, spans = tables["layers"], tables["spans"]
    types = types_of_layers(layers)
    shown = np.flatnonzero(types.notna().to_numpy())
    runs = runs_of(tables["runs"], Level.LAYER)["run"]
    of_layers = spans[(spans["level"] == Level.LAYER) & spans["run"].isin(runs)]
    rows = of_layers[of_layers["detail"].isin(shown)]
    told = communications(layers)
    size = told["bytes"].fillna(_bytes_of_layers(layers))
    found = _timed(rows, layers["name"], types, size)
    detail = rows["detail"].to_numpy()
    return found.assign(
        group=told["group"].to_numpy(object)[detail],
        dtype=told["dtype"].to_numpy(object)[detail],
        end_ns=np.maximum(found["end_ns"], _awaited(of_layers, told, rows)),
    )


def _awaited(spans: pd.DataFrame, told: pd.DataFrame, rows: pd.DataFrame) -> IntArray:
    """By span of a collective, when the wait for it ended; 0 where nothing waited."""
    ends = spans["start_ns"] + spans["duration_ns"]
    awaited = told["awaited"].to_numpy()[spans["detail"].to_numpy()]
    waits = pd.DataFrame({"run": spans["run"], "ticket": awaited, "end_ns": ends})
    last = waits[waits["ticket"] >= 0].groupby(["run", "ticket"])["end_ns"].max()
    tickets = told["ticket"].to_numpy()[rows["detail"].to_numpy()]
    wanted = pd.MultiIndex.from_arrays([rows["run"].to_numpy(), tickets])
    found: IntArray = last.reindex(wanted).fillna(0).to_numpy(np.int64)
    return found


def _kernels(tables: Tables, size: int) -> pd.DataFrame:
    kernels, spans = tables["kernels"], tables["spans"]
    types = types_of_kernels(kernels)
    shown = np.flatnonzero(types.notna().to_numpy())
    runs = runs_of(tables["runs"], Level.KERNEL)["run"]
    is_kernel = (spans["level"] == Level.KERNEL) & spans["detail"].isin(shown)
    rows = spans[is_kernel & spans["run"].isin(runs)]
    found = _timed(rows, kernels["name"], types, pd.Series(np.full(len(kernels), nan)))
    asked = _bytes_of_calls(tables, rows.index.to_numpy(), found["type"], size)
    return found.assign(bytes=asked, group=ALL, dtype="")


def _timed(rows: pd.DataFrame, names: pd.Series, types: pd.Series, size: pd.Series) -> pd.DataFrame:
    detail, start = rows["detail"].to_numpy(), rows["start_ns"].to_numpy()
    return pd.DataFrame(
        {
            "run": rows["run"].to_numpy(),
            "name": names.astype(object).to_numpy()[detail],
            "type": types.astype(object).to_numpy()[detail],
            "bytes": size.to_numpy(np.float64)[detail],
            "start_ns": start,
            "end_ns": start + rows["duration_ns"].to_numpy(),
        }
    )


def _bytes_of_layers(layers: pd.DataFrame) -> pd.Series:
    """By layer the bytes of the largest tensor, where that is the size of the collective."""
    found = pd.Series(np.full(len(layers), nan))
    known = layers["type"].isin(_WHOLE).to_numpy()
    shapes, dtypes = layers["input_shapes"][known], layers["input_dtypes"][known]
    found[known] = [_largest_bytes(*each) for each in zip(shapes, dtypes, strict=True)]
    return found


def _largest_bytes(shapes: str, dtypes: str) -> float:
    tensors = zip(json.loads(shapes), json.loads(dtypes), strict=False)
    sizes = [prod(shape) * _item_bytes(dtype) for shape, dtype in tensors]
    return max(sizes, default=nan)


def _bytes_of_calls(
    tables: Tables, kernels: IntArray, types: pd.Series, size: int
) -> npt.NDArray[np.float64]:
    """By kernel what the library call above it was asked to move; NaN without one."""
    spans, calls = tables["spans"], tables["library_calls"]
    asked = calls["arguments"].map(_asked_bytes).to_numpy(np.float64)
    is_call = (spans["level"] == Level.LIBRARY).to_numpy()
    parent = spans["parent"].to_numpy()
    above = nearest(parent, is_call, parent[kernels])
    found = np.full(len(kernels), nan)
    has = above >= 0
    found[has] = asked[spans["detail"].to_numpy()[above[has]]]
    return np.where(types.isin(_PER_RANK), found * size, found)


def _asked_bytes(arguments: str) -> float:
    given = json.loads(arguments)
    if not {"count", "type"} <= set(given):
        return nan
    return float(given["count"]) * _item_bytes(str(given["type"]))


def _item_bytes(dtype: str) -> float:
    """Bytes of an element, by the number of bits in the type's name: `float32`, `ncclBfloat16`."""
    if dtype == "bool":
        return 1.0
    bits = re.search(r"(?:int|loat)(\d+)", dtype)
    return float(bits.group(1)) / 8 if bits else nan
