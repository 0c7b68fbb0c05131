"""What one execution of the target at one rung left behind, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xsp.types import Columns, RunSpec, Schema, empty

MODEL_CALLS: Schema = {
    "thread": np.dtype("u4"),
    "start_ns": np.dtype("i8"),
    "host_end_ns": np.dtype("i8"),
    "end_ns": np.dtype("i8"),
}
"""The model calls of a run: `host_end_ns` is when the call returned, `end_ns` when the device had finished too."""


def latency_ns(calls: Columns) -> int:
    """Sum over model calls (MODEL_CALLS) of start to device finished."""
    return int((calls["end_ns"] - calls["start_ns"]).sum())


@dataclass(frozen=True)
class Run:
    """One execution of the target. `tables` holds what the tracers collected, by schema name in lower case."""

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
    def latency_ns(self) -> int:
        """Sum over the model calls of start to device finished."""
        return latency_ns(self.model_calls)

    @property
    def host_latency_ns(self) -> int:
        """Sum over the model calls of start to return."""
        return int((self.model_calls["host_end_ns"] - self.model_calls["start_ns"]).sum())
