"""Kernel names: from pointers in CUPTI's records to demangled text, each distinct one once."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import numpy.typing as npt

UNNAMED = "unnamed kernel"


@cache
def demangle(name: str) -> str:
    """A C++ symbol as its declaration; any other name, or one that cannot be read, as it is
    (`__cxa_demangle`).
    """
    if not name.startswith("_Z"):
        return name
    try:
        runtime = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return name
    runtime.__cxa_demangle.restype = ctypes.c_void_p
    status = ctypes.c_int(-1)
    text = runtime.__cxa_demangle(name.encode(), None, None, ctypes.byref(status))
    if status.value != 0 or not text:
        return name
    try:
        return ctypes.string_at(text).decode(errors="replace")
    finally:
        libc = ctypes.CDLL(None)
        libc.free.argtypes = [ctypes.c_void_p]
        libc.free(text)


class NameTable:
    """Names in order of their first appearance; a row of `DEVICE_ACTIVITY` holds an index into
    `names`.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, name: str) -> int:
        """The index of a name, which is added if it is new."""
        found = self._index.setdefault(name, len(self.names))
        if found == len(self.names):
            self.names.append(name)
        return found

    def indices_of_pointers(self, pointers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Indices of the demangled C strings at these addresses, which must still be valid.

        Addresses are not remembered: once a module is unloaded, its strings' places can be taken by
        others.
        """
        distinct, inverse = np.unique(pointers, return_inverse=True)
        indices = [self.index(_text_at(int(pointer))) for pointer in distinct]
        return np.array(indices, np.int32)[inverse] if indices else np.zeros(0, np.int32)


def _text_at(pointer: int) -> str:
    return demangle(ctypes.string_at(pointer).decode(errors="replace")) if pointer else UNNAMED
