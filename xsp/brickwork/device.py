"""What bricks do on a GPU: which operations each call launches, when, and how long they take."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from xsp.analysis.correction.latencies import DEFAULT_GAP_NS, DEFAULT_WAKE_NS
from xsp.analysis.spans.statistics import trimmed
from xsp.brickwork.network import fresh
from xsp.brickwork.rounds import Runnable, staged
from xsp.errors import XspError
from xsp.types import Columns

ROUNDS = 20
"""Traced calls of each brick. Kernels vary less than the host does."""
_FEWEST, _MOST_NS = 5, 2_000_000_000
"""Rounds that are traced even if it takes long, and how long is long."""
_UNUSED_LAUNCH_NS = 5_000.0
"""From a launch to its start on an H100; used only where no launch was ever seen alone."""

Ints = npt.NDArray[np.int64]


class Tracer(Protocol):
    """Of `xsp.levels.kernel.tracer.KernelTracer`, what is used here."""

    def start(self) -> None:
        """Begin to record."""

    def stop(self) -> None:
        """Take the records."""

    def collect(self) -> dict[str, Columns]:
        """What was recorded."""

    def lost(self) -> int:
        """Records that are missing."""


def timelines(
    runnables: Sequence[Runnable], order: random.Random
) -> tuple[list[dict[str, Any]], str]:
    """For each runnable, `device` (`works`) and `latencies`; nothing, and a sentence that says why,
    where CUPTI cannot be used.
    """
    from xsp.levels.kernel.tracer import KernelTracer

    if not runnables:
        return [], ""
    tracer = KernelTracer()
    if why := tracer.availability():
        return [], f"no timeline of the GPU, so latencies are not replayed: {why}"
    calls, tables = traced(tracer, runnables, ROUNDS, order)
    typical = latencies(calls, tables)
    found = works(calls, tables, len(runnables))
    return [{"device": each, "latencies": typical} for each in found], ""


@dataclass(frozen=True, eq=False)
class Calls:
    """Traced calls: which runnable each was of, and its stamps in ns on the host's clock: called,
    returned, and synchronised.
    """

    place: Ints
    begin_ns: Ints
    end_ns: Ints
    woke_ns: Ints


def traced(
    tracer: Tracer, runnables: Sequence[Runnable], rounds: int, order: random.Random
) -> tuple[Calls, dict[str, Columns]]:
    """Call each in every round, in random order, alone on the GPU, and record what it does there.

    Raises XspError where records were lost: what is missing would count as no time.
    """
    stamps: list[tuple[int, int, int, int]] = []
    torch.cuda.synchronize()
    tracer.start()
    try:
        begin = time.perf_counter_ns()
        for number in range(rounds):
            if number >= _FEWEST and time.perf_counter_ns() - begin > _MOST_NS:
                break
            places = list(range(len(runnables)))
            order.shuffle(places)
            stamps += [_call(runnables[place], place, number) for place in places]
    finally:
        tracer.stop()
    if tracer.lost():
        raise XspError(f"{tracer.lost()} kernel records were lost; measure fewer bricks at a time")
    columns = np.array(stamps, dtype=np.int64).reshape(-1, 4).T
    return Calls(*columns), tracer.collect()


def _call(runnable: Runnable, place: int, number: int) -> tuple[int, int, int, int]:
    clock = time.perf_counter_ns
    at = number % len(runnable.calls)
    inputs = [fresh(each) for each in runnable.inputs[at]]
    with torch.no_grad(), staged(runnable.calls[at], inputs) as made:
        torch.cuda.synchronize()
        begin = clock()
        result = made()
        end = clock()
        torch.cuda.synchronize()
        woke = clock()
        del result
    return place, begin, end, woke


def works(calls: Calls, tables: Mapping[str, Columns], count: int) -> list[dict[str, Any]]:
    """For each runnable, what a call does: `launch_at` (share of the call's host time at which each
    operation is launched), `duration_ns` of each, `busy_ns` of all with half of its 95 % interval.
    While several run side by side, the time is that of the one that began first: a library may
    spread a call over streams of its own, and lengths then add up to more than passes.

    Calls that launch another number of operations than most calls of the same brick are left out.
    """
    ops = _operations(calls, tables)
    found = []
    for place in range(count):
        mine = [ops[call] for call in np.flatnonzero(calls.place == place).tolist()]
        usual = Counter(len(each) for each in mine).most_common(1)[0][0] if mine else 0
        same = [each for each in mine if len(each) == usual]
        found.append(_work(np.array(same, dtype=np.float64).reshape(len(same), usual, 2)))
    return found


def _work(rows: npt.NDArray[np.float64]) -> dict[str, Any]:
    """From calls x operations x (launch share, duration)."""
    if not rows.size:
        return {"launch_at": [], "duration_ns": [], "busy_ns": 0.0, "busy_half_ns": 0.0}
    busy, half = trimmed(rows[:, :, 1].sum(axis=1))
    return {
        "launch_at": trimmed(rows[:, :, 0])[0].tolist(),
        "duration_ns": trimmed(rows[:, :, 1])[0].tolist(),
        "busy_ns": float(busy),
        "busy_half_ns": float(half) if np.isfinite(half) else 0.0,
    }


def _operations(calls: Calls, tables: Mapping[str, Columns]) -> list[list[tuple[float, float]]]:
    """By call, launch share and duration of each operation, in order of launch."""
    found: list[list[tuple[float, float]]] = [[] for _ in calls.place]
    launch, start, end, call = _joined(calls, tables)
    length = np.maximum(calls.end_ns - calls.begin_ns, 1)
    alone = end - np.clip(_done_before(start, end, call), start, end)
    for at in np.argsort(launch, kind="stable").tolist():
        own = int(call[at])
        if own >= 0:
            share = (launch[at] - calls.begin_ns[own]) / length[own]
            found[own].append((float(share), float(alone[at])))
    return found


def _done_before(start: Ints, end: Ints, call: Ints) -> Ints:
    """When all operations of a call that began before each one have ended, its own start for the
    first. Where that is later than its start, the GPU runs several side by side.
    """
    order = np.lexsort((end, start, call))
    begin, close, own = start[order], end[order], call[order]
    if not len(order):
        return begin
    # Calls are laid end to end, so that a running maximum never crosses from one into the next.
    shift = own * (close.max() - begin.min() + 1)
    reached = np.maximum.accumulate(close + shift)[:-1] - shift[1:]
    before = begin.copy()
    before[1:] = np.where(own[1:] == own[:-1], reached, begin[1:])
    found = np.empty_like(start)
    found[order] = before
    return found


def _joined(calls: Calls, tables: Mapping[str, Columns]) -> tuple[Ints, Ints, Ints, Ints]:
    """Launch, start and end of every operation, and the call that launched it, -1 for none."""
    api, activity = tables["api_calls"], tables["device_activity"]
    start, end = (activity[name].astype(np.int64) for name in ("start_ns", "end_ns"))
    if not len(api["correlation_id"]):
        nothing = np.zeros(len(start), dtype=np.int64)
        return nothing, start, end, nothing - 1
    order = np.argsort(api["correlation_id"], kind="stable")
    ids = api["correlation_id"][order]
    at = np.searchsorted(ids, activity["correlation_id"])
    at = np.minimum(at, len(ids) - 1)
    is_known = ids[at] == activity["correlation_id"]
    launch = api["start_ns"][order][at].astype(np.int64)
    call = np.searchsorted(calls.begin_ns, launch, side="right") - 1
    call_end = calls.end_ns[np.maximum(call, 0)]
    is_inside = is_known & (call >= 0) & (launch <= call_end)
    return launch, start, end, np.where(is_inside, call, -1)


def latencies(calls: Calls, tables: Mapping[str, Columns]) -> dict[str, float]:
    """Medians in ns: `launch_ns` from a launch to the start on an idle GPU, `gap_ns` between queued
    operations, `wake_ns` from the last operation's end to the end of the synchronisation.
    """
    launch, start, end, call = _joined(calls, tables)
    order = np.lexsort((start, call))
    order = order[call[order] >= 0]
    launch, start, end, call = (each[order] for each in (launch, start, end, call))
    if not len(call):
        return {
            "launch_ns": _UNUSED_LAUNCH_NS,
            "gap_ns": DEFAULT_GAP_NS,
            "wake_ns": DEFAULT_WAKE_NS,
        }
    first = np.concatenate([[True], call[1:] != call[:-1]])
    last = np.concatenate([first[1:], [True]])
    idle = float(np.median((start - launch)[first]))
    before = _done_before(start, end, call)
    queued = ~first & (before - launch > 2 * idle) & (start >= before)
    gaps = (start - before)[queued]
    return {
        "launch_ns": idle,
        "gap_ns": float(np.median(gaps)) if len(gaps) else DEFAULT_GAP_NS,
        "wake_ns": float(np.median((calls.woke_ns[call] - np.maximum(before, end))[last])),
    }
