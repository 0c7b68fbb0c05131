"""Contracts between the parts of xsp; no behaviour lives here.

Times are integer nanoseconds on the host's monotonic clock (`time.perf_counter_ns`). A *thread* is
the low 32 bits of `pthread_self()`, which is what CUPTI writes into its records and what
`threading.get_ident()` returns on Linux; it identifies a thread within one process without a system
call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, npt.NDArray[Any]]
"""Equally long arrays by column name; the form in which events travel from tracers to analysis."""

IntArray = npt.NDArray[np.integer[Any]]

Tables = Mapping[str, "pd.DataFrame"]
"""The tables of a capture by name: `xsp.capture.file.TABLES`."""

Schema = Mapping[str, "np.dtype[Any]"]
"""Column name to dtype. A column whose dtype has a shape, such as `(8,)i8`, is two-dimensional."""


class Level(IntEnum):
    """A level of the stack, outermost first (XSP, section III-A, with operators and library calls
    added).

    The numbers are those that captures hold. They do not say which level is deeper: the order of
    the members does, and `depth`.
    """

    MODEL = 0
    LAYER = 1
    OP = 4
    LIBRARY = 2
    KERNEL = 3

    @property
    def depth(self) -> int:
        """How many levels lie above it."""
        return _DEPTHS[self]


_DEPTHS = {level: depth for depth, level in enumerate(Level)}

DEPTH_OF_NUMBER = tuple(level.depth for level in sorted(Level))
"""How many levels lie above each, by the level's number."""

LEVEL_OF_NUMBER = tuple(sorted(Level))
"""The levels by their number."""

DEFAULT_LEVELS = (Level.MODEL, Level.LAYER, Level.LIBRARY, Level.KERNEL)
"""What is traced unless levels are named. OP has to be asked for: it has ten times the events."""

LEVEL_ABBREVIATIONS = {
    Level.MODEL: "M",
    Level.LAYER: "L",
    Level.OP: "O",
    Level.LIBRARY: "Lib",
    Level.KERNEL: "K",
}


def by_depth(levels: Iterable[Level]) -> tuple[Level, ...]:
    """Each of these levels once, outermost first."""
    return tuple(sorted(set(levels), key=_DEPTHS.__getitem__))


class Status(str, Enum):
    """What became of a level in a profile."""

    TRACED = "traced"
    UNAVAILABLE = "unavailable"
    OFF = "off"


@dataclass(frozen=True)
class LevelStatus:
    """One row of `Profile.levels`: which tracer served a level, or one sentence on why none did."""

    level: Level
    tracer: str
    status: Status
    reason: str


@dataclass(frozen=True)
class RunSpec:
    """A rung of the ladder: the levels that are traced together in one run. Hashable."""

    levels: tuple[Level, ...]

    @property
    def deepest(self) -> Level:
        """The level whose latencies are read from this rung."""
        return by_depth(self.levels)[-1]

    @property
    def name(self) -> str:
        """The paper's notation, for example `M/L/Lib/K`."""
        return "/".join(LEVEL_ABBREVIATIONS[level] for level in self.levels)


class DeviceKind(IntEnum):
    """What the GPU did in one row of `DEVICE_ACTIVITY`."""

    KERNEL = 0
    MEMCPY = 1
    MEMSET = 2


class ApiDomain(IntEnum):
    """Which CUDA API a row of `API_CALLS` belongs to."""

    RUNTIME = 0
    DRIVER = 1


def _schema(**columns: str) -> Schema:
    return {name: np.dtype(spec) for name, spec in columns.items()}


LAYER_EVENTS: Schema = _schema(thread="u4", code="i8", start_ns="i8", end_ns="i8")
"""Timed layer calls in order of their start on each thread. `code` tells what ran, for alignment
with the structure run; it has no meaning beyond that."""

OPERATOR_EVENTS: Schema = _schema(thread="u4", name="u4", start_ns="i8", end_ns="i8")
"""Operators and backward nodes. `name` indexes the tracer's list of names."""

LIBRARY_EVENTS: Schema = _schema(
    thread="u4", symbol="u2", start_ns="i8", end_ns="i8", arguments="(8,)i8"
)
"""Library calls. `symbol` indexes the tracer's list of symbols; `arguments` holds the kept integer
arguments.
"""

API_CALLS: Schema = _schema(
    thread="u4", domain="u1", cbid="u4", correlation_id="u4", start_ns="i8", end_ns="i8"
)
"""CUDA runtime and driver API calls (`CUpti_ActivityAPI`)."""

DEVICE_ACTIVITY: Schema = _schema(
    kind="u1",
    correlation_id="u4",
    device="u4",
    context="u4",
    stream="u4",
    start_ns="i8",
    end_ns="i8",
    name="i4",
    grid="(3,)i4",
    block="(3,)i4",
    registers_per_thread="u2",
    static_shared_bytes="i4",
    dynamic_shared_bytes="i4",
    bytes="i8",
    graph="u4",
    graph_node="u8",
)
"""Kernels, memory copies and sets on the GPU. `name` indexes the tracer's list of names. For copies
and sets `bytes` is the size and the launch columns are 0; for kernels `bytes` is 0. `graph` and
`graph_node` are the ids of the CUDA graph and of its node that was replayed, 0 for none."""

SYNCHRONIZATIONS: Schema = _schema(
    kind="u1",
    correlation_id="u4",
    context="u4",
    stream="u4",
    start_ns="i8",
    end_ns="i8",
    event_id="u4",
)
"""Host waits and stream waits (`CUpti_ActivitySynchronization2`); `kind` is
`CUpti_ActivitySynchronizationType`.
"""

RANGES: Schema = _schema(name="O", domain="O", source="O", thread="u4", start_ns="i8", end_ns="i8")
"""The user's own ranges: of torch.cuda.nvtx and the nvtx package (source "nvtx"), and
torch.profiler's `record_function` ("record_function", without a domain)."""


class Tracer(Protocol):
    """What every level's tracer can do. The driver knows tracers only by this.

    `start` and `stop` bracket any number of runs; everything outside the process's own memory that
    `start` changes (hooks, import slots, CUPTI activity kinds) is as it was before when `stop`
    returns, also after an exception. `collect` may be called only while stopped. A tracer derives
    from this class, and has what it does not need to say from here.
    """

    level: Level
    name: str

    def start(self) -> None:
        """Begin to record."""

    def new_run(self) -> None:
        """Said while started, just before the target is executed; nothing to do for most."""
        return

    def stop(self) -> None:
        """Stop recording and leave the program as it was found. Stopping twice is harmless."""

    def collect(self) -> dict[str, Columns]:
        """The events since the last `collect`, as tables by schema name in lower case."""

    def lost(self) -> int:
        """Events known to be missing since the last `collect` (dropped, truncated, no room)."""

    def starts_over(self) -> bool:
        """Asked after `collect`: whether the run has to be made again, because its
        events are not all there and the tracer will record in another way from now on.
        """
        return False

    def told(self) -> tuple[str, str]:
        """Its name and, where it records in another way than it could, why; empty without reason.
        Asked when all runs have been made.
        """
        return self.name, ""

    @property
    def names(self) -> Sequence[str]:
        """The texts that the column `name` or `symbol` of its events indexes."""
        return ()

    def recorded(self, _model_calls: Columns) -> list[dict[str, Any]]:
        """After a structure run, instead of `collect`: a row for each event inside the model calls,
        in order of start, with its `name` and `arguments`.
        """
        return []

    def facts(self) -> dict[str, Any]:
        """What a capture keeps of how this tracer recorded, as JSON-able values."""
        return {}

    def missing_from(self, _tables: Mapping[str, Columns], _model_calls: Columns) -> int:
        """Events inside the model calls that this tracer saw and other tracers' tables of that run
        should have, and have not. Asked after `collect`.
        """
        return 0

    def doubts(self) -> list[str]:
        """Sentences for `Profile.warnings` on what this tracer cannot see in this process."""
        return []

    def last_layer(self) -> str | None:
        """Name of the layer that began or ended last, for a tracer that knows: where an exception
        passed through, the one it came from.
        """
        return None


def empty(schema: Schema, rows: int = 0) -> Columns:
    """Zero-filled columns of the given schema."""
    return {name: np.zeros(rows, dtype=dtype) for name, dtype in schema.items()}


BACKWARD_BASE = 1 << 40
"""Layer codes from here on are autograd nodes: one row each, however often a retained graph is
walked.
"""
