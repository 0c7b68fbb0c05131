"""Parameters of CUPTI's profiling functions, and the calls.

Each of these functions takes one structure that begins with its own size, by which CUPTI tells what
version of it the caller knows. The fields are those of the headers `cupti_profiler_target.h`,
`cupti_profiler_host.h`, `cupti_range_profiler.h` and `cupti_target.h` of CUDA 12.6 and later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

from xsp.errors import TracingError
from xsp.levels.kernel.cupti import CuptiLibrary

RANGE_PROFILER = 0
"""`CUPTI_PROFILER_TYPE_RANGE_PROFILER`."""

AUTO_RANGE = 1
"""`CUPTI_AutoRange`: a range for every kernel."""

USER_REPLAY = 3
"""`CUPTI_UserReplay`: the program is run again for every pass."""

SUPPORTED = 3
"""`CUPTI_PROFILER_CONFIGURATION_SUPPORTED`."""

INVALID_PARAMETER, INVALID_METRIC_NAME = 1, 17
"""What CUPTI answers to a metric that the chip does not have."""

_SIZE, _POINTER, _TEXT, _INT = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_TEXTS = ctypes.POINTER(_TEXT)


class Parameters(ctypes.Structure):
    """The common beginning; `function` is the name of the CUPTI function that takes the
    structure.
    """

    function: ClassVar[str]
    _fields_: ClassVar = [("structSize", _SIZE), ("pPriv", _POINTER)]

    def __init__(self, **values: Any) -> None:
        fields = [
            field
            for kind in reversed(type(self).__mro__)
            for field in getattr(kind, "__dict__", {}).get("_fields_", ())
        ]
        name, last = fields[-1][0], fields[-1][1]
        super().__init__(getattr(type(self), name).offset + ctypes.sizeof(last), **values)


def _parameters(function: str, *fields: tuple[str, Any]) -> type[Parameters]:
    return type(function, (Parameters,), {"function": function, "_fields_": list(fields)})


Initialize = _parameters("cuptiProfilerInitialize")
DeInitialize = _parameters("cuptiProfilerDeInitialize")
GetChipName = _parameters("cuptiDeviceGetChipName", ("deviceIndex", _SIZE), ("pChipName", _TEXT))
DeviceSupported = _parameters(
    "cuptiProfilerDeviceSupported",
    ("cuDevice", _INT),
    *(
        (name, _INT)
        for name in (
            "isSupported",
            "architecture",
            "sli",
            "vGpu",
            "confidentialCompute",
            "cmp",
            "wsl",
        )
    ),
    ("api", _INT),
)

_HOST = ("pHostObject", _POINTER)
_METRICS = (("ppMetricNames", _TEXTS), ("numMetrics", _SIZE))
HostInitialize = _parameters(
    "cuptiProfilerHostInitialize",
    ("profilerType", _INT),
    ("pChipName", _TEXT),
    ("pCounterAvailabilityImage", _POINTER),
    _HOST,
)
HostDeinitialize = _parameters("cuptiProfilerHostDeinitialize", _HOST)
HostGetBaseMetrics = _parameters(
    "cuptiProfilerHostGetBaseMetrics", _HOST, ("metricType", _INT), *_METRICS
)
HostConfigAddMetrics = _parameters("cuptiProfilerHostConfigAddMetrics", _HOST, *_METRICS)
HostGetConfigImageSize = _parameters(
    "cuptiProfilerHostGetConfigImageSize", _HOST, ("configImageSize", _SIZE)
)
HostGetConfigImage = _parameters(
    "cuptiProfilerHostGetConfigImage", _HOST, ("configImageSize", _SIZE), ("pConfigImage", _POINTER)
)
HostGetNumOfPasses = _parameters(
    "cuptiProfilerHostGetNumOfPasses",
    ("configImageSize", _SIZE),
    ("pConfigImage", _POINTER),
    ("numOfPasses", _SIZE),
)
HostEvaluateToGpuValues = _parameters(
    "cuptiProfilerHostEvaluateToGpuValues",
    _HOST,
    ("pCounterDataImage", _POINTER),
    ("counterDataImageSize", _SIZE),
    ("rangeIndex", _SIZE),
    *_METRICS,
    ("pMetricValues", _POINTER),
)

_RANGE = ("pRangeProfilerObject", _POINTER)
Enable = _parameters("cuptiRangeProfilerEnable", ("ctx", _POINTER), _RANGE)
Disable = _parameters("cuptiRangeProfilerDisable", _RANGE)
Start = _parameters("cuptiRangeProfilerStart", _RANGE)
Stop = _parameters(
    "cuptiRangeProfilerStop",
    _RANGE,
    ("passIndex", _SIZE),
    ("targetNestingLevel", _SIZE),
    ("isAllPassSubmitted", ctypes.c_uint8),
)
DecodeData = _parameters("cuptiRangeProfilerDecodeData", _RANGE, ("numOfRangeDropped", _SIZE))
SetConfig = _parameters(
    "cuptiRangeProfilerSetConfig",
    _RANGE,
    ("configSize", _SIZE),
    ("pConfig", _POINTER),
    ("counterDataImageSize", _SIZE),
    ("pCounterDataImage", _POINTER),
    ("range", _INT),
    ("replayMode", _INT),
    ("maxRangesPerPass", _SIZE),
    ("numNestingLevels", ctypes.c_uint16),
    ("minNestingLevel", ctypes.c_uint16),
    ("passIndex", _SIZE),
    ("targetNestingLevel", ctypes.c_uint16),
)
GetCounterDataSize = _parameters(
    "cuptiRangeProfilerGetCounterDataSize",
    _RANGE,
    ("pMetricNames", _TEXTS),
    ("numMetrics", _SIZE),
    ("maxNumOfRanges", _SIZE),
    ("maxNumRangeTreeNodes", ctypes.c_uint32),
    ("counterDataSize", _SIZE),
)
CounterDataImageInitialize = _parameters(
    "cuptiRangeProfilerCounterDataImageInitialize",
    _RANGE,
    ("counterDataSize", _SIZE),
    ("pCounterData", _POINTER),
)
GetCounterDataInfo = _parameters(
    "cuptiRangeProfilerGetCounterDataInfo",
    ("pCounterDataImage", _POINTER),
    ("counterDataImageSize", _SIZE),
    ("numTotalRanges", _SIZE),
)


def texts(names: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """An array of C strings."""
    return (_TEXT * len(names))(*(name.encode() for name in names))


def call(library: CuptiLibrary, kind: type[Parameters], **values: Any) -> Any:
    """Make the call that takes `kind` and return its structure, with what CUPTI filled in.

    Raises TracingError, with the call, the result and a way out, if CUPTI refuses.
    """
    parameters = kind(**values)
    result = library.result(kind.function, parameters)
    if result:
        raise TracingError(library.refusal(kind.function, result))
    return parameters
