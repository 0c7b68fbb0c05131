"""CUPTI's raw records as the columns of `xsp.types`, one vectorised conversion per table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.levels.kernel import cupti
from xsp.levels.kernel.names import NameTable
from xsp.tracing.clock import ClockMap
from xsp.types import (
    API_CALLS,
    DEVICE_ACTIVITY,
    SYNCHRONIZATIONS,
    ApiDomain,
    Columns,
    DeviceKind,
    Schema,
    empty,
)

Array = npt.NDArray[Any]
RawRecords = dict[str, Array]
"""Structured arrays of raw records by the activity kind's name."""

CLOCK_SLACK_NS = 1_000_000
"""CUPTI interpolates device stamps to the host's clock with an error of microseconds; a wrong clock
is off by more.
"""

SCHEMAS = {
    "api_calls": API_CALLS,
    "device_activity": DEVICE_ACTIVITY,
    "synchronizations": SYNCHRONIZATIONS,
}


@dataclass(frozen=True)
class Window:
    """A session on the monotonic clock, in ns.

    It began at `start_ns`; the program's part ended at `stop_ns`; what was launched until then was
    done at `idle_ns`; nothing could be recorded any more at `end_ns`.
    """

    start_ns: int
    stop_ns: int
    idle_ns: int
    end_ns: int


def convert(
    raw: RawRecords, clock: ClockMap, window: Window, table: NameTable
) -> tuple[dict[str, Columns], int]:
    """All tables of one session in order of time, and how many of its records were left out for
    want of a time.

    CUPTI stamps a record with 0 if no timing could be collected, and a time after the end cannot be
    true. What began before the session, and what the tracer or other threads did while it was being
    stopped, is not missing either.
    """
    tables = {
        "api_calls": _concatenate(
            API_CALLS, [_api_calls(raw["RUNTIME"], 0), _api_calls(raw["DRIVER"], 1)]
        ),
        "device_activity": _concatenate(
            DEVICE_ACTIVITY,
            [
                _kernels(raw["CONCURRENT_KERNEL"], table),
                _copies(raw["MEMCPY"], table),
                _copies(raw["MEMCPY2"], table),
                _sets(raw["MEMSET"], table),
            ],
        ),
        "synchronizations": _synchronizations(raw["SYNCHRONIZATION"]),
    }
    untimed = 0
    for name, columns in tables.items():
        believable = (columns["start_ns"] != 0) & (columns["end_ns"] != 0)
        columns["start_ns"] = clock.apply(columns["start_ns"])
        columns["end_ns"] = clock.apply(columns["end_ns"])
        believable &= columns["start_ns"] <= window.end_ns + CLOCK_SLACK_NS
        untimed += int((~believable).sum())
        last_ns = window.idle_ns if name == "device_activity" else window.stop_ns
        inside = (columns["start_ns"] >= window.start_ns) & (columns["start_ns"] <= last_ns)
        tables[name] = _by_start(_take(columns, believable & inside))
    return tables, untimed


def join(parts: list[dict[str, Columns]]) -> dict[str, Columns]:
    """The tables of several sessions one after the other."""
    return {
        name: _concatenate(schema, [part[name] for part in parts])
        for name, schema in SCHEMAS.items()
    }


def rows(columns: Columns) -> int:
    """The number of rows of a table."""
    return len(columns["start_ns"])


def _by_start(columns: Columns) -> Columns:
    return _take(columns, np.argsort(columns["start_ns"], kind="stable"))


def _take(columns: Columns, chosen: Array) -> Columns:
    return {name: column[chosen] for name, column in columns.items()}


def _concatenate(schema: Schema, parts: list[Columns]) -> Columns:
    return {
        name: np.concatenate([empty(schema)[name], *(part[name] for part in parts)])
        for name in schema
    }


def _fill(schema: Schema, raw: Array, fields: dict[str, str], **constants: Any) -> Columns:
    """Columns of a schema: `fields` names the record's field for a column, `constants` gives others
    as they are.
    """
    columns = empty(schema, len(raw))
    for column, field in fields.items():
        columns[column][:] = raw[field].astype(columns[column].dtype)
    for column, value in constants.items():
        columns[column][:] = value
    return columns


_TIMES = {"start_ns": "start", "end_ns": "end"}
_PLACE = {"correlation_id": "correlation_id", "context": "context_id", "stream": "stream_id"}
_GRAPH = {"graph": "graph_id", "graph_node": "graph_node_id"}
_DEVICE = _TIMES | _PLACE | {"device": "device_id"} | _GRAPH


def _api_calls(raw: Array, domain: int) -> Columns:
    fields = _TIMES | {
        "thread": "thread_id",
        "cbid": "cbid",
        "correlation_id": "correlation_id",
    }
    return _fill(API_CALLS, raw, fields, domain=ApiDomain(domain))


def _kernels(raw: Array, table: NameTable) -> Columns:
    fields = _DEVICE | {
        "registers_per_thread": "registers_per_thread",
        "static_shared_bytes": "static_shared_memory",
        "dynamic_shared_bytes": "dynamic_shared_memory",
    }
    return _fill(
        DEVICE_ACTIVITY,
        raw,
        fields,
        kind=DeviceKind.KERNEL,
        name=table.indices_of_pointers(raw["name"]),
        grid=_xyz(raw, "grid"),
        block=_xyz(raw, "block"),
    )


def _xyz(raw: Array, prefix: str) -> Array:
    return np.stack([raw[f"{prefix}_{axis}"] for axis in "xyz"], axis=-1)


def _copies(raw: Array, table: NameTable) -> Columns:
    names = _coded(raw["copy_kind"], cupti.copy_name, table)
    return _fill(
        DEVICE_ACTIVITY, raw, _DEVICE | {"bytes": "bytes"}, kind=DeviceKind.MEMCPY, name=names
    )


def _sets(raw: Array, table: NameTable) -> Columns:
    name = table.index("memset") if len(raw) else 0
    return _fill(
        DEVICE_ACTIVITY, raw, _DEVICE | {"bytes": "bytes"}, kind=DeviceKind.MEMSET, name=name
    )


def _coded(codes: Array, name_of: Callable[[int], str], table: NameTable) -> Array:
    distinct, inverse = np.unique(codes, return_inverse=True)
    return np.array([table.index(name_of(int(code))) for code in distinct], np.int32)[inverse]


def _synchronizations(raw: Array) -> Columns:
    return _fill(
        SYNCHRONIZATIONS, raw, _TIMES | _PLACE | {"kind": "type", "event_id": "cuda_event_id"}
    )
