"""Traces of torch.profiler (Kineto): JSON as `export_chrome_trace` writes it, plain or compressed.

Runs are the `ProfilerStep#` annotations, which `prof.step()` makes; without any the whole trace is
one run. Where the profiler recorded Python functions (`with_stack=True`), modules are its
`nn.Module:` events: the innermost ones are layers, and so are operators called outside of these.
Otherwise operators that lie in no other operator are layers, and the program's own annotations
(`record_function`) are the modules around them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import CaptureError
from xsp.imports.assembling import capture_of
from xsp.imports.documents import HOST, document_of, of_one_process
from xsp.imports.foreign import ForeignTrace, backwards
from xsp.imports.kineto_events import (
    API,
    DEVICE,
    MODULE,
    Event,
    api_table,
    bounds_ns,
    device_table,
    host_table,
    is_layer,
    is_library_call,
    library_table,
)
from xsp.imports.kineto_ranges import ranges
from xsp.imports.stamps import epoch_offset, unknown, unknown_sentence
from xsp.imports.threads import ThreadNumbers
from xsp.profiles import Profile
from xsp.types import Level

STEP = "ProfilerStep#"
TOOL = "torch.profiler"
_FORMERLY = {
    "Operator": "cpu_op",
    "Runtime": "cuda_runtime",
    "Kernel": "kernel",
    "Memcpy": "gpu_memcpy",
    "Memset": "gpu_memset",
}
"""Categories as PyTorch 1.8 to 1.12 named them."""

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
    _number_threads(events)
    read = [event for event in events if _category(event) in (*HOST, *DEVICE)]
    whole = [event for event in read if event.get("ph") == "X" and "dur" in event]
    forwards = [event for event in whole if event["dur"] >= 0]
    base_ns = int(document.get("baseTimeNanoseconds") or 0)
    stamped, first_ns = _with_known_stamps(forwards, base_ns)
    warnings = backwards(len(whole) - len(forwards))
    warnings += unknown_sentence(len(forwards) - len(stamped))
    by_category = _by_category(stamped)
    warnings += of_one_process(by_category, API)
    annotations = by_category.get("user_annotation", [])
    steps = [event for event in annotations if event["name"].startswith(runs)]
    if runs != STEP and not steps:
        raise CaptureError(
            f"no annotation in {str(source)!r} has a name that begins with {runs!r}; leave out "
            "runs to use the profiler's steps, or the whole trace as one run where it has none"
        )
    others = [event for event in annotations if not event["name"].startswith((runs, STEP))]
    arrows = [event for event in events if event.get("cat") == "fwdbwd"]
    operators = [event for event in by_category.get("cpu_op", []) if is_layer(event)]
    calls = [event for event in by_category.get("cpu_op", []) if is_library_call(event)]
    functions = by_category.get("python_function", [])
    modules = [event for event in functions if event["name"].startswith(MODULE)]
    return ForeignTrace(
        name=source.name.removesuffix(".gz").removesuffix(".json").removesuffix(".pt.trace"),
        tool=TOOL,
        windows=host_table(steps)[["thread", "start_ns", "end_ns"]],
        ranges=ranges(modules, others, operators, arrows),
        library=library_table(calls),
        api=api_table(event for category in API for event in by_category.get(category, [])),
        device=device_table(
            (kind, event)
            for category, kind in DEVICE.items()
            for event in by_category.get(category, [])
        ),
        environment=_environment(document),
        missing=_MISSING,
        warnings=warnings,
        epoch_offset_ns=epoch_offset(base_ns, first_ns),
        # An annotation of the program's own is recorded when it has ended.
        last_may_be_cut=runs == STEP,
    )


def _number_threads(events: Iterable[Event]) -> None:
    """Give the host's threads numbers that fit a capture; on the device `tid` is a stream."""
    threads = ThreadNumbers()
    for event in events:
        if "tid" in event and _category(event) not in DEVICE:
            event["tid"] = threads.of(event["tid"])


def _with_known_stamps(events: list[Event], base_ns: int) -> tuple[list[Event], int]:
    """The events without those of unknown start, and the first start of those."""
    stamps = np.array([bounds_ns(event) for event in events], dtype=np.int64).reshape(-1, 2)
    start, end = stamps.T
    is_unknown = unknown(start, end, base_ns)
    is_unknown |= _before_any_launch(events, start, is_unknown)
    never = np.iinfo(np.int64).max
    first = int(start[~is_unknown].min(initial=never))
    return list(compress(events, ~is_unknown)), first


def _before_any_launch(
    events: list[Event], start_ns: npt.NDArray[np.int64], is_unknown: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Activities of the device at 0, before all API calls: one of these launched them."""
    categories = [_category(event) for event in events]
    is_call = np.array([name in API for name in categories], dtype=bool) & ~is_unknown
    on_device = np.array([name in DEVICE for name in categories], dtype=bool)
    of_calls_ns = start_ns[is_call]
    if not len(of_calls_ns) or of_calls_ns.min() <= 0:
        return np.zeros(len(events), dtype=bool)
    at_zero: npt.NDArray[np.bool_] = on_device & (start_ns == 0)
    return at_zero


def _by_category(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(_category(event), []).append(event)
    return found


def _category(event: Event) -> str:
    category = str(event.get("cat", ""))
    return _FORMERLY.get(category, category)


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
