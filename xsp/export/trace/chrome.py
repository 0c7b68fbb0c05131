"""A run as Chrome trace events, by the conventions of Kineto, the tracing part of torch.profiler.

So chrome://tracing, ui.perfetto.dev and Holistic Trace Analysis read it as they read a trace of
torch.profiler: kernels of a GPU are on process 0, 1, ... (the device's number) with the stream as
thread; `correlation` joins them to their launch, `External id` to the innermost operator around the
launch; `ac2g` and `fwdbwd` are the arrows.

| slice | category |
|---|---|
| MODEL span | `user_annotation`, twice: `ProfilerStep#ROUND` and the model's name |
| module around layers | `user_annotation` |
| LAYER, OP and LIBRARY span | `cpu_op` |
| API call | `cuda_runtime` or `cuda_driver` |
| the program's NVTX range | `nvtx`, which Kineto does not have |
| KERNEL span | `kernel`, `gpu_memcpy` or `gpu_memset` |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xsp.capture.writing import write_file
from xsp.export.trace.arguments import Arguments
from xsp.export.trace.slices import API, CATEGORIES, NVTX
from xsp.export.trace.tracks import Track
from xsp.export.trace.view import BACKWARD, RunView

Event = dict[str, Any]

HOST = 1_000_000
"""Number of the host's process; device numbers, which GPUs have as their process, are small."""

_ORIGIN_BITS = 50
"""Stamps are counted from a multiple of 2^50 ns, 13 days: readers of JSON have doubles, in which
the µs of a host that has run for 100 days leave no room for ns.
"""

_LANE = 1 << 32
"""Added to a thread or stream for each further track; both have 32 bits."""

_MODEL, _LAYER, _OP, _LIBRARY, _KERNEL = (
    CATEGORIES.index(name) for name in ("MODEL", "LAYER", "OP", "LIBRARY", "KERNEL")
)
_DEVICE_CATEGORY = {"kernel": "kernel", "memcpy": "gpu_memcpy", "memset": "gpu_memset"}


def write_chrome(view: RunView, path: Path, meta: Mapping[str, Any]) -> Path:
    """Write the trace; `.gz` at the end of the name compresses it. `meta` is the capture's."""
    origin_ns = int(view.slices["start_ns"].min()) >> _ORIGIN_BITS << _ORIGIN_BITS
    offset_ns = meta.get("epoch_offset_ns")
    document = {
        "schemaVersion": 1,
        "deviceProperties": _devices(view, meta["environment"]),
        "displayTimeUnit": "ms",
        # What is added to a stamp to make it Unix time.
        "baseTimeNanoseconds": 0 if offset_ns is None else offset_ns + origin_ns,
        "traceName": view.title,
        "traceEvents": trace_events(_from(view, origin_ns)),
    }
    return write_file(path, json.dumps(document, separators=(",", ":")).encode())


def _from(view: RunView, origin_ns: int) -> RunView:
    """The view with its stamps counted from there."""
    times = {name: view.slices[name] - origin_ns for name in ("start_ns", "end_ns")}
    counters = [replace(counter, time_ns=counter.time_ns - origin_ns) for counter in view.counters]
    return replace(view, slices=view.slices.assign(**times), counters=counters)


def trace_events(view: RunView) -> list[Event]:
    """All events; stamps and durations in µs with three decimals, on the clock of the view."""
    places = _Places(view.tracks)
    return [
        *places.names(view.title),
        *_slices(view, places),
        *_flows(view, places),
        *_counters(view),
    ]


def _devices(view: RunView, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    facts = {
        "name": environment.get("gpu"),
        "totalGlobalMem": environment.get("gpu_memory_bytes"),
        "numSms": environment.get("multiprocessors"),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return [
        {"id": number, **known}
        for number in range(len({t.context for t in view.tracks if t.on_device}))
    ]


class _Places:
    """Process and thread of every track. A GPU is numbered by its context, in order: captures hold
    no device number.
    """

    def __init__(self, tracks: list[Track]) -> None:
        self._tracks = tracks
        contexts = sorted({track.context for track in tracks if track.on_device})
        self.process = [
            contexts.index(track.context) if track.on_device else HOST for track in tracks
        ]
        self.thread = [track.number + track.lane * _LANE for track in tracks]
        # What lies outside layers has the number of its thread, and must not be drawn on it.
        taken: set[tuple[int, int]] = set()
        for index in range(len(tracks)):
            while (self.process[index], self.thread[index]) in taken:
                self.thread[index] += _LANE
            taken.add((self.process[index], self.thread[index]))

    def names(self, title: str) -> Iterator[Event]:
        for process in dict.fromkeys(self.process):
            name, label = (title, "CPU") if process == HOST else (title, f"GPU {process}")
            yield _metadata("process_name", process, 0, name=name)
            yield _metadata("process_labels", process, 0, labels=label)
        for track, process, thread in zip(self._tracks, self.process, self.thread, strict=True):
            yield _metadata("thread_name", process, thread, name=track.name)


def _metadata(what: str, process: int, thread: int, **told: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": told}


def _slices(view: RunView, places: _Places) -> Iterator[Event]:
    slices, external = view.slices, _external_ids(view)
    duration = (slices["end_ns"] - slices["start_ns"]).to_numpy() / 1e3
    start = slices["start_ns"].to_numpy() / 1e3
    columns = ("category", "name", "track", "arguments", "correlation_id")
    for index, (category, name, track, arguments, correlation, ts, dur, identity) in enumerate(
        zip(
            *(slices[column].tolist() for column in columns),
            start.tolist(),
            duration.tolist(),
            external,
            strict=True,
        )
    ):
        known = view.arguments[arguments]
        event = {"ph": "X", "name": name, "pid": places.process[track], "tid": places.thread[track]}
        event |= {"ts": ts, "dur": dur}
        linked = {"External id": identity} if identity else {}
        if category == _KERNEL:
            own = _device_arguments(
                known, view.tracks[track], places.process[track], correlation, dur
            )
            named = {"name": _device_name(name), "cat": _DEVICE_CATEGORY[known["kind"]]}
            yield event | named | {"args": linked | own}
        elif CATEGORIES[category] == API:
            own = {"correlation": correlation}
            yield event | {
                "cat": "cuda_driver" if _is_driver(name) else "cuda_runtime",
                "args": linked | own,
            }
        elif CATEGORIES[category] == NVTX:
            yield event | {"cat": "nvtx", "args": known}
        elif category in (_LAYER, _OP, _LIBRARY):
            yield event | {"cat": "cpu_op", "args": linked | _operator_arguments(known)}
        else:
            if category == _MODEL:
                step = f"ProfilerStep#{view.chosen.round}"
                yield event | {
                    "cat": "user_annotation",
                    "name": step,
                    "args": {"External id": len(slices) + index + 1},
                }
            yield event | {"cat": "user_annotation", "args": {"External id": index + 1, **known}}


def _device_name(name: str) -> str:
    """Copies and sets as Kineto begins their names; what kinds of memory they touch is not known
    here.
    """
    return name.replace("mem", "Mem", 1) if name.startswith(("memcpy", "memset")) else name


def _is_driver(name: str) -> bool:
    return name.startswith("cu") and not name.startswith("cuda")


def _operator_arguments(known: Arguments) -> Arguments:
    """Kineto's names for what it has too; ours for the rest."""
    renamed = {"input_shapes": "Input Dims", "input_dtypes": "Input type"}
    return {renamed.get(name, name): value for name, value in known.items()}


def _device_arguments(
    known: Arguments, track: Track, device: int, correlation: int, dur: float
) -> Arguments:
    place = {
        "device": device,
        "context": track.context,
        "stream": track.number,
        "correlation": correlation,
    }
    if known["kind"] != "kernel":
        return {
            **place,
            "bytes": known["bytes"],
            "memory bandwidth (GB/s)": known["bytes"] / dur / 1e3 if dur else "N/A",
        }
    own = {name: value for name, value in known.items() if name not in _RENAMED}
    shared = known["static_shared_bytes"] + known["dynamic_shared_bytes"]
    return {
        **place,
        "registers per thread": known["registers_per_thread"],
        "shared memory": shared,
        **own,
    }


_RENAMED = ("kind", "registers_per_thread", "static_shared_bytes", "dynamic_shared_bytes")


def _external_ids(view: RunView) -> list[int]:
    """Operators have their own number, launches and what they launched that of the innermost
    operator; 0 is none.
    """
    category, parent = view.slices["category"].to_numpy(), view.slices["parent"].to_numpy()
    number = np.where(np.isin(category, (_LAYER, _LIBRARY)), np.arange(len(category)) + 1, 0)
    launched = np.isin(category, (_KERNEL, CATEGORIES.index(API)))
    identity = np.where(launched & (parent >= 0), number[parent], number)
    return [int(one) for one in identity]


def _flows(view: RunView, places: _Places) -> Iterator[Event]:
    """A start on the source and an end on the target of every arrow."""
    slices = view.slices
    track, start = slices["track"].to_numpy(), slices["start_ns"].to_numpy() / 1e3
    correlation = slices["correlation_id"].to_numpy()
    kinds, sources, targets = (
        view.flows[column].tolist() for column in ("kind", "source", "target")
    )
    for number, (kind, source, target) in enumerate(zip(kinds, sources, targets, strict=True), 1):
        name = "fwdbwd" if kind == BACKWARD else "ac2g"
        identity = number if kind == BACKWARD else int(correlation[target])
        for phase, at in (("s", source), ("f", target)):
            place = {
                "pid": places.process[track[at]],
                "tid": places.thread[track[at]],
                "ts": float(start[at]),
            }
            event = {"ph": phase, "id": identity, "cat": name, "name": name, **place}
            yield event | {"bp": "e"} if phase == "f" else event


def _counters(view: RunView) -> Iterator[Event]:
    for counter in view.counters:
        for time, value in zip(
            (counter.time_ns / 1e3).tolist(), counter.value.tolist(), strict=True
        ):
            yield {
                "ph": "C",
                "name": counter.name,
                "pid": HOST,
                "tid": 0,
                "ts": time,
                "args": {counter.unit: value},
            }
