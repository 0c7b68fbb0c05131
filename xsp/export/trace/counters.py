"""Quantities over the time of a run: memory, clock, what the GPU runs and what waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.export.trace.choice import ChosenRun
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counter:
    """A quantity over time, from each instant to the next; `unit` is "bytes", "MHz" or "count"."""

    name: str
    unit: str
    time_ns: Ints
    value: Ints


def counters_of(
    tables: Tables,
    meta: Mapping[str, Any],
    spans: pd.DataFrame,
    chosen: ChosenRun,
    launched_ns: Ints | None,
) -> list[Counter]:
    """Counters of a run's spans. `launched_ns` is when each span was launched; None where launches
    are not shown, as on the corrected timeline.
    """
    found = [*_memory(tables, spans, meta.get("memory_device")), *_clock(meta, spans, chosen)]
    on_device = (spans["level"] == Level.KERNEL).to_numpy()
    if not on_device.any():
        return found
    start = spans["start_ns"].to_numpy()[on_device]
    end = start + spans["duration_ns"].to_numpy()[on_device]
    found.append(Counter("GPU busy: activities running", "count", *_between(start, end)))
    if launched_ns is not None:
        # The clocks agree to within a microsecond: an activity cannot begin before its launch.
        launched = np.minimum(launched_ns[on_device], start)
        waiting = _between(launched, start)
        found.append(Counter("queue: launched and not yet running", "count", *waiting))
    return found


def _between(start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints]:
    """Instants at which the number of intervals that are open changes, and that number from
    each on.
    """
    time = np.concatenate([start_ns, end_ns])
    change = np.repeat([1, -1], [len(start_ns), len(end_ns)])
    instants, place = np.unique(time, return_inverse=True)
    changes = np.bincount(place, weights=change, minlength=len(instants)).astype(np.int64)
    differs = changes != 0
    return instants[differs].astype(np.int64), np.cumsum(changes[differs])


def _memory(tables: Tables, spans: pd.DataFrame, device: str | None) -> list[Counter]:
    """The most memory in use while each layer runs, at the layer's start: from the untimed memory
    run.
    """
    layers = spans[spans["level"] == Level.LAYER].sort_values("start_ns", kind="stable")
    peak = tables["layers"]["peak_bytes"].to_numpy()[layers["detail"].to_numpy()]
    known = peak >= 0
    if not known.any():
        return []
    name = f"{'GPU' if device == 'cuda' else 'CPU'} memory allocated, peak of each layer"
    return [Counter(name, "bytes", layers["start_ns"].to_numpy()[known], peak[known])]


def _clock(meta: Mapping[str, Any], spans: pd.DataFrame, chosen: ChosenRun) -> list[Counter]:
    """The SM clock as it was read at the end of the run's round, over the whole run."""
    states = [state for state in meta.get("gpu_states", []) if state["round"] == chosen.round]
    if not states or states[0].get("sm_clock_mhz") is None:
        return []
    ends = spans["start_ns"] + spans["duration_ns"]
    bounds = np.array([spans["start_ns"].min(), ends.max()], dtype=np.int64)
    value = np.full(2, int(states[0]["sm_clock_mhz"]))
    return [Counter("SM clock at the end of the round", "MHz", bounds, value)]
