"""Collectives as NCCL's kernels, which carry no process group: which one a kernel is of is told by
the operations that the structure run saw in the layer that launched it.
"""

from __future__ import annotations

import json
from math import nan

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.work.collectives import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from xsp.distributed.collective_calls import GRADIENTS, types_of_layers
from xsp.distributed.collective_spans import item_bytes, timed
from xsp.distributed.communications import operations
from xsp.distributed.process_groups import ALL, sizes_of
from xsp.types import IntArray, Level, Tables

_KERNEL = r"nccl(?:Dev)?Kernel_(AllReduce|AllGather|ReduceScatter)"
"""`ncclDevKernel_AllReduce_Sum_f32_RING_LL`, without `Dev` in NCCL 2.18 and before."""

_KERNELS = {"AllReduce": ALL_REDUCE, "AllGather": ALL_GATHER, "ReduceScatter": REDUCE_SCATTER}
_PER_RANK = (ALL_GATHER, REDUCE_SCATTER)
"""NCCL's calls give the count of one rank's part."""

_REDUCERS = -1
"""Stands for all reducers of gradients."""


def types_of_kernels(kernels: pd.DataFrame) -> pd.Series:
    """By kernel the type of the collective that it is, missing for any other."""
    return kernels["name"].astype(str).str.extract(_KERNEL, expand=False).map(_KERNELS)


def of_kernels(tables: Tables, size: int) -> pd.DataFrame:
    """The columns of `collective_spans.timed`, group (`ALL` also where it is not known), bytes and
    dtype, of a job of `size` ranks.
    """
    kernels, spans = tables["kernels"], tables["spans"]
    types = types_of_kernels(kernels)
    shown = np.flatnonzero(types.notna().to_numpy())
    runs = runs_of(tables["runs"], Level.KERNEL)["run"]
    is_kernel = (spans["level"] == Level.KERNEL) & spans["detail"].isin(shown)
    rows = spans[is_kernel & spans["run"].isin(runs)]
    at = rows.index.to_numpy()
    found = timed(rows, kernels["name"], types)
    found = found.assign(launched_ns=_launched(spans, at), layer=_layers_above(spans, at))
    found = _with_groups(found, _made_by_kernels(tables["layers"]))
    asked = _bytes_of_calls(tables, at)
    parts = np.where(found["type"].isin(_PER_RANK), sizes_of(found["group"], size), 1)
    return found.assign(bytes=asked * parts)


def _made_by_kernels(layers: pd.DataFrame) -> pd.DataFrame:
    """Operations by `layer`, with place and number among those of its type there. Those of
    gradients' reducers have the layer `_REDUCERS`: their kernels are launched before their rows.
    """
    made = operations(layers).rename(columns={"detail": "layer"})
    made = made[made["type"].isin(_KERNELS.values())]
    reduces = (types_of_layers(layers) == GRADIENTS).to_numpy()
    layer = made["layer"].to_numpy()
    made = made.assign(layer=np.where(reduces[layer], _REDUCERS, layer))
    alike = made.groupby(["layer", "type"])
    return made.assign(place=alike.cumcount(), made=alike["group"].transform("size"))


def _with_groups(found: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """With group and dtype of the operation that each kernel carries out.

    If the kernels of a type are as many as the operations of a layer, they are these in order.
    Else the group is known where all of the layer's operations are of one. Kernels below no layer
    that communicates are of gradients' reducers.
    """
    communicates = found["layer"].isin(made["layer"])
    found = found.assign(layer=found["layer"].where(communicates, _REDUCERS))
    found = found.sort_values(["run", "launched_ns", "start_ns"], kind="stable")
    alike = found.groupby(["run", "layer", "type"])
    found = found.assign(place=alike.cumcount(), kernels=alike["start_ns"].transform("size"))
    at = ["layer", "type", "place"]
    told = found[at].merge(made[[*at, "made", "group", "dtype"]], on=at, how="left")
    in_order = told["made"].to_numpy() == found["kernels"].to_numpy()
    groups = made.groupby("layer")["group"]
    sole = groups.first()[groups.nunique() == 1]
    group = told["group"].where(in_order, told["layer"].map(sole)).fillna(ALL)
    dtype = told["dtype"].where(in_order).fillna("")
    return found.assign(group=group.to_numpy(object), dtype=dtype.to_numpy(object)).sort_index()


def _layers_above(spans: pd.DataFrame, kernels: IntArray) -> npt.NDArray[np.int64]:
    """By kernel the `detail` of the innermost layer above it; -1 without one."""
    level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
    above = nearest(parent, level <= Level.LAYER, parent[kernels])
    is_layer = (above >= 0) & (level[above] == Level.LAYER)
    return np.where(is_layer, spans["detail"].to_numpy()[above], -1)


def _launched(spans: pd.DataFrame, kernels: IntArray) -> npt.NDArray[np.int64]:
    """When the call that launched each kernel began; streams can run kernels in another order."""
    level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()[kernels]
    start = spans["start_ns"].to_numpy()
    is_call = (parent >= 0) & (level[parent] == Level.LIBRARY)
    return np.where(is_call, start[parent], start[kernels])


def _bytes_of_calls(tables: Tables, kernels: IntArray) -> npt.NDArray[np.float64]:
    """By kernel what the library call above it was asked to move; NaN without one."""
    spans, calls = tables["spans"], tables["library_calls"]
    asked = calls["arguments"].map(_asked_bytes).to_numpy(np.float64)
    is_call = (spans["level"] == Level.LIBRARY).to_numpy()
    parent = spans["parent"].to_numpy()
    above = nearest(parent, is_call, parent[kernels])
    found = np.full(len(kernels), nan)
    has = above >= 0
    found[has] = asked[spans["detail"].to_numpy()[above[has]]]
    return found


def _asked_bytes(arguments: str) -> float:
    given = json.loads(arguments)
    if not {"count", "type"} <= set(given):
        return nan
    return float(given["count"]) * item_bytes(str(given["type"]))
