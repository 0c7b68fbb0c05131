"""Timers of what calls take on a device, with their launch and the host left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from xsp.analysis.spans.intervals import covered_ns
from xsp.bounds.timing import Prepared, Samples, Timer
from xsp.bounds.torch_calls import Call
from xsp.database.entry import COLD
from xsp.errors import XspError

Found = TypeVar("Found")

_CACHE_BYTES = 64 << 20
"""Of a CPU's last level; larger ones are not flushed whole, and their entries are warmer."""
_AT_ONCE_NS = 20_000
"""Calls shorter than this are timed several at once: a clock has a grain."""
_CALLS = 10
"""Of a captured graph."""


def timer_for(device: str) -> Timer:
    """The best timer that works here: kernel records on a GPU, else a captured graph."""
    if device == "cpu":
        return HostTimer()
    from xsp.levels.kernel.tracer import KernelTracer

    tracer = KernelTracer()
    return GraphTimer() if tracer.availability() else KernelTimer(tracer)


def _one_by_one(
    calls: Sequence[Prepared], sample: Callable[[Call], Found]
) -> list[Found | Exception]:
    found: list[Found | Exception] = []
    for each in calls:
        try:
            with each.under(), torch.inference_mode():
                found.append(sample(each.call))
        except Exception as error:  # one that fails must not take the others with it
            found.append(error)
    return found


class HostTimer:
    """Times calls on the CPU, where the call and its work are one. A sample is a call, or the mean
    of as many as take 20 µs.
    """

    method = "host clock around calls, PyTorch's dispatch included"

    def __init__(self) -> None:
        self._flush = torch.zeros(_CACHE_BYTES // 4)

    def samples(
        self, calls: Sequence[Prepared], caches: str, count: int
    ) -> list[Samples | Exception]:
        """See `Timer`."""
        return _one_by_one(calls, lambda call: self._of(call, caches, count))

    def _of(self, call: Call, caches: str, count: int) -> Samples:
        clock = time.perf_counter_ns
        begin = clock()
        call()
        once = max(clock() - begin, 1)
        repeats = 1 if caches == COLD else max(1, min(_AT_ONCE_NS // once, 100))
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

    One recording holds all calls: to begin and end one takes the host some milliseconds. Which
    call an operation belongs to is told by when the host launched it.
    """

    method = "kernel records"

    def __init__(self, tracer: Any, flush: Callable[[], None] | None = None) -> None:
        self._tracer = tracer
        self._flush = flush or _Flush()

    def samples(
        self, calls: Sequence[Prepared], caches: str, count: int
    ) -> list[Samples | Exception]:
        """See `Timer`. Calls that launch different numbers of kernels raise XspError.

        Raises XspError where records were lost.
        """

        def launch(call: Call) -> tuple[int, int]:
            begin = time.monotonic_ns()
            for _ in range(count):
                if caches == COLD:
                    self._flush()
                call()
            return begin, time.monotonic_ns()

        self._tracer.start()
        try:
            intervals = _one_by_one(calls, launch)
        finally:
            self._tracer.stop()
        tables = self._tracer.collect()
        if self._tracer.lost():
            raise XspError(f"{self._tracer.lost()} kernel records were lost")
        activity, launched = tables["device_activity"], _launched_ns(tables)
        leading = int(caches == COLD)
        return [_of_interval(activity, launched, each, count, leading) for each in intervals]


def _of_interval(
    activity: Mapping[str, npt.NDArray[Any]],
    launched: npt.NDArray[np.int64],
    interval: tuple[int, int] | Exception,
    count: int,
    leading: int,
) -> Samples | Exception:
    """Samples of the calls that the host made in this interval."""
    if isinstance(interval, Exception):
        return interval
    begin, end = interval
    mine = (launched >= begin) & (launched < end)
    own = {name: activity[name][mine] for name in ("start_ns", "end_ns")}
    return _by_call(own, count, leading)


def _launched_ns(tables: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[np.int64]:
    """When the host began the API call that launched each operation; 0 where that is not known,
    as for what was launched before the recording.
    """
    calls, activity = tables["api_calls"], tables["device_activity"]
    # One launch can have a record of the runtime and one of the driver: the first is meant.
    identity, first = np.unique(calls["correlation_id"], return_index=True)
    place = np.searchsorted(identity, activity["correlation_id"])
    there = place < len(identity)
    there[there] = identity[place[there]] == activity["correlation_id"][there]
    launched = np.zeros(len(place), dtype=np.int64)
    launched[there] = calls["start_ns"][first[place[there]]]
    return launched


def _by_call(
    activity: Mapping[str, npt.NDArray[Any]], count: int, leading: int
) -> Samples | Exception:
    """Busy time of each call; the first `leading` operations of a call are not its own."""
    order = np.argsort(activity["start_ns"], kind="stable")
    each, rest = divmod(len(order), count)
    if rest or each <= leading:
        return XspError(
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

    def samples(
        self, calls: Sequence[Prepared], caches: str, count: int
    ) -> list[Samples | Exception]:
        """See `Timer`."""
        return _one_by_one(calls, lambda call: self._of(call, caches, count))

    def _of(self, call: Call, caches: str, count: int) -> Samples:
        if caches != COLD:
            return self._replayed(call, count)

        def cold() -> None:
            self._flush()
            call()

        return np.asarray(self._replayed(cold, count) - self._flushing_ns)

    def _replayed(self, call: Callable[[], Any], count: int) -> Samples:
        cuda: Any = torch.cuda
        with torch.inference_mode():
            with cuda.stream(cuda.Stream()):
                call()
            cuda.synchronize()
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                for _ in range(_CALLS):
                    call()
            graph.replay()
            first, last = (cuda.Event(enable_timing=True) for _ in range(2))
            found = np.empty(count)
            for place in range(count):
                first.record()
                graph.replay()
                last.record()
                last.synchronize()
                found[place] = first.elapsed_time(last) * 1e6 / _CALLS
        return found
