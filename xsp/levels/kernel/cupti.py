"""CUPTI, as the rest of xsp sees it.

Names, enumerations and record layouts come from cupti-python. Calls go to the libcupti that the
process already loaded, because a second copy would fight the first over the GPU's only tracing
facility; cupti-python looks for a library of its own choice and asks for a driver first, so its
wrappers are not used for calls.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xsp.errors import LevelError, TracingError
from xsp.types import ApiDomain

LAYOUTS = {
    "CONCURRENT_KERNEL": "kernel",
    "MEMCPY": "memcpy",
    "MEMCPY2": "memcpy_pto_p",
    "MEMSET": "memset",
    "RUNTIME": "api",
    "DRIVER": "api",
    "SYNCHRONIZATION": "synchronization",
}
"""Activity kinds by name in the order in which they are enabled, with the stem of their layout in
cupti-python.
"""

QUERIES = frozenset(
    {
        "cudaGetDevice",
        "cudaGetLastError",
        "cudaPeekAtLastError",
        "cudaGetErrorString",
        "cudaGetErrorName",
        "cudaDeviceGetAttribute",
        "cudaStreamIsCapturing",
        "cudaStreamGetCaptureInfo",
        "cuDevicePrimaryCtxGetState",
        "cuCtxGetCurrent",
        "cuCtxGetDevice",
        "cuCtxGetLimit",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDriverGetVersion",
        "cuGetErrorString",
        "cuGetErrorName",
        "cuKernelGetName",
        "cuKernelGetAttribute",
        "cuKernelSetAttribute",
        "cuKernelGetFunction",
        "cuFuncGetAttribute",
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    }
)
"""API functions that only ask. They take 0.1 to 1 us and come by the thousand: 4,000 in a ResNet-50
forward of 340 kernels. Recording them costs more than all launches together, and nobody reads
them."""

_REMEDIES = {
    "INSUFFICIENT_PRIVILEGES": "ask the administrator for access to GPU profiling (NVIDIA: "
    "ERR_NVGPUCTRPERM)",
    "VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES": "ask the administrator to allow tracing on this "
    "virtual GPU",
    "MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED": "end the other profiler in this process (nsys, ncu, "
    "torch.profiler, Proton)",
    "NOT_COMPATIBLE": "end the other profiler in this process (nsys, ncu, torch.profiler, Proton)",
    "HARDWARE_BUSY": "end the other profiler that uses this GPU",
    "NOT_INITIALIZED": "check that the NVIDIA driver is installed and recent enough for this CUDA "
    "version",
    "CONFIDENTIAL_COMPUTING_NOT_SUPPORTED": "trace on a GPU that is not in confidential computing "
    "mode",
    "MIG_DEVICE_NOT_SUPPORTED": "trace on a GPU that is not split by MIG",
    "WSL_DEVICE_NOT_SUPPORTED": "trace on Linux rather than in WSL",
}
_OTHER_REMEDY = "see this result code in NVIDIA's CUPTI documentation"


@cache
def bindings() -> Any:
    """The module `cupti.cupti` of cupti-python.

    Raises:
        LevelError: cupti-python is not installed, or is damaged.

    """
    try:
        return importlib.import_module("cupti.cupti")
    except ImportError as error:
        msg = f'cupti-python cannot be imported ({error}): pip install "xsp[{_extra()}]"'
        raise LevelError(msg) from error


def _extra() -> str:
    import torch

    return f"cuda{(torch.version.cuda or '13').split('.')[0]}"


def kind(name: str) -> int:
    """The activity kind of this name (`CUpti_ActivityKind`)."""
    return int(bindings().ActivityKind[name])


@cache
def layout(kind_name: str) -> np.dtype[Any]:
    """The record of an activity kind as a numpy dtype, in the version that this cupti-python
    describes.
    """
    pattern = re.compile(rf"activity_{LAYOUTS[kind_name]}(\d*)_dtype")
    versions = {
        int(found[1] or 0): name for name in dir(bindings()) if (found := pattern.fullmatch(name))
    }
    if not versions:
        way_out = f'pip install "xsp[{_extra()}]"'
        msg = f"cupti-python {_version()} describes no {kind_name} record: {way_out}"
        raise LevelError(msg)
    dtype: np.dtype[Any] = getattr(bindings(), versions[max(versions)])
    return dtype


def _version() -> str:
    return importlib.metadata.version("cupti-python")


@cache
def api_name(domain: int, cbid: int) -> str:
    """The name of an API function as it is written in a program, such as `cudaLaunchKernel`.

    The version of its first appearance (`_v7000`) is left out; `_ptsz`, which marks the variant for
    the per-thread default stream, stays. A number that cupti-python does not know gives
    `cuda #<cbid>` or `cu #<cbid>`.
    """
    runtime = domain == ApiDomain.RUNTIME
    functions = bindings().runtime_api_trace_cbid if runtime else bindings().driver_api_trace_cbid
    try:
        return re.sub(r"_v\d{4,}$", "", functions(cbid).name)
    except ValueError:
        return f"{'cuda' if runtime else 'cu'} #{cbid}"


@cache
def queries() -> tuple[tuple[ApiDomain, int], ...]:
    """Domain and callback id of every function in QUERIES, in all its versions."""
    tables = (
        (ApiDomain.RUNTIME, bindings().runtime_api_trace_cbid),
        (ApiDomain.DRIVER, bindings().driver_api_trace_cbid),
    )
    return tuple(
        (domain, int(one))
        for domain, table in tables
        for one in table
        if api_name(domain, int(one)) in QUERIES
    )


@cache
def copy_name(copy_kind: int) -> str:
    """A memory copy by its direction, such as `memcpy HtoD` (`CUpti_ActivityMemcpyKind`)."""
    try:
        source, _, target = bindings().ActivityMemcpyKind(copy_kind).name.partition("TO")
    except ValueError:
        return f"memcpy #{copy_kind}"
    return f"memcpy {source}to{target}" if target else "memcpy"


def find_loaded() -> list[Path]:
    """Every libcupti that this process has loaded; torch with CUDA brings one in when imported."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = re.findall(r"/\S+/libcupti\.so[.\d]*$", maps.read_text(), re.MULTILINE)
    return [Path(path) for path in dict.fromkeys(paths)]


class CuptiLibrary:
    """Control calls to one libcupti; each checks CUPTI's return code.

    Every method raises TracingError, with the call, the result and a way out, if CUPTI refuses.
    """

    def __init__(self, path: str | os.PathLike[str], *, only_if_loaded: bool = False) -> None:
        mode = os.RTLD_NOLOAD if only_if_loaded else ctypes.DEFAULT_MODE
        self.path = Path(path)
        self._library = ctypes.CDLL(str(path), mode=mode)

    @staticmethod
    @cache
    def loaded() -> CuptiLibrary:
        """The libcupti that torch loaded; the same object every time.

        Raises:
            LevelError: this process has loaded none, or several, of which torch uses nobody knows
            which.

        """
        paths = find_loaded()
        if not paths:
            msg = (
                "torch loaded no libcupti, so it was built without its profiler: install a CUDA "
                "build of torch"
            )
            raise LevelError(msg)
        if len(paths) > 1:
            copies = " and ".join(str(path) for path in paths)
            msg = (
                f"this process loaded {len(paths)} copies of libcupti ({copies}): import only "
                "one tool that brings its own"
            )
            raise LevelError(msg)
        return CuptiLibrary(paths[0], only_if_loaded=True)

    def call(self, name: str, *arguments: Any) -> None:
        """Make one of CUPTI's calls."""
        result = int(getattr(self._library, name)(*arguments))
        if result:
            raise TracingError(self.refusal(name, result))

    def result(self, name: str, parameters: ctypes.Structure) -> int:
        """CUPTI's result of a call that takes one structure; 0 is success.

        Raises LevelError if this libcupti has no such function.
        """
        try:
            return int(getattr(self._library, name)(ctypes.byref(parameters)))
        except AttributeError as error:
            msg = (
                f"{self.path} has no function {name}: hardware counters need the libcupti of CUDA "
                "12.6 or later"
            )
            raise LevelError(msg) from error

    def refusal(self, name: str, result: int) -> str:
        """The sentence about a call that failed: the call, the result and a way out."""
        text = ctypes.c_char_p()
        self._library.cuptiGetResultString(result, ctypes.byref(text))
        result_name = (text.value or b"?").decode()
        remedy = _REMEDIES.get(re.sub(r"^CUPTI_ERROR_", "", result_name), _OTHER_REMEDY)
        return f"{name} failed with {result_name} ({result}): {remedy}"

    def version(self) -> int:
        """The CUPTI API version (`cuptiGetVersion`): 130001 means CUDA 13.0 update 1, 26 means CUDA
        12.8.
        """
        version = ctypes.c_uint32()
        self.call("cuptiGetVersion", ctypes.byref(version))
        return version.value

    def context_id(self, context: int) -> int:
        """The number by which records name a CUDA context (`cuptiGetContextId`)."""
        found = ctypes.c_uint32()
        self.call("cuptiGetContextId", ctypes.c_void_p(context), ctypes.byref(found))
        return found.value

    def graph_id(self, executable: int) -> int:
        """The number by which records name an executable graph (`cuptiGetGraphExecId`)."""
        found = ctypes.c_uint32()
        self.call("cuptiGetGraphExecId", ctypes.c_void_p(executable), ctypes.byref(found))
        return found.value

    def timestamp(self) -> int:
        """CUPTI's clock now, in ns (`cuptiGetTimestamp`); the clock of the records."""
        stamp = ctypes.c_uint64()
        self.call("cuptiGetTimestamp", ctypes.byref(stamp))
        return stamp.value

    def enable(self, activity_kind: int) -> None:
        """Begin to record an activity kind in every context (`cuptiActivityEnable`)."""
        self.call("cuptiActivityEnable", activity_kind)

    def disable(self, activity_kind: int) -> None:
        """Stop recording an activity kind (`cuptiActivityDisable`)."""
        self.call("cuptiActivityDisable", activity_kind)

    def record_api(self, domain: ApiDomain, cbid: int, on: bool) -> None:
        """Record one API function or not (`cuptiActivityEnableRuntimeApi`,
        `cuptiActivityEnableDriverApi`).

        Takes effect only while the whole kind is enabled, and outlasts it.
        """
        name = "Runtime" if domain is ApiDomain.RUNTIME else "Driver"
        self.call(f"cuptiActivityEnable{name}Api", ctypes.c_uint32(cbid), ctypes.c_uint8(on))

    def flush(self) -> None:
        """Have CUPTI return every buffer, also with incomplete records (`cuptiActivityFlushAll`,
        forced).

        A record that is handed over incomplete is never delivered again: synchronise with the GPU
        first.
        """
        self.call("cuptiActivityFlushAll", ctypes.c_uint32(1))

    def register_buffer_callbacks(self, requested: int, completed: int) -> None:
        """Let CUPTI take and return buffers through these C functions
        (`cuptiActivityRegisterCallbacks`).
        """
        self.call(
            "cuptiActivityRegisterCallbacks", ctypes.c_void_p(requested), ctypes.c_void_p(completed)
        )

    def register_clock(self, clock: int) -> None:
        """Let CUPTI read the time from this C function
        (`cuptiActivityRegisterTimestampCallback`).
        """
        self.call("cuptiActivityRegisterTimestampCallback", ctypes.c_void_p(clock))

    def take_dropped_records(self) -> int:
        """Records dropped for want of a buffer since the last call
        (`cuptiActivityGetNumDroppedRecords`).

        Buffers are global since CUDA 6.0, so there is one count, that of the NULL context.
        """
        dropped = ctypes.c_size_t()
        self.call(
            "cuptiActivityGetNumDroppedRecords", None, ctypes.c_uint32(0), ctypes.byref(dropped)
        )
        return dropped.value

    def thread_id_type(self) -> str:
        """`DEFAULT` if records tell threads by `pthread_self`, `SYSTEM` if by `gettid`
        (`cuptiGetThreadIdType`).
        """
        found = ctypes.c_int()
        self.call("cuptiGetThreadIdType", ctypes.byref(found))
        name: str = bindings().ActivityThreadIdType(found.value).name
        return name

    @property
    def next_record(self) -> int:
        """The address of `cuptiActivityGetNextRecord`."""
        address = ctypes.cast(self._library.cuptiActivityGetNextRecord, ctypes.c_void_p).value
        assert address is not None  # noqa: S101 - a symbol that was found has an address
        return address

    def record_bytes(self, activity_kind: int) -> int:
        """The size of a record in this very libcupti: how far apart it sees two records of one
        kind.

        The kind is a record's first field, and the buffer holds it at every place where a record
        can begin.
        """
        words = np.zeros(512, np.uint64)
        words[:] = activity_kind
        start, size = words.ctypes.data, ctypes.c_size_t(words.nbytes)
        record = ctypes.c_void_p()
        for _ in range(2):
            self.call(
                "cuptiActivityGetNextRecord", ctypes.c_void_p(start), size, ctypes.byref(record)
            )
        return (record.value or start) - start

    def layout_mismatch(self) -> str | None:
        """None if every record has the size that cupti-python gives it, else one sentence.

        Record layouts grow with CUPTI's versions; read with another version's layout, times would
        be garbage.
        """
        for name in LAYOUTS:
            found, described = self.record_bytes(kind(name)), layout(name).itemsize
            if found != described:
                return (
                    f"libcupti (API {self.version()}, {self.path}) writes {name} records of "
                    f"{found} bytes, "
                    f"cupti-python {_version()} describes {described}: install the cupti-python of "
                    "the CUDA version "
                    f'that torch was built with (pip install "xsp[{_extra()}]")'
                )
        return None
