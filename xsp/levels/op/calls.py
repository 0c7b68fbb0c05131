"""The C functions of operators.c as Python sees them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.levels import _native

RECORD = np.dtype(
    [
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        ("name", "u4"),
        ("thread", "u4"),
        ("run", "u4"),
        ("unused", "u4"),
    ]
)
"""`struct record` in operators.c."""


def functions() -> ctypes.CDLL:
    """The native library with the prototypes of the functions for operators set.

    Raises:
        LevelError: the native part is missing.

    """
    native = _native.load()
    native.xsp_operators_start.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
    native.xsp_operators_stop.restype = None
    native.xsp_operators_collect.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    native.xsp_operators_collect.restype = ctypes.c_int64
    native.xsp_operators_take_lost.restype = ctypes.c_int64
    native.xsp_operators_names.restype = ctypes.c_uint32
    native.xsp_operators_name.argtypes = [ctypes.c_uint32]
    native.xsp_operators_name.restype = ctypes.c_char_p
    return native


def collect(native: ctypes.CDLL) -> npt.NDArray[Any]:
    """All finished records, of dtype `RECORD`, thread by thread. Only while recording is
    stopped.
    """
    room = native.xsp_operators_collect(None, 0)
    records = np.empty(room, RECORD)
    return records[: native.xsp_operators_collect(records.ctypes.data, room)]
