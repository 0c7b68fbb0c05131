"""The corrected model calls of a profile, with the names of what ran in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.correction.charges import Costs
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.recordings import CallTimeline, Recordings
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.spans.ancestors import layer_spans
from xsp.bounds.as_if import Floats, Ints, corrected, typical_latencies
from xsp.bounds.otherwise import Named
from xsp.errors import XspError
from xsp.types import Level, Tables

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

Names = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One corrected model call. `op_layer` and `op_kernel` name each device operation, in the order
    of the timeline's; `layers` are the host's layer spans: name, phase, start_ns, end_ns.
    """

    run: Timeline
    op_layer: Names
    op_kernel: Names
    layers: pd.DataFrame

    @cached_property
    def named_layers(self) -> Named:
        """Names of the operations' layers."""
        return Named(self.op_layer.tolist())

    @cached_property
    def named_kernels(self) -> Named:
        """Names of the operations."""
        return Named(self.op_kernel.tolist())

    @cached_property
    def named_spans(self) -> Named:
        """Names of the layer spans."""
        return Named(self.layers["name"])

    @cached_property
    def intervals(self) -> Floats:
        """Start and end of the layer spans, shape (n, 2)."""
        return self.layers[["start_ns", "end_ns"]].to_numpy(dtype=np.float64)

    @property
    def waits(self) -> Floats:
        """Waits within the call, shape (n, 2): not the final one, which ends the call."""
        waits = self.run.waits
        mine = self.inner_waits
        return np.stack([waits.start_ns[mine], waits.end_ns[mine]], axis=1).astype(np.float64)

    @property
    def inner_waits(self) -> Ints:
        """Their places among the timeline's waits."""
        waits = self.run.waits
        inner = (waits.clock == 0) & (waits.end_ns <= self.run.host_end_ns)
        return np.flatnonzero(inner & (waits.from_clock < 0))

    def launches(self, of: npt.NDArray[np.bool_]) -> Floats:
        """Host intervals of the launches of these operations on the main thread, shape (n, 2)."""
        events = self.run.events
        launch = self.run.ops.launch[of]
        launch = np.unique(launch[launch >= 0])
        on_main = launch[events.clock[launch] == 0]
        intervals = [events.start_ns[on_main], events.end_ns[on_main]]
        return np.stack(intervals, axis=1).astype(float)


@dataclass(frozen=True, eq=False)
class Recording:
    """Corrected calls of a profile and their typical latencies."""

    calls: tuple[RecordedCall, ...]
    typical: Latencies

    @property
    def has_device(self) -> bool:
        """Whether any call launched something."""
        return any(len(call.op_layer) for call in self.calls)


def recording(profile: ProfileData, runs: int) -> Recording:
    """The model calls of some runs of the deepest rung, corrected: of those whose recorded latency
    is nearest to the median, since what could be saved varies with it.

    Raises XspError for a profile whose deepest rung has no layers, or where the corrected latency
    is not the unprofiled one.
    """
    tables = profile._capture.tables
    correction = profile._correction
    if correction is None or not correction.closes:
        raise XspError(
            "what-if needs a corrected timeline that adds up to the unprofiled latency, which this "
            "profile does not have: measure layers in at least five rounds, and on a quieter "
            "machine if the correction fails"
        )
    recordings = Recordings(tables)
    found = list(recordings.calls(_usual_runs(tables["runs"], recordings.runs, runs)))
    typical = Latencies.observed([each.timeline for each in found], correction.costs)
    made = [_call(each, correction.costs, typical, tables) for each in found]
    return Recording(tuple(made), typical_latencies([each.run for each in made]))


def _usual_runs(table: pd.DataFrame, deepest: Sequence[int], count: int) -> set[int]:
    mine = table[table["run"].isin(deepest) & (table["lost"] == 0)]
    off = (mine["latency_ns"] - mine["latency_ns"].median()).abs()
    return {int(run) for run in mine.loc[off.nsmallest(count).index, "run"]}


def _call(call: CallTimeline, costs: Costs, typical: Latencies, tables: Tables) -> RecordedCall:
    spans, layers, kernels = tables["spans"], tables["layers"], tables["kernels"]
    played = replay(call.timeline, costs, typical)
    rows = call.device_rows[call.timeline.ops.row]
    above = layer_spans(spans, rows)
    levels, detail = spans["level"].to_numpy(), spans["detail"].to_numpy()
    names = layers["name"].to_numpy(dtype=object)
    in_layer = (above >= 0) & (levels[above] == Level.LAYER)
    op_layer = np.where(in_layer, names[np.where(in_layer, detail[above], 0)], "")
    op_kernel = kernels["name"].to_numpy(dtype=object)[detail[rows]]
    host = spans.iloc[call.host_rows]
    mine = host[host["level"] == Level.LAYER]
    threads, start = mine["thread"].to_numpy(), mine["start_ns"].to_numpy().copy()
    end = start + mine["duration_ns"].to_numpy()
    for thread in np.unique(threads).tolist():
        at = threads == thread
        start[at], end[at] = played.host(thread, start[at]), played.host(thread, end[at])
    table = pd.DataFrame(
        {
            "name": names[mine["detail"]],
            "phase": layers["phase"].to_numpy(dtype=object)[mine["detail"]],
            "start_ns": start,
            "end_ns": end,
        }
    )
    return RecordedCall(corrected(played), op_layer, op_kernel, table)
