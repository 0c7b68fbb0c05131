"""What each layer, and the time between layers, costs the latency.

On a GPU the latency is the time that the device is busy and the time that it is idle. Busy time is
that of the layer whose kernel runs; where kernels of several streams overlap, the one that began
first has the time. Idle time before a kernel is its layer's from when the host entered that layer.
Idle time before that, and after the last kernel, belongs to what the host was doing: to a layer
without kernels, or to no layer. Without kernels the latency is the host's time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.corrected_times import at_rows, timeline_spans
from xsp.analysis.spans.device_timeline import kernel_turns
from xsp.analysis.spans.host_turns import host_turns
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import FloatArray, plain_mean, trimmed
from xsp.analysis.spans.sums import distinct
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatencyParts:
    """The latency of every run in `runs`, in parts that add up to it.

    `host` has the columns of `host_turns` and cost_ns, what the piece costs the latency. `kernels`
    is None where no kernels were traced; else one row per kernel, copy and set: run, row (of the
    spans table), layer_span, busy_ns, idle_ns.
    """

    runs: Ints
    host: pd.DataFrame
    kernels: pd.DataFrame | None

    def mean(self, samples: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        """Mean over runs of parts and half its 95 % interval: plain on a device, trimmed where all
        is the host's time, which has outliers.
        """
        return trimmed(samples) if self.kernels is None else plain_mean(samples)

    @property
    def latency_ns(self) -> npt.NDArray[np.float64]:
        """Sum of the parts, by run."""
        total = self.host.groupby("run")["cost_ns"].sum().reindex(self.runs, fill_value=0)
        if self.kernels is not None:
            by_run = self.kernels.groupby("run")[["busy_ns", "idle_ns"]].sum().sum(axis=1)
            total = total + by_run.reindex(self.runs, fill_value=0)
        return total.to_numpy(np.float64)


def latency_parts(
    tables: Tables, corrected: pd.DataFrame | None, timed: pd.DataFrame | None = None
) -> LatencyParts:
    """The parts of the latency on the corrected timeline if there is one; else as recorded by the
    runs with kernels or, without any, by those whose deepest level is LAYER. `timed` are its
    `timeline_spans`, if they have been worked out.
    """
    spans = timeline_spans(tables["spans"], corrected) if timed is None else timed
    if not len(spans):
        own = runs_of(tables["runs"], Level.LAYER)["run"]
        spans = tables["spans"][tables["spans"]["run"].isin(own)]
    host = host_turns(tables, spans)
    runs = distinct(spans["run"].to_numpy()).astype(np.int64)
    turns = kernel_turns(tables, spans)
    if not len(turns):
        return LatencyParts(runs, host.assign(cost_ns=host["end_ns"] - host["start_ns"]), None)
    calls = spans[spans["level"] == Level.MODEL]
    kernels, waits = _charged(turns, spans, calls, tables)
    return LatencyParts(runs, host.assign(cost_ns=_idle_within(host, waits)), kernels)


def _charged(
    turns: pd.DataFrame, spans: pd.DataFrame, calls: pd.DataFrame, tables: Tables
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each kernel is charged, and the idle intervals that no kernel is: call, start_ns,
    end_ns, in order of time within each call.
    """
    layer = layer_spans(tables["spans"], turns["row"].to_numpy())
    start = turns["start_ns"].to_numpy()
    idle = _idle_before(turns, calls)
    # A kernel is charged with the idle time since its layer was entered, not with what came before.
    entered = at_rows(spans, "start_ns", layer)
    waited = np.clip(start - np.maximum(entered, start - idle), 0, idle)
    kernels = turns[["run", "row", "busy_ns"]].assign(layer_span=layer, idle_ns=waited)
    before = pd.DataFrame(
        {"call": turns["call"].to_numpy(), "start_ns": start - idle, "end_ns": start - waited}
    )
    waits = pd.concat([before, _idle_after(turns, calls)], ignore_index=True)
    waits = waits[waits["end_ns"] > waits["start_ns"]]
    return kernels, waits.sort_values(["call", "start_ns"], kind="stable", ignore_index=True)


def _idle_before(turns: pd.DataFrame, calls: pd.DataFrame) -> Ints:
    """Idle time before each kernel, of the first of a call since the call began."""
    call = turns["call"].to_numpy()
    is_first = np.r_[True, call[1:] != call[:-1]]
    opened = at_rows(calls, "start_ns", call)
    since_opened = np.maximum(turns["start_ns"].to_numpy() - opened, 0)
    return np.where(is_first, since_opened, turns["idle_ns"].to_numpy())


def _idle_after(turns: pd.DataFrame, calls: pd.DataFrame) -> pd.DataFrame:
    """From the last kernel of each call to its end; of a call without kernels all of it."""
    last = turns.groupby("call")["end_ns"].max().reindex(calls.index)
    return pd.DataFrame(
        {
            "call": calls.index,
            "start_ns": last.fillna(calls["start_ns"]).astype(np.int64).to_numpy(),
            "end_ns": (calls["start_ns"] + calls["duration_ns"]).to_numpy(),
        }
    )


def _idle_within(host: pd.DataFrame, waits: pd.DataFrame) -> Ints:
    """How much of the device's idle intervals lies in each piece of the host's time."""
    if not len(waits):
        return np.zeros(len(host), dtype=np.int64)
    # Calls are laid end to end on one axis, so that one search serves them all.
    origin = min(host["start_ns"].min(), waits["start_ns"].min())
    width = int(max(host["end_ns"].max(), waits["end_ns"].max()) - origin) + 1
    calls = distinct(np.concatenate([host["call"], waits["call"]]))

    def on_axis(table: pd.DataFrame) -> tuple[Ints, Ints]:
        shift = np.searchsorted(calls, table["call"]).astype(np.int64) * width - origin
        return table["start_ns"].to_numpy() + shift, table["end_ns"].to_numpy() + shift

    opens, closes = on_axis(waits)
    passed = np.r_[np.int64(0), np.cumsum(closes - opens)]

    def idle_until(time: Ints) -> Ints:
        place = np.maximum(np.searchsorted(opens, time, side="right") - 1, 0)
        within = np.minimum(time, closes[place]) - opens[place]
        return np.where(time < opens[0], 0, passed[place] + within)

    begins, ends = on_axis(host)
    return idle_until(ends) - idle_until(begins)
