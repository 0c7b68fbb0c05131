"""The few calls of the CUDA driver that xsp makes itself, through the libcuda that the process
already uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from xsp.errors import LevelError, TracingError

_MULTIPROCESSORS, _L2_BYTES = 16, 38
"""`CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT` and `CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE`."""


class CudaDriver:
    """Calls in the CUDA context of the calling thread; each raises TracingError, with the driver's
    name for it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @staticmethod
    @cache
    def loaded() -> CudaDriver:
        """The driver of this machine. Raises LevelError where there is none."""
        try:
            return CudaDriver(ctypes.CDLL("libcuda.so.1"))
        except OSError as error:
            raise LevelError(f"the CUDA driver cannot be loaded ({error})") from error

    def _call(self, name: str, *arguments: Any) -> None:
        result = int(getattr(self._library, name)(*arguments))
        if result:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(result, ctypes.byref(text))
            raise TracingError(f"{name} failed with {(text.value or b'?').decode()} ({result})")

    def current_context(self) -> int:
        """The CUDA context of this thread, 0 if there is none (`cuCtxGetCurrent`)."""
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        return context.value or 0

    @contextmanager
    def current(self, context: int) -> Iterator[None]:
        """A block in which this context is the thread's (`cuCtxPushCurrent`)."""
        self._call("cuCtxPushCurrent_v2", ctypes.c_void_p(context))
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def device(self) -> int:
        """The number of the current context's device (`cuCtxGetDevice`)."""
        device = ctypes.c_int()
        self._call("cuCtxGetDevice", ctypes.byref(device))
        return device.value

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self.device())
        return value.value

    def multiprocessors(self) -> int:
        """Streaming multiprocessors of the current device."""
        return self._attribute(_MULTIPROCESSORS)

    def l2_bytes(self) -> int:
        """Size of the current device's L2 cache."""
        return self._attribute(_L2_BYTES)

    def load(self, ptx: str, function: str) -> tuple[int, int]:
        """A module compiled from PTX, and a function in it (`cuModuleLoadData`,
        `cuModuleGetFunction`).
        """
        module, found = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx.encode()))
        self._call(
            "cuModuleGetFunction", ctypes.byref(found), module, ctypes.c_char_p(function.encode())
        )
        return module.value or 0, found.value or 0

    def unload(self, module: int) -> None:
        """Let go of a module (`cuModuleUnload`)."""
        self._call("cuModuleUnload", ctypes.c_void_p(module))

    def zeros(self, size_bytes: int) -> int:
        """The address of memory on the device, filled with zeros (`cuMemAlloc`, `cuMemsetD8`)."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back (`cuMemFree`)."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def launch(self, function: int, blocks: int, threads: int, *arguments: int) -> None:
        """Run a kernel on the default stream; arguments are 64-bit numbers (`cuLaunchKernel`)."""
        values = [ctypes.c_uint64(value) for value in arguments]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        grid, block, shared_bytes = (blocks, 1, 1), (threads, 1, 1), 0
        shape = map(ctypes.c_uint, (*grid, *block, shared_bytes))
        self._call("cuLaunchKernel", ctypes.c_void_p(function), *shape, None, addresses, None)

    def synchronize(self) -> None:
        """Wait for everything in the context (`cuCtxSynchronize`)."""
        self._call("cuCtxSynchronize")
