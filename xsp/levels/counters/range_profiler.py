"""Counters of kernels through CUPTI's Range Profiler, and what a chip can count through its
Profiler Host.

The mode is auto range with user replay: every kernel is a range of its own, and metrics that need
several passes get them from several runs of the whole program. With kernel replay CUPTI would
repeat each kernel by itself, saving and restoring what it writes: measured on an H100, 15 to 34 ms
a kernel instead of 1.3 to 1.9 ms, for the same values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import TracingError
from xsp.levels.counters import profiler_calls as api
from xsp.levels.kernel.cupti import CuptiLibrary

Image = ctypes.Array[ctypes.c_char]


@dataclass(frozen=True)
class Configuration:
    """Metrics that are measured together: CUPTI's image for them, and the runs of the program that
    they need.
    """

    metrics: tuple[str, ...]
    image: Image
    passes: int


class MetricHost:
    """What one chip can count: CUPTI's Profiler Host API, which needs no GPU."""

    def __init__(self, library: CuptiLibrary, chip: str) -> None:
        self.library = library
        self.chip = chip

    def configured(self, metrics: Sequence[str]) -> Configuration | None:
        """A configuration for these metrics, None if the chip lacks one of them."""
        with self._host() as host:
            adding = api.HostConfigAddMetrics(
                pHostObject=host, ppMetricNames=api.texts(metrics), numMetrics=len(metrics)
            )
            result = self.library.result(adding.function, adding)
            if result in (api.INVALID_PARAMETER, api.INVALID_METRIC_NAME):
                return None
            if result:
                raise TracingError(self.library.refusal(adding.function, result))
            size = api.call(
                self.library, api.HostGetConfigImageSize, pHostObject=host
            ).configImageSize
            image = ctypes.create_string_buffer(size)
            place = {"configImageSize": size, "pConfigImage": ctypes.addressof(image)}
            api.call(self.library, api.HostGetConfigImage, pHostObject=host, **place)
            passes = api.call(self.library, api.HostGetNumOfPasses, **place).numOfPasses
        return Configuration(tuple(metrics), image, passes)

    def base_metrics(self) -> list[str]:
        """Names of the counters of this chip, without the suffix (`.sum`) that a metric's
        name has.
        """
        with self._host() as host:
            found = api.call(self.library, api.HostGetBaseMetrics, pHostObject=host, metricType=0)
            return [found.ppMetricNames[index].decode() for index in range(found.numMetrics)]

    def values(self, metrics: Sequence[str], data: Image) -> npt.NDArray[np.float64]:
        """Values in a counter data image: a row per range in order of measuring, a column per
        metric.
        """
        place = {"pCounterDataImage": ctypes.addressof(data), "counterDataImageSize": len(data)}
        ranges = api.call(self.library, api.GetCounterDataInfo, **place).numTotalRanges
        table = np.full((ranges, len(metrics)), np.nan)
        names = api.texts(metrics)
        with self._host() as host:
            for index in range(ranges):
                api.call(
                    self.library,
                    api.HostEvaluateToGpuValues,
                    pHostObject=host,
                    rangeIndex=index,
                    ppMetricNames=names,
                    numMetrics=len(metrics),
                    pMetricValues=table[index:].ctypes.data,
                    **place,
                )
        return table

    @contextmanager
    def _host(self) -> Iterator[int]:
        """A host object; metrics stay in one once they were added, so each purpose has its own."""
        host = api.call(
            self.library,
            api.HostInitialize,
            profilerType=api.RANGE_PROFILER,
            pChipName=self.chip.encode(),
        ).pHostObject
        try:
            yield host
        finally:
            api.call(self.library, api.HostDeinitialize, pHostObject=host)


Run = Callable[[Callable[[], None]], object]
"""Executes the program once and calls its argument just before the first kernel that counts."""

Collect = Callable[[], npt.NDArray[np.float64]]

Call = Callable[..., Any]
"""Makes a call of the Range Profiler with its object filled in."""


@contextmanager
def collecting(
    host: MetricHost, context: int, configuration: Configuration, ranges: int, run: Run
) -> Iterator[Collect]:
    """A function that gives metrics of every kernel of a program: a row per kernel in order of
    launch, a column each.

    Whenever it is called it has the program run `configuration.passes` times by `run`, at whose
    return all kernels must be done. There is room for `ranges` kernels: CUPTI prepares the GPU when
    it first counts, which took 1.1 ms for each of them on an H100, and again for another
    configuration, but not to count the same once more.

    Raises:
        TracingError: CUPTI refuses, or kernels did not fit. Nothing is left enabled, also if the
        program raises.

    """
    with _enabled(host.library, context) as call:
        yield lambda: _collected(host, call, configuration, ranges, run)


def _collected(
    host: MetricHost, call: Call, configuration: Configuration, ranges: int, run: Run
) -> npt.NDArray[np.float64]:
    data = _configured(call, configuration, ranges)
    if not any(_one_pass(call, run) for _ in range(configuration.passes)):
        raise TracingError(
            f"CUPTI needed more passes than the {configuration.passes} it had planned"
        )
    dropped = call(api.DecodeData).numOfRangeDropped
    if dropped:
        raise TracingError(f"CUPTI dropped {dropped} kernels: there was room for only {ranges}")
    return host.values(configuration.metrics, data)


@contextmanager
def _enabled(library: CuptiLibrary, context: int) -> Iterator[Call]:
    with initialized(library):
        profiler = api.call(library, api.Enable, ctx=context).pRangeProfilerObject
        try:
            yield lambda kind, **values: api.call(
                library, kind, pRangeProfilerObject=profiler, **values
            )
        finally:
            api.call(library, api.Disable, pRangeProfilerObject=profiler)


def _configured(call: Call, configuration: Configuration, ranges: int) -> Image:
    names = api.texts(configuration.metrics)
    room = {"maxNumOfRanges": ranges, "maxNumRangeTreeNodes": ranges}
    size = call(
        api.GetCounterDataSize, pMetricNames=names, numMetrics=len(names), **room
    ).counterDataSize
    data = ctypes.create_string_buffer(size)
    call(api.CounterDataImageInitialize, counterDataSize=size, pCounterData=ctypes.addressof(data))
    call(
        api.SetConfig,
        configSize=len(configuration.image),
        pConfig=ctypes.addressof(configuration.image),
        counterDataImageSize=size,
        pCounterDataImage=ctypes.addressof(data),
        range=api.AUTO_RANGE,
        replayMode=api.USER_REPLAY,
        maxRangesPerPass=ranges,
        numNestingLevels=1,
        minNestingLevel=1,
        passIndex=0,
        targetNestingLevel=1,
    )
    return data


def _one_pass(call: Call, run: Run) -> bool:
    """Returns whether it was the last pass."""
    with ExitStack() as started:

        def start() -> None:
            call(api.Start)
            started.callback(call, api.Stop)

        run(start)
        started.pop_all()
        return bool(call(api.Stop).isAllPassSubmitted)


@contextmanager
def initialized(library: CuptiLibrary) -> Iterator[None]:
    """CUPTI's profiling part hooked into the driver. Asked about a device before that, libcupti
    13.0 crashes.
    """
    api.call(library, api.Initialize)
    try:
        yield
    finally:
        api.call(library, api.DeInitialize)


def chip_name(library: CuptiLibrary, device: int) -> str:
    """The chip of a CUDA device, such as `GH100` (`cuptiDeviceGetChipName`)."""
    with initialized(library):
        return str(api.call(library, api.GetChipName, deviceIndex=device).pChipName.decode())


def unsupported(library: CuptiLibrary, device: int) -> str | None:
    """None if this device's configuration allows profiling, else one sentence
    (`cuptiProfilerDeviceSupported`).
    """
    with initialized(library):
        found = api.call(library, api.DeviceSupported, cuDevice=device, api=0)
    if found.isSupported == api.SUPPORTED:
        return None
    reasons = ("architecture", "sli", "vGpu", "confidentialCompute", "cmp", "wsl")
    named = ", ".join(name for name in reasons if getattr(found, name) != api.SUPPORTED)
    return f"CUPTI cannot count on this GPU ({named or 'no reason given'})"
