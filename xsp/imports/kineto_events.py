"""Events of a trace of torch.profiler as tables: API calls, device activities, library calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pandas as pd

from xsp.imports.foreign import DEVICE_COLUMNS, HOST_COLUMNS, table

Event = dict[str, Any]

MODULE = "nn.Module: "
"""How the name of a Python function that is a module's call begins."""

DEVICE = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
API = ("cuda_runtime", "cuda_driver")


def bounds_ns(event: Event) -> tuple[int, int]:
    """Start and end; the trace has µs with three digits."""
    start = int(event["ts"] * 1000)
    return start, start + int(event["dur"] * 1000)


def is_layer(event: Event) -> bool:
    """Whether an operator can be a layer. `Profile.to_chrome` writes library calls as operators
    too, and one for what lies outside layers.
    """
    known = event.get("args", {})
    return known.get("kind") != "none" and "library" not in known


def is_library_call(event: Event) -> bool:
    """Whether an operator is a library call, in a trace that `Profile.to_chrome` has written."""
    known = event.get("args", {})
    return known.get("kind") != "none" and "library" in known


def library_table(events: list[Event]) -> pd.DataFrame:
    """Library calls: those of the host, library and arguments."""
    return host_table(events).assign(
        library=[event["args"]["library"] for event in events],
        arguments=[_plain(_without_numbers(event["args"])) for event in events],
    )


def host_table(events: list[Event]) -> pd.DataFrame:
    """Events of the host: thread, start_ns, end_ns, name."""
    return table(
        [(event["tid"], *bounds_ns(event), event["name"]) for event in events], HOST_COLUMNS
    )


def api_table(events: Iterable[Event]) -> pd.DataFrame:
    """CUDA API calls: those of the host and correlation_id, 0 where there is none."""
    rows = [
        (
            event["tid"],
            *bounds_ns(event),
            event["name"],
            event.get("args", {}).get("correlation", 0),
        )
        for event in events
    ]
    return table(rows, (*HOST_COLUMNS, "correlation_id"))


def device_table(events: Iterable[tuple[str, Event]]) -> pd.DataFrame:
    """Device activities by kind: columns DEVICE_COLUMNS."""
    return table([_activity(kind, event) for kind, event in events], DEVICE_COLUMNS)


def _activity(kind: str, event: Event) -> tuple[Any, ...]:
    known = event.get("args", {})
    place = (
        known.get("correlation", 0),
        known.get("context", event["pid"]),
        known.get("stream", event["tid"]),
    )
    # How shared memory is divided into static and dynamic is not recorded; together they limit the
    # occupancy.
    launch = (
        known.get("registers per thread", 0),
        known.get("shared memory", 0),
        0,
        known.get("bytes", 0),
    )
    shape = (*known.get("grid", (0, 0, 0)), *known.get("block", (0, 0, 0)))
    return (kind, _device_name(kind, event["name"]), *bounds_ns(event), *place, *launch, *shape)


def _device_name(kind: str, name: str) -> str:
    """`Memcpy HtoD (Pageable -> Device)` as `memcpy HtoD`, which is how CUPTI's records are named
    here.
    """
    return name if kind == "kernel" else name.partition(" (")[0].replace("Mem", "mem", 1)


def _without_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in arguments.items() if name not in ("External id", "library")
    }


def _plain(value: Any) -> Any:
    """JSON with floats again."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
