"""Counters of kernels through CUPTI's Range Profiler: one configuration, one stretch of measuring, values per range."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import LevelError, TracingError
from xsp.levels import profiler_calls as api
from xsp.levels.cupti import CuptiLibrary


@dataclass(frozen=True)
class Configuration:
    """Metrics that are measured together: CUPTI's image for them, and the passes over each kernel that they need."""

    metrics: tuple[str, ...]
    image: ctypes.Array[ctypes.c_char]
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
            size = api.call(self.library, api.HostGetConfigImageSize, pHostObject=host).configImageSize
            image = ctypes.create_string_buffer(size)
            place = {"configImageSize": size, "pConfigImage": ctypes.addressof(image)}
            api.call(self.library, api.HostGetConfigImage, pHostObject=host, **place)
            passes = api.call(self.library, api.HostGetNumOfPasses, **place).numOfPasses
        return Configuration(tuple(metrics), image, passes)

    def base_metrics(self) -> list[str]:
        """Names of the counters of this chip, without the suffix (`.sum`) that a metric's name has."""
        with self._host() as host:
            found = api.call(self.library, api.HostGetBaseMetrics, pHostObject=host, metricType=0)
            return [found.ppMetricNames[index].decode() for index in range(found.numMetrics)]

    def values(self, metrics: Sequence[str], data: ctypes.Array[ctypes.c_char]) -> npt.NDArray[np.float64]:
        """Values in a counter data image: a row per range in order of measuring, a column per metric."""
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
            self.library, api.HostInitialize, profilerType=api.RANGE_PROFILER, pChipName=self.chip.encode()
        ).pHostObject
        try:
            yield host
        finally:
            api.call(self.library, api.HostDeinitialize, pHostObject=host)


class RangeProfiler:
    """The Range Profiler on one CUDA context, enabled; use as a context manager."""

    def __init__(self, library: CuptiLibrary, context: int) -> None:
        self.library = library
        self.context = context
        self._object = 0

    def __enter__(self) -> RangeProfiler:
        with ExitStack() as undo:
            undo.enter_context(initialized(self.library))
            self._object = api.call(self.library, api.Enable, ctx=self.context).pRangeProfilerObject
            self._undo = undo.pop_all()
            self._undo.callback(api.call, self.library, api.Disable, pRangeProfilerObject=self._object)
        return self

    def __exit__(self, *_error: object) -> None:
        self._undo.close()

    def configure(
        self, configuration: Configuration, ranges: int, kind: int, replay: int
    ) -> ctypes.Array[ctypes.c_char]:
        """Prepare to measure up to this many ranges; gives the counter data image that receives them."""
        names = api.texts(configuration.metrics)
        size = self._call(
            api.GetCounterDataSize,
            pMetricNames=names,
            numMetrics=len(names),
            maxNumOfRanges=ranges,
            maxNumRangeTreeNodes=ranges,
        ).counterDataSize
        data = ctypes.create_string_buffer(size)
        self._call(api.CounterDataImageInitialize, counterDataSize=size, pCounterData=ctypes.addressof(data))
        self._call(
            api.SetConfig,
            configSize=len(configuration.image),
            pConfig=ctypes.addressof(configuration.image),
            counterDataImageSize=size,
            pCounterDataImage=ctypes.addressof(data),
            range=kind,
            replayMode=replay,
            maxRangesPerPass=ranges,
            numNestingLevels=1,
            minNestingLevel=1,
            passIndex=0,
            targetNestingLevel=1,
        )
        return data

    def start(self) -> None:
        """Measure from here on."""
        self._call(api.Start)

    def stop(self) -> bool:
        """Returns whether every pass was submitted."""
        return bool(self._call(api.Stop).isAllPassSubmitted)

    def decode(self) -> int:
        """Returns how many ranges were dropped."""
        return int(self._call(api.DecodeData).numOfRangeDropped)

    def parameters(self, kind: type[api.Parameters], **values: object) -> api.Parameters:
        """A structure with this profiler in it, for calls that C makes."""
        return kind(pRangeProfilerObject=self._object, **values)

    def _call(self, kind: type[api.Parameters], **values: object) -> Any:
        return api.call(self.library, kind, pRangeProfilerObject=self._object, **values)


@contextmanager
def initialized(library: CuptiLibrary) -> Iterator[None]:
    """CUPTI's profiling part hooked into the driver. Asked about a device before that, libcupti 13.0 crashes."""
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
    """None if this device's configuration allows profiling, else one sentence (`cuptiProfilerDeviceSupported`)."""
    with initialized(library):
        found = api.call(library, api.DeviceSupported, cuDevice=device, api=0)
    if found.isSupported == api.SUPPORTED:
        return None
    reasons = ("architecture", "sli", "vGpu", "confidentialCompute", "cmp", "wsl")
    named = ", ".join(name for name in reasons if getattr(found, name) != api.SUPPORTED)
    return f"CUPTI cannot count on this GPU ({named or 'no reason given'})"


def current_context() -> int:
    """The CUDA context of this thread."""
    context = ctypes.c_void_p()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise LevelError(f"the CUDA driver cannot be loaded ({error})") from error
    driver.cuCtxGetCurrent(ctypes.byref(context))
    return context.value or 0
