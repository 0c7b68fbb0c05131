"""Collectives as the calls that make them, where no kernels were recorded."""

from __future__ import annotations

import json
from math import nan, prod

import numpy as np
import pandas as pd

from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.work.collectives import (
    ALL_GATHER,
    ALL_TO_ALL,
    BARRIER,
    FUNCTIONAL,
    REDUCE_SCATTER,
)
from xsp.distributed.collective_spans import item_bytes, timed
from xsp.distributed.communications import by_group, operations, waits
from xsp.distributed.process_groups import ALL
from xsp.types import Level, Tables

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

_NOT_ITS_OWN = (
    "wait",
    "wait_tensor",
    "isend",
    "irecv",
    "send",
    "recv",
    "batch_isend_irecv",
    "batch_p2p",
)
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


def types_of_layers(layers: pd.DataFrame) -> pd.Series:
    """By layer the type of the collective that it is, missing for any other."""
    types = layers["type"].map(_LAYERS).mask(layers["kind"] != "function")
    return types.mask(layers["name"] == _SYNCHRONIZATION, GRADIENTS)


def is_communication(layers: pd.DataFrame) -> pd.Series:
    """By layer whether its time is that of other ranks too."""
    other = layers["type"].isin(_NOT_ITS_OWN) & (layers["kind"] == "function")
    return types_of_layers(layers).notna() | other


def of_calls(tables: Tables) -> pd.DataFrame:
    """The columns of `collective_spans.timed`, group, bytes and dtype. A call in several groups has
    a row for each.
    """
    layers, spans = tables["layers"], tables["spans"]
    types = types_of_layers(layers)
    shown = np.flatnonzero(types.notna().to_numpy())
    runs = runs_of(tables["runs"], Level.LAYER)["run"]
    of_layers = spans[(spans["level"] == Level.LAYER) & spans["run"].isin(runs)]
    found = timed(of_layers[of_layers["detail"].isin(shown)], layers["name"], types)
    found = _with_waits(found, of_layers, waits(layers))
    found = found.merge(by_group(operations(layers)), on="detail", how="left")
    by_tensors = _bytes_of_layers(layers).to_numpy(np.float64)[found["detail"].to_numpy()]
    return found.assign(
        bytes=found["bytes"].where(found["bytes"].notna(), by_tensors),
        group=found["group"].fillna(ALL),
        dtype=found["dtype"].fillna(""),
    )


def _with_waits(found: pd.DataFrame, layers: pd.DataFrame, numbers: pd.DataFrame) -> pd.DataFrame:
    """The collectives with the waits for them: one that is waited for later ends with its first
    wait. `layers` are the spans of all layers, `numbers` what `waits` gives.
    """
    waited = pd.DataFrame(
        {
            "run": layers["run"].to_numpy(),
            "ticket": numbers["awaited"].to_numpy()[layers["detail"].to_numpy()],
            "begin": layers["start_ns"].to_numpy(),
            "finish": (layers["start_ns"] + layers["duration_ns"]).to_numpy(),
        }
    )
    first = waited[waited["ticket"] >= 0].sort_values("begin").drop_duplicates(["run", "ticket"])
    tickets = numbers["ticket"].to_numpy()[found["detail"].to_numpy()]
    found = found.assign(ticket=tickets).merge(first, on=["run", "ticket"], how="left")
    # Of a row without a wait both are missing, which is not later.
    later = found["finish"] > found["end_ns"]
    wait = found["begin"].where(later, found["end_ns"]).astype(np.int64)
    return found.assign(
        wait_ns=np.maximum(wait, found["call_ns"]),
        end_ns=found["finish"].where(later, found["end_ns"]).astype(np.int64),
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
    sizes = [prod(shape) * item_bytes(dtype) for shape, dtype in tensors]
    return max(sizes, default=nan)
