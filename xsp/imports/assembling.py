"""A capture from what a foreign trace holds: its windows as runs of one rung, with xsp's own rules
for parents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.assembly import Vocabulary, assemble, columns_of
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.launches import launch_of
from xsp.capture.file import Capture, check_capture
from xsp.capture.run import Run
from xsp.doubts import Doubt, Slug
from xsp.errors import CaptureError
from xsp.imports.foreign import ForeignTrace
from xsp.imports.layers import Layers, layers_of
from xsp.imports.stamps import from_zero, recording_time_unknown
from xsp.imports.windows import at_time, overlap_on_device, whole_runs, window_of
from xsp.tracing import context
from xsp.types import (
    API_CALLS,
    DEFAULT_LEVELS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    Columns,
    DeviceKind,
    Level,
    RunSpec,
    Schema,
)
from xsp.words.doubts import sentence_of
from xsp.words.slugs import with_slug

Ints = npt.NDArray[np.int64]


def capture_of(trace: ForeignTrace) -> Capture:
    """The capture. Raises CaptureError if the trace has nothing on the host that time could be
    given to.
    """
    trace = from_zero(trace)
    windows, warnings = whole_runs(trace) if len(trace.windows) else (_whole(trace), [])
    layers = layers_of(trace.ranges, window_of(trace.ranges, windows), len(windows))
    levels = _levels(trace, layers)
    placed = _placed(trace, windows, layers)
    runs, words = _runs(placed, windows, layers, RunSpec(tuple(levels)))
    warnings += overlap_on_device(windows, placed.device, placed.of_device)
    name = layers.model or trace.name
    words.calls[0]["name"] = name
    tables = assemble(runs, words)
    meta = _meta(trace, name, levels, windows)
    meta["warnings"] += warnings + recording_time_unknown(trace)
    if orphans := int(tables["runs"]["orphans"].sum()):
        meta["warnings"].append(sentence_of(Doubt.of(Slug.NO_LAUNCH, activities=orphans)))
    return check_capture(Capture(meta, tables), f"this trace of {trace.tool}")


def _whole(trace: ForeignTrace) -> pd.DataFrame:
    """One window around everything, on the thread with most of the host's events."""
    host = pd.concat(
        [
            part[["thread", "start_ns", "end_ns"]]
            for part in (trace.ranges, trace.library, trace.api)
        ]
    )
    if not len(host):
        raise CaptureError(
            f"this trace of {trace.tool} holds no operators, annotations or CUDA API calls, so "
            "nothing on the host can be timed; record the host too (ProfilerActivity.CPU, nsys "
            "profile --trace=cuda,nvtx)"
        )
    ends = [
        host["end_ns"].max(),
        *(trace.device["end_ns"].max() for _ in range(bool(len(trace.device)))),
    ]
    bounds = {
        "thread": host["thread"].mode().iloc[0],
        "start_ns": host["start_ns"].min(),
        "end_ns": max(ends),
    }
    return pd.DataFrame([bounds]).astype(np.int64)


def _levels(trace: ForeignTrace, layers: Layers) -> list[Level]:
    there = {Level.MODEL: True, Level.LAYER: bool(len(layers.rows))}
    there |= {Level.LIBRARY: bool(len(trace.library)), Level.KERNEL: bool(len(trace.device))}
    return [level for level in DEFAULT_LEVELS if there[level]]


@dataclass(frozen=True, eq=False)
class _Placed:
    """Library calls, API calls and device activities, coded, and the window of each."""

    library: pd.DataFrame
    api: pd.DataFrame
    device: pd.DataFrame
    of_library: Ints
    of_api: Ints
    of_device: Ints
    symbols: pd.Index
    api_names: pd.Index
    kernels: pd.Index


def _placed(trace: ForeignTrace, windows: pd.DataFrame, layers: Layers) -> _Placed:
    kernel, kernels = pd.factorize(trace.device["name"])
    symbol, symbols = pd.factorize(trace.library["name"])
    api_code, api_names = pd.factorize(trace.api["name"])
    api = trace.api.assign(cbid=api_code).sort_values("start_ns", kind="stable", ignore_index=True)
    library = trace.library.assign(symbol=symbol)
    kinds = trace.device["kind"].map({kind.name.lower(): int(kind) for kind in DeviceKind})
    device = trace.device.assign(name=kernel, kind=kinds)
    of_api = _with_its_layer(api, windows, layers)
    launch = launch_of(device["correlation_id"].to_numpy(), api["correlation_id"].to_numpy())
    # What has no launch is counted as an orphan of the run during which it ran.
    ran_in = at_time(device["start_ns"].to_numpy(), windows)
    of_device = np.where(launch >= 0, np.r_[of_api, -1][launch], ran_in)
    of_library = _with_its_layer(library, windows, layers)
    return _Placed(library, api, device, of_library, of_api, of_device, symbols, api_names, kernels)


def _with_its_layer(calls: pd.DataFrame, windows: pd.DataFrame, layers: Layers) -> Ints:
    """The window of each call: that of the layer around it, which can last longer than the run in
    which it began; or else that in which the call began.
    """
    of_time = window_of(calls, windows)
    events = layers.events
    start = calls["start_ns"].to_numpy()
    around = innermost(
        events["thread"].to_numpy(),
        events["start_ns"].to_numpy(),
        events["end_ns"].to_numpy(),
        calls["thread"].to_numpy(),
        start,
        start,
    )
    of_layer = np.r_[events["window"].to_numpy(), -1][around]
    return np.where(of_layer >= 0, of_layer, of_time)


def _runs(
    placed: _Placed, windows: pd.DataFrame, layers: Layers, spec: RunSpec
) -> tuple[list[Run], Vocabulary]:
    parts = (
        ("layer_events", LAYER_EVENTS, layers.events, layers.events["window"].to_numpy()),
        ("library_events", LIBRARY_EVENTS, placed.library, placed.of_library),
        ("api_calls", API_CALLS, placed.api, placed.of_api),
        ("device_activity", DEVICE_ACTIVITY, placed.device, placed.of_device),
    )
    runs = []
    for number in range(len(windows)):
        tables = {
            name: _columns(schema, rows[window == number]) for name, schema, rows, window in parts
        }
        runs.append(_run(number, spec, windows.iloc[[number]], tables))
    return runs, _vocabulary(placed, layers)


def _vocabulary(placed: _Placed, layers: Layers) -> Vocabulary:
    library = placed.library
    first = library[placed.of_library == 0].sort_values("start_ns", kind="stable")
    calls = [
        {"symbol": int(row["symbol"]), "arguments": row["arguments"]}
        for row in first[["symbol", "arguments"]].to_dict("records")
    ]
    library_of = dict(zip(library["name"], library["library"], strict=True))
    call = {"call": 0, "input_shapes": "[]", "input_dtypes": "[]", "batch_size": -1}
    return Vocabulary(
        calls=[call],
        modules=layers.modules,
        layers=columns_of(layers.rows),
        library_calls=calls,
        symbols=[str(one) for one in placed.symbols],
        library_of=lambda name: str(library_of[name]),
        kernels=[str(one) for one in placed.kernels],
        api_name=lambda _domain, cbid: str(placed.api_names[cbid]),
    )


def _run(number: int, spec: RunSpec, window: pd.DataFrame, tables: dict[str, Columns]) -> Run:
    start, end = int(window["start_ns"].iloc[0]), int(window["end_ns"].iloc[0])
    # A layer that began in the run may launch after its end.
    for name in ("library_events", "api_calls"):
        end = max(end, int(tables[name]["end_ns"].max(initial=end)))
    finished = max(end, int(tables["device_activity"]["end_ns"].max(initial=end)))
    calls = {"start_ns": start, "host_end_ns": end, "end_ns": finished}
    model_calls: Columns = {
        name: np.array([value], dtype=np.int64) for name, value in calls.items()
    }
    thread = np.array([window["thread"].iloc[0] & 0xFFFFFFFF], dtype=np.uint32)
    return Run(spec, number, 0, {"thread": thread, **model_calls}, tables)


def _columns(schema: Schema, rows: pd.DataFrame) -> Columns:
    """Columns of a schema; those that the trace does not have are 0."""
    found: Columns = {}
    for name, dtype in schema.items():
        if name in ("grid", "block"):
            found[name] = rows[[f"{name}_{axis}" for axis in "xyz"]].to_numpy().astype(dtype.base)
        elif name in rows and not dtype.shape:
            values = rows[name].to_numpy(dtype=np.int64)
            found[name] = (values & 0xFFFFFFFF if dtype == np.uint32 else values).astype(dtype)
        else:
            found[name] = np.zeros((len(rows), *dtype.shape), dtype.base)
    return found


def _meta(
    trace: ForeignTrace, name: str, levels: list[Level], windows: pd.DataFrame
) -> dict[str, Any]:
    ids = context.current()
    traced = (
        f"imported from {trace.tool}: every time includes the cost of its tracing, since there "
        "are no runs without it"
    )
    warnings = [with_slug("imported", traced), *trace.warnings, *_left_out(trace, windows)]
    return {
        "name": name,
        "levels": [
            {
                "level": level.name,
                "tracer": trace.tool,
                "status": "traced" if level in levels else "unavailable",
                "reason": ""
                if level in levels
                else trace.missing.get(level, f"this {trace.tool} trace has none"),
            }
            # Operators of a trace are layers here.
            for level in DEFAULT_LEVELS
        ],
        "environment": trace.environment,
        "correction": None,
        "warnings": warnings,
        "stopped": f"imported from {trace.tool}",
        "gpu_states": [],
        "memory_device": None,
        "clock": None,
        "epoch_offset_ns": trace.epoch_offset_ns,
        "trace": {
            "trace_id": ids.trace_id_hex,
            "parent_span_id": f"{ids.parent_span_id:016x}",
            "first_span_id": ids.first_span_id,
        },
    }


def _left_out(trace: ForeignTrace, windows: pd.DataFrame) -> list[str]:
    parts = (trace.ranges, trace.api)
    outside = sum(int((window_of(part, windows) < 0).sum()) for part in parts)
    if not outside:
        return []
    sentence = (
        f"{outside} ranges and API calls outside the {len(windows)} runs of the trace are in no "
        "table"
    )
    return [with_slug("outside-runs", sentence)]
