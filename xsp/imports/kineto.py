"""Traces of torch.profiler (Kineto): JSON as `export_chrome_trace` writes it, plain or compressed.

Runs are the `ProfilerStep#` annotations, which `prof.step()` makes; without any the whole trace is
one run. Where the profiler recorded Python functions (`with_stack=True`), modules are its
`nn.Module:` events: the innermost ones are layers, and so are operators called outside of these.
Otherwise operators that lie in no other operator are layers, and the program's own annotations
(`record_function`) are the modules around them.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.ancestors import nearest_above
from xsp.errors import CaptureError
from xsp.imports.assembling import capture_of
from xsp.imports.documents import document_of, of_one_process
from xsp.imports.foreign import (
    DEVICE_COLUMNS,
    HOST_COLUMNS,
    RANGE_COLUMNS,
    ForeignTrace,
    backwards,
    table,
)
from xsp.imports.nesting import parents
from xsp.imports.operators import BACKWARD
from xsp.profiles import Profile
from xsp.types import Level

Event = dict[str, Any]

STEP = "ProfilerStep#"
TOOL = "torch.profiler"
_MODULE = "nn.Module: "
_DEVICE = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
_API = ("cuda_runtime", "cuda_driver")
_FORMERLY = {
    "Operator": "cpu_op",
    "Runtime": "cuda_runtime",
    "Kernel": "kernel",
    "Memcpy": "gpu_memcpy",
    "Memset": "gpu_memset",
}
"""Categories as PyTorch 1.8 to 1.12 named them."""

_COUNTED = re.compile(r"_\d+$")
_MISSING = {
    Level.LAYER: "the trace has no operators; record it with ProfilerActivity.CPU",
    Level.LIBRARY: "torch.profiler records no calls of cuBLAS, cuDNN and the like",
    Level.KERNEL: "the trace has no GPU activities; record it on a GPU with ProfilerActivity.CUDA",
}


def from_kineto(path: str | os.PathLike[str], *, runs: str = STEP) -> Profile:
    """A profile of a trace of torch.profiler, `*.json` or `*.json.gz`.

    `runs` is how the names of the annotations begin that are one run each. Levels that the trace
    does not hold are "unavailable" in `prof.levels`, with the reason.

    Raises CaptureError if the file is missing, no such trace, or without anything recorded on the
    host, and if no annotation is a run that `runs` asks for.
    """
    source = Path(path)
    document = document_of(source)
    events = [event for event in document["traceEvents"] if isinstance(event, dict)]
    try:
        trace = _trace(source, document, events, runs)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CaptureError(
            f"an event of {str(source)!r} lacks what torch.profiler writes "
            f"({type(error).__name__}: {error}); "
            "give a file written by export_chrome_trace"
        ) from error
    return Profile(capture_of(trace))


def _trace(
    source: Path, document: Mapping[str, Any], events: list[Event], runs: str
) -> ForeignTrace:
    whole = [event for event in events if event.get("ph") == "X" and "dur" in event]
    forwards = [event for event in whole if event["dur"] >= 0]
    by_category: dict[str, list[Event]] = {}
    for event in forwards:
        category = str(event.get("cat", ""))
        by_category.setdefault(_FORMERLY.get(category, category), []).append(event)
    warnings = backwards(len(whole) - len(forwards)) + of_one_process(by_category, _API)
    annotations = by_category.get("user_annotation", [])
    steps = [event for event in annotations if event["name"].startswith(runs)]
    if runs != STEP and not steps:
        raise CaptureError(
            f"no annotation of {str(source)!r} has a name that begins with {runs!r}; leave runs "
            "out for the steps of "
            "the profiler, or for one run where it made none"
        )
    operators = [
        event
        for event in by_category.get("cpu_op", [])
        if event.get("args", {}).get("kind") != "none"
    ]
    library = [event for event in operators if "library" in event.get("args", {})]
    name = source.name.removesuffix(".gz").removesuffix(".json").removesuffix(".pt.trace")
    return ForeignTrace(
        name=name,
        tool=TOOL,
        windows=_host(steps)[["thread", "start_ns", "end_ns"]],
        ranges=_ranges(
            [
                event
                for event in by_category.get("python_function", [])
                if event["name"].startswith(_MODULE)
            ],
            [event for event in annotations if not event["name"].startswith((runs, STEP))],
            [event for event in operators if "library" not in event.get("args", {})],
            [event for event in events if event.get("cat") == "fwdbwd"],
        ),
        library=_host(library).assign(
            library=[event["args"]["library"] for event in library],
            arguments=[_plain(_without_numbers(event["args"])) for event in library],
        ),
        api=_api(event for category in _API for event in by_category.get(category, [])),
        device=_device(
            (kind, event)
            for category, kind in _DEVICE.items()
            for event in by_category.get(category, [])
        ),
        environment=_environment(document),
        missing=_MISSING,
        warnings=warnings,
        epoch_offset_ns=int(document.get("baseTimeNanoseconds", 0)) or None,
    )


def _ns(event: Event) -> tuple[int, int]:
    start = int(event["ts"] * 1000)
    return start, start + int(event["dur"] * 1000)


def _thread(event: Event) -> int:
    thread = event["tid"]
    return thread if isinstance(thread, int) else zlib.crc32(str(thread).encode())


def _host(events: list[Event]) -> pd.DataFrame:
    return table([(_thread(event), *_ns(event), event["name"]) for event in events], HOST_COLUMNS)


def _api(events: Iterable[Event]) -> pd.DataFrame:
    rows = [
        (_thread(event), *_ns(event), event["name"], event.get("args", {}).get("correlation", 0))
        for event in events
    ]
    return table(rows, (*HOST_COLUMNS, "correlation_id"))


def _device(events: Iterable[tuple[str, Event]]) -> pd.DataFrame:
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
    return (kind, _device_name(kind, event["name"]), *_ns(event), *place, *launch, *shape)


def _device_name(kind: str, name: str) -> str:
    """`Memcpy HtoD (Pageable -> Device)` as `memcpy HtoD`, which is how CUPTI's records are named
    here.
    """
    return name if kind == "kernel" else name.partition(" (")[0].replace("Mem", "mem", 1)


def _ranges(
    modules: list[Event], annotations: list[Event], operators: list[Event], flows: list[Event]
) -> pd.DataFrame:
    """Modules, operators outside innermost modules and in no other operator, and annotations around
    either.
    """
    module, annotation, operator = _host(modules), _host(annotations), _host(operators)
    above = _parents(module)
    is_leaf = ~np.isin(np.arange(len(module)), above)
    opaque = pd.concat([module[is_leaf], operator], ignore_index=True)
    outermost = _outside(operator, opaque, np.arange(len(operator)) + int(is_leaf.sum()))
    free = _outside(annotation, opaque, None)
    kept = np.flatnonzero(outermost)
    rows = [
        *map(_module_row, modules),
        *(_annotation_row(annotations[one]) for one in np.flatnonzero(free)),
    ]
    first = len(rows)
    rows += [_operator_row(operators[one]) for one in kept]
    found = table(rows, RANGE_COLUMNS)
    is_layer = np.r_[
        is_leaf, np.zeros(first - len(modules), dtype=bool), np.ones(len(kept), dtype=bool)
    ]
    forward = _forward(found, np.flatnonzero(is_layer), flows)
    phase = np.where(forward >= 0, "backward", found["phase"])
    return found.assign(forward=forward, phase=phase)


def _parents(ranges: pd.DataFrame) -> Any:
    return parents(*(ranges[name].to_numpy() for name in ("thread", "start_ns", "end_ns")))


def _outside(ranges: pd.DataFrame, opaque: pd.DataFrame, own: Any) -> Any:
    """Which ranges lie inside none of the opaque ones; `own` are their rows there, if they are
    opaque themselves.
    """
    every = opaque if own is not None else pd.concat([opaque, ranges], ignore_index=True)
    rows = own if own is not None else np.arange(len(opaque), len(every))
    closed = np.arange(len(every)) < len(opaque)
    return nearest_above(_parents(every), closed)[rows] < 0


def _module_row(event: Event) -> tuple[Any, ...]:
    name = event["name"].removeprefix(_MODULE)
    return (
        _thread(event),
        *_ns(event),
        name,
        _COUNTED.sub("", name),
        "module",
        "forward",
        -1,
        True,
        False,
        "",
        [],
        [],
    )


def _annotation_row(event: Event) -> tuple[Any, ...]:
    kind = event.get("args", {}).get("type", "annotation")
    return (
        _thread(event),
        *_ns(event),
        event["name"],
        kind,
        "function",
        "forward",
        -1,
        True,
        False,
        "",
        [],
        [],
    )


def _operator_row(event: Event) -> tuple[Any, ...]:
    known, name = event.get("args", {}), event["name"]
    shapes, types = (known.get(key, []) for key in ("Input Dims", "Input type"))
    described = (
        [each for each in shapes if each],
        [each for each in types if each not in ("", "Scalar", "ScalarList")],
    )
    place = (_thread(event), *_ns(event))
    if "kind" in known:
        # Written by `Profile.to_chrome`: name, type and phase are xsp's own.
        own = (name, known.get("type", ""), known["kind"], known.get("phase", "forward"))
        return (*place, *own, -1, False, True, known.get("module", ""), *described)
    if name.startswith(BACKWARD):
        bare = name.removeprefix(BACKWARD)
        return (*place, bare, bare, "autograd", "backward", -1, False, False, "", *described)
    return (*place, name, name, "function", "forward", -1, False, False, "", *described)


def _forward(ranges: pd.DataFrame, layers: Any, flows: list[Event]) -> Any:
    """For each range the layer (of these rows) whose backward work it is, -1 for none: by the
    arrows between them.
    """
    forward = np.full(len(ranges), -1, dtype=np.int64)
    ends: dict[str, dict[Any, tuple[int, int]]] = {"s": {}, "f": {}}
    for event in flows:
        ends.get(event["ph"], {})[event["id"]] = (_thread(event), int(event["ts"] * 1000))
    both = [(*ends["s"][one], *ends["f"][one]) for one in ends["s"].keys() & ends["f"].keys()]
    if both and len(layers):
        points = np.array(sorted(both), dtype=np.int64)
        of_layers = ranges.iloc[layers]
        source, target = (
            _at(of_layers, points[:, 0], points[:, 1]),
            _at(of_layers, points[:, 2], points[:, 3]),
        )
        known = (source >= 0) & (target >= 0) & (source != target)
        forward[layers[target[known]]] = layers[source[known]]
    return forward


def _at(layers: pd.DataFrame, thread: Any, time: Any) -> Any:
    """Index of the layer that runs at each time on a thread, -1 for none."""
    asked = pd.DataFrame(
        {"thread": thread, "time": time, "index": np.arange(len(time))}
    ).sort_values("time")
    known = pd.DataFrame(
        {"thread": layers["thread"].to_numpy(), "time": layers["start_ns"].to_numpy()}
    )
    known = known.assign(row=np.arange(len(layers))).sort_values("time", kind="stable")
    found = pd.merge_asof(asked, known, on="time", by="thread").sort_values("index")
    row = found["row"].fillna(-1).to_numpy(dtype=np.int64)
    return np.where((row >= 0) & (layers["end_ns"].to_numpy()[row] >= time), row, -1)


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


def _cuda(version: Any) -> str | None:
    """`13.0` from 13000, as the CUDA runtime numbers its versions."""
    return f"{version // 1000}.{version % 1000 // 10}" if isinstance(version, int) else None


def _environment(document: Mapping[str, Any]) -> dict[str, Any]:
    devices = document.get("deviceProperties") or []
    facts: dict[str, Any] = {
        "host": document.get("host_name"),
        "cuda": _cuda(document.get("cuda_runtime_version")),
    }
    if devices:
        device = devices[0]
        major, minor = device.get("computeMajor"), device.get("computeMinor")
        facts |= {
            "gpu": device.get("name"),
            "gpu_count": len(devices),
            "gpu_memory_bytes": device.get("totalGlobalMem"),
            "compute_capability": None if major is None else f"{major}.{minor}",
            "multiprocessors": device.get("numSms"),
        }
    return {name: value for name, value in facts.items() if value is not None}
