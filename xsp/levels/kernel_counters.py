"""One run of the target under CUPTI's Range Profiler: the counters of chosen kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import numpy.typing as npt

from xsp.errors import TracingError
from xsp.levels import cupti
from xsp.levels import profiler_calls as api
from xsp.levels._native.launches import LaunchWatch, Seen
from xsp.levels.cupti import CuptiLibrary
from xsp.levels.range_profiler import Configuration, MetricHost, RangeProfiler
from xsp.types import ApiDomain

_LAUNCHES = frozenset({
    "cuLaunch", "cuLaunchGrid", "cuLaunchGridAsync", "cuLaunchKernel", "cuLaunchKernelEx", "cuLaunchCooperativeKernel",
    "cuLaunchCooperativeKernelMultiDevice",
})  # fmt: skip
_GRAPH_LAUNCH = "cuGraphLaunch"
_DRIVER_API = 1
"""`CUPTI_CB_DOMAIN_DRIVER_API`."""

Run = Callable[[Callable[[], None]], object]
"""Executes the target once; calls its argument just before the first call."""


def measure(
    host: MetricHost, context: int, configuration: Configuration, wanted: npt.NDArray[np.bool_], run: Run
) -> tuple[npt.NDArray[np.float64], Seen]:
    """Counters of the wanted launches of one run, and what the launches were.

    `wanted` has a truth value for each launch of the target in order. The values have a row per wanted launch and a
    column per metric of the configuration. Kernels run one at a time, each wanted one between two waits for the GPU;
    caches are left as the kernels before left them.

    Raises:
        TracingError: CUPTI refuses, or did not measure what was wanted. Nothing is left enabled.

    """
    library = host.library
    with RangeProfiler(library, context) as profiler:
        data = profiler.configure(configuration, int(wanted.sum()), api.AUTO_RANGE, api.KERNEL_REPLAY)
        actions = start, stop, decode = tuple(
            profiler.parameters(kind) for kind in (api.Start, api.Stop, api.DecodeData)
        )
        watch = LaunchWatch(
            wanted,
            context,
            open_with=[_action(library, start)],
            close_with=[_action(library, stop), _action(library, decode)],
            graph_cbids=_cbids(_GRAPH_LAUNCH),
        )
        try:
            with _subscribed(library, watch) as arm:
                run(arm)
        finally:
            seen = watch.end()
        if seen.result:
            failed = next(one.function for one in actions if library.address(one.function) == seen.failed_function)
            raise TracingError(f"around launch {seen.failed_at}, {library.refusal(failed, seen.result)}")
        if decode.numOfRangeDropped:
            raise TracingError(f"CUPTI dropped the counters of {decode.numOfRangeDropped} kernels")
        return host.values(configuration.metrics, data), seen


def _action(library: CuptiLibrary, parameters: api.Parameters) -> tuple[int, int]:
    return library.address(parameters.function), ctypes.addressof(parameters)


@contextmanager
def _subscribed(library: CuptiLibrary, watch: LaunchWatch) -> Iterator[Callable[[], None]]:
    """A subscriber that hears of launches once the function that this gives was called."""
    subscriber = library.subscribe(watch.callback, watch.user_data)
    try:
        yield lambda: _listen(library, subscriber)
    finally:
        library.unsubscribe(subscriber)


def _listen(library: CuptiLibrary, subscriber: int) -> None:
    for cbid in (*(cbid for name in sorted(_LAUNCHES) for cbid in _cbids(name)), *_cbids(_GRAPH_LAUNCH)):
        library.call_back(subscriber, _DRIVER_API, cbid)


@cache
def _cbids(name: str) -> tuple[int, ...]:
    """Callback ids of a driver function, with the variant for the per-thread default stream."""
    names = {int(one): cupti.api_name(ApiDomain.DRIVER, int(one)) for one in cupti.bindings().driver_api_trace_cbid}
    return tuple(cbid for cbid, found in names.items() if found.removesuffix("_ptsz") == name)
