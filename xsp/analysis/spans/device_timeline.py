"""The device's time of a model call, divided without rest: every layer's work, and the idle time
before it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected_times import timeline_spans
from xsp.analysis.spans.timed_events import TimedEvents
from xsp.types import Level, Tables

BEFORE = "(before the first kernel)"
AFTER = "(after the last kernel)"


def device_timeline(tables: Tables, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """Layers in the order in which the GPU first works for them, with a row for what comes before
    and one for after.

    Columns: name, phase, busy_ms (GPU-busy time that is this layer's: where kernels of several
    streams overlap, the one that began first has the time), idle_before_ms (GPU-idle time just
    before its kernels), share (of both together). All busy and idle times add up to the model
    latency of the timeline: the corrected one if `corrected` is given, else the deepest rung's as
    recorded. Means over the runs of the deepest rung. Empty if no kernels were traced.
    """
    spans = timeline_spans(tables["spans"], corrected)
    turns = kernel_turns(tables, spans)
    if not len(turns):
        return pd.DataFrame(columns=["name", "phase", "busy_ms", "idle_before_ms", "share"])
    pieces = _layers_of(tables, turns)
    ends = _ends(spans, pieces)
    runs = len(ends)
    sums = pieces.groupby(["name", "phase"], sort=False)[["busy_ns", "idle_ns"]].sum()
    means = sums.div(runs * 1e6).reset_index()
    means.columns = pd.Index(["name", "phase", "busy_ms", "idle_before_ms"])
    edges = pd.DataFrame(
        {
            "name": [BEFORE, AFTER],
            "phase": "",
            "busy_ms": 0.0,
            "idle_before_ms": [ends["before"].mean() / 1e6, ends["after"].mean() / 1e6],
        }
    )
    result = pd.concat([edges[:1], means, edges[1:]], ignore_index=True)
    total = result["busy_ms"].sum() + result["idle_before_ms"].sum()
    return result.assign(share=(result["busy_ms"] + result["idle_before_ms"]) / total)


def kernel_turns(tables: Tables, spans: pd.DataFrame) -> pd.DataFrame:
    """The device's time, one row per kernel, copy or set in order of start within each model call.

    Columns: run, call (row of its MODEL span), row (of the spans table), busy_ns (device time that
    is its own), idle_ns (idle time just before), start_ns, end_ns. Empty if no kernels were traced.
    `spans` are the rows of the spans table to divide, with the times to use.
    """
    kernels = spans[spans["level"] == Level.KERNEL]
    kernels = kernels.assign(call=model_spans(tables["spans"], kernels.index.to_numpy()))
    kernels = kernels.sort_values(["run", "call", "start_ns"], kind="stable")
    if not len(kernels):
        return pd.DataFrame(columns=_TURN_COLUMNS)
    return _pieces(kernels)[_TURN_COLUMNS]


def turns_of(tables: Tables, events: TimedEvents) -> pd.DataFrame:
    """The same of these kernels, copies and sets, as they were recorded; `row` is that of `events`,
    and `call` tells the model calls apart and no more.
    """
    model = model_spans(tables["spans"], events.row)
    kernels = pd.DataFrame(
        {
            "run": events.run,
            "call": events.run * len(tables["spans"]) + model,
            "start_ns": events.start_ns,
            "duration_ns": events.duration_ns,
        },
        index=events.row,
    )
    kernels = kernels.sort_values(["run", "call", "start_ns"], kind="stable")
    return _pieces(kernels)[_TURN_COLUMNS] if len(kernels) else kernels.assign(row=0, busy_ns=0)


_TURN_COLUMNS = ["run", "call", "row", "busy_ns", "idle_ns", "start_ns", "end_ns"]


def _layers_of(tables: Tables, turns: pd.DataFrame) -> pd.DataFrame:
    """The turns with name and phase of their layers."""
    below = layer_spans(tables["spans"], turns["row"].to_numpy())
    layer = tables["spans"]["detail"].to_numpy()[below]
    names, phases = (
        tables["layers"][column].to_numpy(dtype=object)[layer] for column in ("name", "phase")
    )
    return turns.assign(name=names, phase=phases)


def _pieces(kernels: pd.DataFrame) -> pd.DataFrame:
    """New busy time and idle time before each kernel, in order of start, by model call.

    What lies between two calls of a run belongs to neither.
    """
    call, start = kernels["call"].to_numpy(), kernels["start_ns"].to_numpy()
    end = start + kernels["duration_ns"].to_numpy()
    # Calls are laid end to end on one axis, so that the running maximum starts anew with each.
    width = int(end.max() - start.min()) + 1
    shift = np.unique(call, return_inverse=True)[1].astype(np.int64) * width - start.min()
    reached = np.maximum.accumulate(end + shift)
    before = np.r_[np.int64(-1), reached[:-1]]
    first = np.r_[True, call[1:] != call[:-1]]
    opens = start + shift
    idle = np.where(first, 0, np.maximum(opens - before, 0))
    busy = np.maximum(end + shift - np.where(first, opens, np.maximum(opens, before)), 0)
    return pd.DataFrame(
        {
            "run": kernels["run"].to_numpy(),
            "call": call,
            "row": kernels.index.to_numpy(),
            "busy_ns": busy,
            "idle_ns": idle,
            "start_ns": start,
            "end_ns": end,
        }
    )


def _ends(spans: pd.DataFrame, pieces: pd.DataFrame) -> pd.DataFrame:
    """Per run, summed over its model calls: from the call to its first kernel, and from its last
    kernel to the end.
    """
    model = spans[(spans["level"] == Level.MODEL) & spans["run"].isin(pieces["run"])]
    calls = (
        pieces.groupby("call")
        .agg(first=("start_ns", "min"), last=("end_ns", "max"))
        .reindex(model.index)
    )
    finish = model["start_ns"] + model["duration_ns"]
    before = (calls["first"].fillna(finish) - model["start_ns"]).clip(lower=0)
    after = (finish - calls["last"].fillna(finish)).clip(lower=0)
    return pd.DataFrame({"before": before, "after": after}).groupby(model["run"]).sum()
