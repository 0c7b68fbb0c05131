"""What one execution of the target at one rung left behind, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xsp.types import Columns, IntArray, RunSpec, Schema, empty

MODEL_CALLS: Schema = {
    "thread": np.dtype("u4"),
    "start_ns": np.dtype("i8"),
    "host_end_ns": np.dtype("i8"),
    "end_ns": np.dtype("i8"),
}
"""The model calls of a run: `host_end_ns` is when the call returned, `end_ns` when the device had
finished too.
"""


def latency_ns(calls: Columns) -> int:
    """Sum over model calls (MODEL_CALLS) of start to device finished."""
    return int((calls["end_ns"] - calls["start_ns"]).sum())


@dataclass(frozen=True)
class Run:
    """One execution of the target. `tables` holds what the tracers collected, by schema name in
    lower case.
    """

    spec: RunSpec
    round: int
    position: int
    model_calls: Columns
    tables: dict[str, Columns] = field(default_factory=dict)
    lost: int = 0

    def table(self, name: str, schema: Schema) -> Columns:
        """A table by name, empty where no tracer of this rung wrote it."""
        return self.tables.get(name) or empty(schema)

    @property
    def events(self) -> int:
        """Rows of all tables."""
        return sum(len(next(iter(table.values()), ())) for table in self.tables.values())

    @property
    def latency_ns(self) -> int:
        """Sum over the model calls of start to device finished."""
        return latency_ns(self.model_calls)

    @property
    def host_latency_ns(self) -> int:
        """Sum over the model calls of start to return."""
        return int((self.model_calls["host_end_ns"] - self.model_calls["start_ns"]).sum())


def call_of(start_ns: IntArray, calls: Columns) -> npt.NDArray[np.int64]:
    """Index of the model call that each stamp lies in, -1 where it lies in none."""
    call = np.searchsorted(calls["start_ns"], start_ns, side="right") - 1
    inside = (call >= 0) & (start_ns <= calls["end_ns"][np.maximum(call, 0)])
    return np.where(inside, call, -1)


def within_model(events: Columns, calls: Columns) -> tuple[Columns, IntArray]:
    """The events that start inside a model call, and the index of that call for each."""
    call = call_of(events["start_ns"], calls)
    inside = call >= 0
    return {name: column[inside] for name, column in events.items()}, call[inside]


def sorted_by_start(events: Columns) -> Columns:
    """Events in order of their start."""
    order = np.argsort(events["start_ns"], kind="stable")
    return {name: column[order] for name, column in events.items()}
