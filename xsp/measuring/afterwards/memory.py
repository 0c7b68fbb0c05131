"""Bytes that each layer allocates, and the peak while it runs, from one untimed run.

The allocator's own peak counter could be read only by resetting it, which the profiled program
would notice. Torch's profiler reports every allocation of the CPU and CUDA caching allocators with
the running total instead.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.autograd import profiler as autograd_profiler
from torch.autograd.profiler import record_function

from xsp.analysis.spans.align import match_events
from xsp.levels._native.signals import held
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.recorder import PythonRecorder, Stamp
from xsp.levels.layer.stamps import pair_stamps
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tracer import LayerTracer
from xsp.machine.dynamo_internals import DYNAMO_FOLDER
from xsp.machine.torch_internals import (
    is_allocation,
    is_profiling,
    profiled_events,
    without_torch_functions,
)
from xsp.measuring.afterwards.kineto_lines import profiled
from xsp.measuring.switching import tracing
from xsp.words.slugs import with_slug

_MARK = "xsp stamp "

PROFILER_S, PROFILER_S_PER_LAYER = 0.2, 2e-4
"""What torch's profiler takes to begin and to end, and for each call of a layer."""

MOST_LAYERS = 20_000
"""Calls of layers in a run whose allocations are recorded: torch's profiler keeps some 20 KB for
each until it has ended, and takes PROFILER_S_PER_LAYER.
"""

_TORCH = Path(torch.__file__).parent
_RECORDING_PLACES = (
    _TORCH / "profiler",
    _TORCH / "autograd" / "profiler.py",
    _TORCH / DYNAMO_FOLDER,
)


@dataclass(frozen=True)
class LayerMemory:
    """By row of the structure run: bytes allocated during the layer, and the highest total while it
    ran.

    -1 where the row was not seen. `device` is "cuda" if anything was allocated there, else "cpu".
    """

    device: str
    allocated_bytes: npt.NDArray[np.int64]
    peak_bytes: npt.NDArray[np.int64]


class _MarkingLog(list[Stamp]):
    """A log of stamps that also leaves a mark in torch's profile for each, on the profiler's own
    clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        """Number of the first stamp's mark: marks cannot be taken back when the log is emptied."""

    def append(self, stamp: Stamp) -> None:
        # A mark is a torch function too, and none of the user's modes may see it.
        with without_torch_functions(), record_function(f"{_MARK}{self.first + len(self)}"):
            super().append(stamp)

    def clear(self) -> None:
        self.first += len(self)
        super().clear()


def expected_s(structure_s: float, layers: int) -> float:
    """Seconds that `measure_memory` takes where the structure run took `structure_s` for so many
    calls of layers: about as much, besides what torch's profiler takes to begin, to end and to give
    what it has of each call.
    """
    return PROFILER_S + PROFILER_S_PER_LAYER * layers + structure_s


def why_unavailable() -> str | None:
    """None, or a sentence on why allocations cannot be recorded now."""
    if is_profiling():
        return (
            "memory per layer is unknown: a torch.profiler session is active, and there can be "
            "only one; stop it first"
        )
    return None


def measure_memory(
    run: Callable[[Callable[[], None]], object], structure: Structure
) -> tuple[LayerMemory | None, tuple[str, ...]]:
    """What the layers of the structure run allocate, None with a sentence where it cannot be
    recorded.

    `run` is that of `record_memory`; what the target raises passes through.
    """
    reason = why_unavailable()
    if reason is not None:
        return None, (with_slug("memory-unknown", reason),)
    calls = len(structure.layers)
    if calls > MOST_LAYERS:
        return None, (with_slug("memory-unknown", _too_many(calls)),)
    try:
        return record_memory(run, structure.codes, structure.layers.codes()), ()
    except Exception as error:
        if not is_own_failure(error):
            raise
        first_line = str(error).strip().partition("\n")[0]
        why = (
            f"memory per layer is unknown: recording it failed with {type(error).__name__}: "
            f"{first_line}"
        )
        return None, (with_slug("memory-unknown", why),)


def _too_many(calls: int) -> str:
    return (
        f"memory per layer is unknown: a run calls {calls:,} layers, more than the {MOST_LAYERS:,} "
        "of which torch's profiler keeps all events in memory; profile a part of the program"
    )


def fill_bytes(layers: pd.DataFrame, found: LayerMemory) -> pd.DataFrame:
    """The table `layers` with the bytes of its rows; the rows behind those of the structure run
    have none.
    """
    columns = {"allocated_bytes": found.allocated_bytes, "peak_bytes": found.peak_bytes}
    rest = np.full(len(layers) - len(found.peak_bytes), -1)
    return layers.assign(
        **{name: np.concatenate([values, rest]) for name, values in columns.items()}
    )


def is_own_failure(error: Exception) -> bool:
    """Whether an exception of `record_memory` comes from the recording: from here, from torch's
    profiler, or from its compiler, which was done with the target before. Whatever else the target
    raises is its user's business.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = Path(frames[-1].f_code.co_filename) if frames else Path()
    if any(raised_in.is_relative_to(place) for place in _RECORDING_PLACES):
        return True
    evaluating = any(frame.f_code is _evaluated.__code__ for frame in frames)
    return (evaluating or raised_in == Path(__file__)) and not _can_be_a_deadline(error)


def _can_be_a_deadline(error: Exception) -> bool:
    """Whether a handler of a signal or another thread can have raised it: a class of somebody
    else's, or TimeoutError.
    """
    package = type(error).__module__.partition(".")[0]
    return package not in {"builtins", "torch", "numpy"} or isinstance(error, OSError)


def record_memory(
    run: Callable[[Callable[[], None]], object],
    codes: Codes,
    structure_codes: npt.NDArray[np.int64],
) -> LayerMemory:
    """Run the target once under torch's profiler (CPU activities with memory) and charge
    allocations to layers. Autograd's front to it serves: `torch.profiler.profile` first imports
    inductor, for seconds.

    `run` is given what it must call when the target's state is restored, just before its first
    call.
    """
    log = _MarkingLog()
    tracer = LayerTracer(codes, partial(PythonRecorder, log=log))
    session = autograd_profiler.profile(use_cpu=True, use_kineto=True, profile_memory=True)
    with (
        held(),
        profiled(session) as profile,
        tracing([tracer], "in the run that records memory"),
    ):
        run(tracer.new_run)
    return _evaluated(profile, log, structure_codes)


def _evaluated(
    profile: Any, log: _MarkingLog, structure_codes: npt.NDArray[np.int64]
) -> LayerMemory:
    events = _flattened(profiled_events(profile))
    marks = {
        int(e.name.removeprefix(_MARK)): e.start_time_ns for e in events if e.name.startswith(_MARK)
    }
    numbered = enumerate(log, log.first)
    marked = [(stamp[0], marks[i], stamp[2]) for i, stamp in numbered if i in marks]
    layers = pair_stamps(np.array(marked, dtype=np.int64).reshape(-1, 3))
    return _charged(layers, structure_codes, *_allocations(events))


def _flattened(roots: list[Any]) -> list[Any]:
    found, pending = [], list(roots)
    while pending:
        event = pending.pop()
        found.append(event)
        pending.extend(event.children)
    return found


def _allocations(events: list[Any]) -> tuple[str, npt.NDArray[np.int64]]:
    changes = [event for event in events if is_allocation(event)]
    on_gpu = [event for event in changes if event.extra_fields.device.type == "cuda"]
    rows = [
        (e.start_time_ns, e.extra_fields.alloc_size, e.extra_fields.total_allocated)
        for e in on_gpu or changes
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return ("cuda" if on_gpu else "cpu"), table[np.argsort(table[:, 0], kind="stable")]


def _charged(
    layers: dict[str, npt.NDArray[Any]],
    structure_codes: npt.NDArray[np.int64],
    device: str,
    changes: npt.NDArray[np.int64],
) -> LayerMemory:
    allocated = np.full(len(structure_codes), -1, dtype=np.int64)
    peak = allocated.copy()
    order = np.argsort(layers["start_ns"], kind="stable")
    row = match_events(layers["code"][order], structure_codes)
    seen, row = order[row >= 0], row[row >= 0]
    time_ns, size, total = changes.T
    first = np.searchsorted(time_ns, layers["start_ns"][seen])
    last = np.searchsorted(time_ns, layers["end_ns"][seen], side="right")
    grown = np.r_[0, np.cumsum(np.maximum(size, 0))]
    allocated[row] = grown[last] - grown[first]
    # The total at a layer's start is the one its predecessor left; from there on the maximum of
    # every change.
    history = np.r_[0, total]
    bounds = np.stack([first, last + 1], axis=1).ravel()
    padded = np.r_[history, np.iinfo(np.int64).min]
    if len(bounds):
        peak[row] = np.maximum.reduceat(padded, bounds)[::2]
    return LayerMemory(device, allocated, peak)
