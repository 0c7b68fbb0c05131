"""The C functions of launches.c as Python sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from xsp.levels import _native

ACTIONS = 2
NAME_BYTES = 24
_NAME_ROOM = 1 << 16
_NO_NAME = 0xFFFFFFFF


class Action(ctypes.Structure):
    """A call of libcupti: a function's address and that of its one parameter."""

    _fields_: ClassVar = [("function", ctypes.c_void_p), ("parameters", ctypes.c_void_p)]


class Watch(ctypes.Structure):
    """A plan and what became of it; `struct watch` in launches.c."""

    _fields_: ClassVar = [
        ("wanted", ctypes.c_void_p),
        ("name_of", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("planned", ctypes.c_uint64),
        ("name_room", ctypes.c_uint64),
        ("open", Action * ACTIONS),
        ("close", Action * ACTIONS),
        ("range_name", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("join", ctypes.c_uint32),
        ("graph_cbids", ctypes.c_uint32 * 2),
        ("launches", ctypes.c_uint64),
        ("opened", ctypes.c_uint64),
        ("graphs", ctypes.c_uint64),
        ("foreign", ctypes.c_uint64),
        ("overlaps", ctypes.c_uint64),
        ("unnamed", ctypes.c_uint64),
        ("name_count", ctypes.c_uint64),
        ("result", ctypes.c_int32),
        ("is_open", ctypes.c_uint32),
        ("failed_at", ctypes.c_uint64),
        ("failed_function", ctypes.c_void_p),
    ]
    name_count: int


@dataclass(frozen=True)
class Seen:
    """What the launches were.

    `names` are the mangled kernel names of the first launches, as many as were planned ("" where there was none);
    `launches` counts all of them, `opened` the measurements, `graphs` launches of CUDA graphs, `foreign` launches in
    another context, `overlaps` launches that began while another thread's was under way. `result` is CUPTI's for the
    call of the function at address `failed_function` that failed around launch `failed_at`; 0 if none did.
    """

    names: list[str]
    launches: int
    opened: int
    graphs: int
    foreign: int
    overlaps: int
    result: int
    failed_at: int
    failed_function: int


class LaunchWatch:
    """Counts launches, and opens and closes a measurement around the wanted ones.

    Args:
        wanted: one truth value for each launch that is expected, in order.
        context: the CUDA context that is measured.
        open_with: calls that open a measurement, (function's address, parameter's address) each; at most ACTIONS.
        close_with: calls that close it.
        join: leave a measurement open from one wanted launch to the next if they are neighbours.
        graph_cbids: callback ids of graph launches.

    """

    def __init__(
        self,
        wanted: npt.NDArray[np.bool_],
        context: int,
        open_with: Sequence[tuple[int, int]] = (),
        close_with: Sequence[tuple[int, int]] = (),
        *,
        join: bool = True,
        graph_cbids: Sequence[int] = (),
    ) -> None:
        self._native = _native.load()
        self._wanted = np.ascontiguousarray(wanted, np.uint8)
        self._name_of = np.full(len(wanted), _NO_NAME, np.uint32)
        self._names = (ctypes.c_char_p * _NAME_ROOM)()
        self.range_name = ctypes.create_string_buffer(NAME_BYTES)
        self._watch = Watch(
            wanted=self._wanted.ctypes.data,
            name_of=self._name_of.ctypes.data,
            names=ctypes.addressof(self._names),
            planned=len(wanted),
            name_room=_NAME_ROOM,
            open=(Action * ACTIONS)(*(Action(*call) for call in open_with)),
            close=(Action * ACTIONS)(*(Action(*call) for call in close_with)),
            range_name=ctypes.addressof(self.range_name),
            context=context,
            join=join,
            graph_cbids=(ctypes.c_uint32 * 2)(*graph_cbids),
        )

    @property
    def callback(self) -> int:
        """The address of the C function for `cuptiSubscribe`."""
        return _address(self._native.xsp_launch)

    @property
    def user_data(self) -> int:
        """The address that `callback` needs as user data."""
        return ctypes.addressof(self._watch)

    def end(self) -> Seen:
        """Close what is still open and tell what was seen; call it once, after the subscriber is gone."""
        watch = self._watch
        self._native.xsp_launches_end(ctypes.byref(watch))
        distinct = [(self._names[index] or b"").decode(errors="replace") for index in range(watch.name_count)]
        self._native.xsp_launches_free_names(ctypes.byref(watch))
        names = [distinct[index] if index != _NO_NAME else "" for index in self._name_of.tolist()]
        counts = {field: int(getattr(watch, field) or 0) for field in Seen.__dataclass_fields__ if field != "names"}
        return Seen(names=names, **counts)


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None  # noqa: S101 - a symbol that was found has an address
    return address
