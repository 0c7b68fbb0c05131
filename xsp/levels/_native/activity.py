"""The C functions of activity.c as Python sees them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from xsp.errors import TracingError
from xsp.levels import _native

BUFFER_BYTES = 4 << 20
"""CUPTI recommends buffers of 1 to 10 MB; one of 4 MiB holds about 80 000 records."""

KEPT_BUFFERS = 8
BUFFER_LIMIT = 256
"""1 GiB of records at most between two collections; beyond it records are dropped and counted."""


class State(ctypes.Structure):
    """Buffers by state, and how often a buffer was refused or came from another tool, since
    `prepare`.
    """

    _fields_: ClassVar = [
        (name, ctypes.c_uint64) for name in ("lent", "full", "declined", "foreign")
    ]
    lent: int
    full: int
    declined: int
    foreign: int


class Slot(ctypes.Structure):
    """One kind of record to keep and the array that receives it."""

    _fields_: ClassVar = [
        ("kind", ctypes.c_uint32),
        ("record_bytes", ctypes.c_uint32),
        ("records", ctypes.c_void_p),
        ("capacity", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    ]
    count: int


class Faults(ctypes.Structure):
    """Records that could not be decoded, by cause; `broken_buffers` counts buffers left
    half read.
    """

    _fields_: ClassVar = [
        (name, ctypes.c_uint64)
        for name in ("short_records", "unknown_kinds", "no_room", "broken_buffers")
    ]
    short_records: int
    unknown_kinds: int
    no_room: int
    broken_buffers: int


Records = dict[int, npt.NDArray[Any]]
"""Structured arrays of raw records by activity kind."""


class ActivityBuffers:
    """The process-wide pool of activity buffers, which CUPTI takes through `requested` and returns
    through `completed`.

    Args:
        buffer_bytes: size of one buffer, a multiple of 4096.
        keep: buffers that stay allocated between sessions.
        limit: buffers at most; when all are full, CUPTI drops records and counts them.

    """

    def __init__(
        self, buffer_bytes: int = BUFFER_BYTES, keep: int = KEPT_BUFFERS, limit: int = BUFFER_LIMIT
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.keep = keep
        self.limit = limit
        native = _native.load()
        native.xsp_activity_prepare.argtypes = [ctypes.c_size_t] * 3
        native.xsp_activity_pending_bytes.restype = ctypes.c_uint64
        native.xsp_activity_state.argtypes = [ctypes.POINTER(State)]
        native.xsp_activity_decode.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.POINTER(Slot),
            ctypes.c_size_t,
            ctypes.POINTER(Faults),
        ]
        self._native = native
        self.requested = _address(native.xsp_activity_buffer_requested)
        self.completed = _address(native.xsp_activity_buffer_completed)
        self.monotonic_clock = _address(native.xsp_activity_clock_monotonic)
        self.realtime_clock = _address(native.xsp_activity_clock_realtime)

    def prepare(self) -> None:
        """Allocate and touch the kept buffers and zero the counters of `state`.

        Raises:
            TracingError: the memory is not there, or CUPTI still holds buffers of another size.

        """
        error = self._native.xsp_activity_prepare(self.buffer_bytes, self.keep, self.limit)
        if error:
            msg = (
                f"{self.keep} to {self.limit} activity buffers of {self.buffer_bytes} bytes "
                f"cannot be allocated ({os.strerror(error)}): free memory, or keep the size of "
                "the session before"
            )
            raise TracingError(msg)

    def state(self) -> State:
        """How many buffers CUPTI holds and how many wait to be decoded."""
        state = State()
        self._native.xsp_activity_state(ctypes.byref(state))
        return state

    def decode(
        self, next_record: int, layouts: Mapping[int, np.dtype[Any]]
    ) -> tuple[Records, Faults]:
        """Take every completed buffer: raw records of the kinds in `layouts`, in order of delivery.

        `next_record` is the address of `cuptiActivityGetNextRecord`. Each array reserves address
        space for the case that all waiting bytes are of its kind; only the pages that are written
        take memory.
        """
        room = self._native.xsp_activity_pending_bytes()
        arrays = {
            kind: np.empty(room // layout.itemsize, layout) for kind, layout in layouts.items()
        }
        slots = (Slot * len(arrays))(
            *(
                Slot(kind, array.itemsize, array.ctypes.data, len(array), 0)
                for kind, array in arrays.items()
            )
        )
        faults = Faults()
        self._native.xsp_activity_decode(next_record, room, slots, len(slots), ctypes.byref(faults))
        return {
            kind: array[: slot.count]
            for (kind, array), slot in zip(arrays.items(), slots, strict=True)
        }, faults


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None  # noqa: S101 - a symbol that was found has an address
    return address
