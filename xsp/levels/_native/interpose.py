"""The C functions of slots.c and calls.c as Python sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.levels import _native

KEPT = 8
"""Arguments kept per call, the width of `LIBRARY_EVENTS["arguments"]`."""

RECORD = np.dtype(
    [
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        ("arguments", "i8", (KEPT,)),
        ("thread", "u4"),
        ("run", "u4"),
        ("sequence", "u4"),
        ("stub", "u4"),
    ]
)
"""`struct xsp_record` in interpose.h."""

live_callback_type = ctypes.CFUNCTYPE(
    None,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint64),
)


def functions() -> ctypes.CDLL:
    """The native library with the prototypes of the interposition functions set.

    Raises:
        LevelError: the native part is missing.

    """
    native = _native.load()
    native.xsp_interpose_start.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    native.xsp_interpose_name.restype = ctypes.c_char_p
    native.xsp_interpose_real.restype = ctypes.c_void_p
    native.xsp_interpose_collect.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    native.xsp_interpose_collect.restype = ctypes.c_int64
    native.xsp_interpose_take_lost.restype = ctypes.c_int64
    native.xsp_interpose_describe.argtypes = [ctypes.c_int] * 4 + [ctypes.c_char_p] * 2
    return native


def describe(
    native: ctypes.CDLL, stub: int, traced: bool, live: bool, kept: Sequence[tuple[int, int]]
) -> None:
    """Say what to do with calls of a stub's symbol: `kept` holds (position, bits) of the arguments
    to record.
    """
    positions = bytes(position for position, _ in kept)
    wide = bytes(bits == 64 for _, bits in kept)
    native.xsp_interpose_describe(stub, traced, live, len(kept), positions, wide)


def collect(native: ctypes.CDLL) -> npt.NDArray[Any]:
    """All finished records, of dtype `RECORD`, thread by thread. Only while recording is
    stopped.
    """
    room = native.xsp_interpose_collect(None, 0)
    records = np.empty(room, RECORD)
    return records[: native.xsp_interpose_collect(records.ctypes.data, room)]


def file_of(address: int) -> str | None:
    """Path of the loaded object that an address belongs to (`dladdr`)."""
    info = (ctypes.c_void_p * 4)()  # Dl_info: file name, base, symbol name, symbol address
    known = ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), info)
    return ctypes.string_at(info[0]).decode() if known and info[0] else None
