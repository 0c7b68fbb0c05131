"""Being told by CUPTI of the calls that a program makes to the CUDA driver."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from xsp.errors import LevelError, TracingError
from xsp.levels.kernel.cupti import CuptiLibrary, bindings

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
"""`CUpti_CallbackFunc`: user data, domain, callback id, `CUpti_CallbackData`."""


@cache
def launches() -> tuple[int, ...]:
    """Callback ids of the driver's functions that launch a kernel, under which the runtime's end
    too.
    """
    pattern = re.compile(
        r"cuLaunch(Grid|GridAsync|Kernel|KernelEx|CooperativeKernel|CooperativeKernelMultiDevice)?"
    )
    functions = bindings().driver_api_trace_cbid
    return tuple(int(one) for one in functions if pattern.fullmatch(one.name.removesuffix("_ptsz")))


@contextmanager
def told_of(
    library: CuptiLibrary, functions: Sequence[int], before: Callable[[], None]
) -> Iterator[None]:
    """Call `before` in the thread that calls one of these driver functions, before the driver does
    anything.

    `before` must not raise. Raises LevelError if another profiler is told already, TracingError if
    CUPTI refuses else.
    """
    enter, domain = (
        int(bindings().ApiCallbackSite.API_ENTER),
        int(bindings().CallbackDomain.DRIVER_API),
    )

    def told(_data: int | None, _domain: int, _function: int, call: int) -> None:
        # The site is the first field of CUpti_CallbackData.
        if ctypes.c_int.from_address(call).value == enter:
            before()

    callback, subscriber = _Callback(told), ctypes.c_void_p()
    try:
        library.call("cuptiSubscribe", ctypes.byref(subscriber), callback, None)
    except TracingError as error:
        raise LevelError(
            f"{error}. torch.profiler stays subscribed to CUPTI once a process has used it, and "
            "xsp uses it at the end of every profile: run this profile in a new process"
        ) from error
    try:
        for function in functions:
            library.call(
                "cuptiEnableCallback",
                ctypes.c_uint32(1),
                subscriber,
                domain,
                ctypes.c_uint32(function),
            )
        yield
    finally:
        library.call("cuptiUnsubscribe", subscriber)
