"""The time of one call on the device, its launch and the host left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.statistics import trimmed
from xsp.bounds.torch_calls import Call
from xsp.database.entry import COLD
from xsp.errors import XspError
from xsp.measuring.stopping import MAXIMUM_ROUNDS, MINIMUM_ROUNDS, TARGET

WARM_UP = 3
"""Calls before any that is timed."""
BATCH = 10
"""Calls between two looks at the interval."""
BUDGET_S = 0.5
"""Seconds for one algorithm in one state of the caches."""
_CACHE_BYTES = 64 << 20
"""Of a CPU's last level; larger ones are not flushed whole, and their entries are warmer."""

Samples = npt.NDArray[np.float64]


class Timer(Protocol):
    """Takes samples of a call's time on a device, in ns. `method` says how."""

    method: str

    def samples(self, call: Call, caches: str, count: int) -> Samples:
        """`count` samples, each with cold or warm caches."""


@dataclass(frozen=True)
class Timed:
    """Trimmed mean of the samples and half of its 95 % interval, in ns."""

    time_ns: float
    half_width_ns: float
    rounds: int


def timed(
    timer: Timer, call: Call, caches: str, budget_s: float = BUDGET_S, target: float = TARGET
) -> Timed:
    """Sample until the interval is narrow enough, as `xsp.measure` does: half of it at most
    `target` of the mean, after MINIMUM_ROUNDS, at most MAXIMUM_ROUNDS or `budget_s`.
    """
    begin = time.perf_counter()
    # The first calls of an algorithm can run trials, build plans and allocate workspaces.
    with torch.inference_mode():
        for _ in range(WARM_UP):
            call()
    first = timer.samples(call, caches, 2)
    # Of calls that take long, fewer at a time, so that the budget is kept.
    each = max(2, min(BATCH, int(budget_s * 1e9 / 2 / max(float(first.min()), 1.0))))
    found = timer.samples(call, caches, each)
    steady = 0
    while True:
        mean, half = (float(each) for each in trimmed(found))
        steady = steady + 1 if half <= target * mean else 0
        spent = time.perf_counter() - begin > budget_s
        enough = len(found) >= MINIMUM_ROUNDS and steady >= 2
        if enough or spent or len(found) >= MAXIMUM_ROUNDS:
            return Timed(mean, half, len(found))
        found = np.concatenate([found, timer.samples(call, caches, each)])


def timer_for(device: str) -> Timer:
    """The best timer that works here: kernel records on a GPU, else a captured graph."""
    if device == "cpu":
        return HostTimer()
    from xsp.levels.kernel.tracer import KernelTracer

    tracer = KernelTracer()
    return GraphTimer() if tracer.availability() else KernelTimer(tracer)


class HostTimer:
    """Times calls on the CPU, where the call and its work are one. A sample is a call, or the mean
    of as many as take 20 µs.
    """

    method = "host clock around calls, PyTorch's dispatch included"

    def __init__(self) -> None:
        self._flush = torch.zeros(_CACHE_BYTES // 4)

    def samples(self, call: Call, caches: str, count: int) -> Samples:
        """See `Timer`."""
        clock = time.perf_counter_ns
        with torch.inference_mode():
            begin = clock()
            call()
            once = max(clock() - begin, 1)
            repeats = 1 if caches == COLD else max(1, min(20_000 // once, 100))
            found = np.empty(count)
            for place in range(count):
                if caches == COLD:
                    self._flush.add_(1)
                begin = clock()
                for _ in range(repeats):
                    call()
                found[place] = (clock() - begin) / repeats
        return found


class _Flush:
    """Writes more than the GPU's second-level cache holds, with one operation."""

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        size = 2 * int(getattr(properties, "L2_cache_size", 0) or (64 << 20))
        self._buffer = torch.empty(size, dtype=torch.uint8, device="cuda")

    def __call__(self) -> None:
        self._buffer.zero_()


class KernelTimer:
    """Takes the time from CUPTI's records of what ran on the GPU: gaps between kernels, which the
    host decides, are left out.
    """

    method = "kernel records"

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._flush = _Flush()

    def samples(self, call: Call, caches: str, count: int) -> Samples:
        """See `Timer`. Raises XspError where calls launch different numbers of kernels."""
        torch.cuda.synchronize()
        self._tracer.start()
        try:
            with torch.inference_mode():
                for _ in range(count):
                    if caches == COLD:
                        self._flush()
                    call()
        finally:
            self._tracer.stop()
        activity = self._tracer.collect()["device_activity"]
        if self._tracer.lost():
            raise XspError(f"{self._tracer.lost()} kernel records were lost")
        return _by_call(activity, count, leading=int(caches == COLD))


def _by_call(activity: dict[str, npt.NDArray[Any]], count: int, leading: int) -> Samples:
    """Busy time of each call; the first `leading` operations of a call are not its own."""
    order = np.argsort(activity["start_ns"], kind="stable")
    each, rest = divmod(len(order), count)
    if rest or each <= leading:
        raise XspError(
            f"{count} calls launched {len(order)} operations: the number differs from call to call"
        )
    call = np.arange(len(order)) // each
    own = np.arange(len(order)) % each >= leading
    start, end = activity["start_ns"][order], activity["end_ns"][order]
    return covered_ns(call[own], start[own], end[own], count).astype(np.float64)


class GraphTimer:
    """Times a CUDA graph of many calls, between two events: used where CUPTI cannot be. What it
    gives includes the gaps between kernels of a graph, so that it is not a bound of kernel time.
    """

    method = "a captured graph, with the gaps between its kernels"

    def __init__(self) -> None:
        self._flush = _Flush()
        self._flushing_ns = 0.0
        self._flushing_ns = float(np.median(self._replayed(self._flush, 10)))

    def samples(self, call: Call, caches: str, count: int) -> Samples:
        """See `Timer`."""
        if caches != COLD:
            return self._replayed(call, count)

        def cold() -> None:
            self._flush()
            call()

        return np.asarray(self._replayed(cold, count) - self._flushing_ns)

    def _replayed(self, call: Callable[[], Any], count: int, calls: int = 10) -> Samples:
        cuda: Any = torch.cuda
        with torch.inference_mode():
            with cuda.stream(cuda.Stream()):
                call()
            cuda.synchronize()
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                for _ in range(calls):
                    call()
            graph.replay()
            first, last = (cuda.Event(enable_timing=True) for _ in range(2))
            found = np.empty(count)
            for place in range(count):
                first.record()
                graph.replay()
                last.record()
                last.synchronize()
                found[place] = first.elapsed_time(last) * 1e6 / calls
        return found
