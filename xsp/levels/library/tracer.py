"""LIBRARY level: calls into cuBLAS, cuBLASLt, cuDNN, cuFFT, cuSPARSE, cuSOLVER and NCCL, with their
arguments.

While recording, the import slots through which PyTorch and its extensions reach these libraries
lead to stubs of xsp's native part, which write one fixed-size record per outermost call; nothing of
Python runs. In a *structure run* the descriptor arguments are decoded as well, through a callback
into Python before each such call.

Not seen: calls of the libraries to themselves and to each other, calls through pointers that a
program got from `dlsym` (CuPy, Triton's own loaders). Calls from a library that was loaded while
recording are not seen either, which counts as one lost call for each run in which it happens.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.capture.run import call_of, within_model
from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.library.enums import ENUMERATIONS
from xsp.levels.library.flops import flops
from xsp.levels.library.launches import count_unrecorded, is_checked, launch_domain
from xsp.levels.library.live import LiveDecoder, callback
from xsp.levels.library.symbols import Parameter, data_type_of, is_traced, library_of, signature_of
from xsp.types import LIBRARY_EVENTS, Columns, Level, Tracer, empty
from xsp.words.slugs import with_slug

__all__ = ["LibraryTracer", "availability", "decode_arguments", "library_of"]

RECORD_LIMIT = 1 << 22
"""Records kept between two collections, 104 bytes each; later calls are counted as lost."""


def availability() -> str | None:
    """None if library calls can be traced here now, else one sentence that says why not and what
    would help.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return (
            f"library calls are intercepted on Linux on x86-64 only; this is {sys.platform} on "
            f"{platform.machine()}"
        )
    missing = _native.why_missing()
    if missing:
        return missing
    if not any(_is_library_call(symbol) for symbol in _scan(interpose.functions())):
        return (
            "no loaded library imports cuBLAS, cuDNN, cuFFT, cuSPARSE, cuSOLVER or NCCL: "
            "install a CUDA build of torch and import it first"
        )
    return None


def decode_arguments(symbol: str, arguments: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Columns by argument name from the kept arguments, shape (n, 8), of n calls of one symbol.

    Integers stay `int64`; enumerators become the library's own names. Sizes and transpositions of a
    GEMM are those passed to the API, which is column-major: PyTorch's row-major product appears
    with m and n exchanged.
    """
    recorded = signature_of(symbol).recorded
    columns = {p.name: _named(p, arguments[:, i]) for i, p in enumerate(recorded)}
    data_type = data_type_of(symbol)
    if data_type and recorded:
        columns["data_type"] = np.full(len(arguments), data_type, dtype=object)
    return columns


def _named(parameter: Parameter, values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    names = ENUMERATIONS.get(parameter.kind)
    if names is None:
        return values
    distinct, where = np.unique(values, return_inverse=True)
    return np.array([names.get(int(v), str(v)) for v in distinct] or [""], dtype=object)[where]


def _is_library_call(symbol: str) -> bool:
    return is_traced(symbol) and launch_domain(symbol) is None


def _is_watched(symbol: str) -> bool:
    return _is_library_call(symbol) or (is_checked() and launch_domain(symbol) is not None)


_symbols: list[str] = []
_scanning = threading.Lock()


def _scan(native: ctypes.CDLL) -> list[str]:
    """Names of the symbols found so far in loaded objects, by stub; new ones are described to the
    native part.
    """
    with _scanning:
        return _scanned(native)


def _forget_scanning() -> None:
    global _scanning  # noqa: PLW0603 - the thread that held it is not in a forked process
    _scanning = threading.Lock()


os.register_at_fork(after_in_child=_forget_scanning)


def _scanned(native: ctypes.CDLL) -> list[str]:
    result = native.xsp_interpose_scan()
    if result < 0:
        msg = f"the import tables of the loaded libraries cannot be read: {os.strerror(-result)}"
        raise TracingError(msg)
    for stub in range(len(_symbols), native.xsp_interpose_stubs()):
        symbol = native.xsp_interpose_name(stub).decode()
        signature = signature_of(symbol)
        kept = [(p.position, p.bits) for p in signature.recorded]
        interpose.describe(native, stub, _is_watched(symbol), bool(signature.live), kept)
        _symbols.append(symbol)
    return _symbols


class LibraryTracer(Tracer):
    """Records calls into NVIDIA's libraries; see the module's text for what is not seen.

    Args:
        structure: also decode descriptor arguments, for an untimed run; `details` then describes
            every call.
        record_limit: how many calls are kept between two collections.

    """

    level = Level.LIBRARY
    name = "import slots"

    def __init__(self, structure: bool = False, record_limit: int = RECORD_LIMIT) -> None:
        self.symbols = _symbols
        """API name by `symbol` of the events. A name appears twice if two copies of a library are
        loaded.
        """
        self.details: list[dict[str, Any]] = []
        """Decoded arguments of each row of the last collected events; empty outside a structure
        run.
        """
        self.launches = empty(LIBRARY_EVENTS)
        """Launches since the collection before the last one, where they are checked
        (`launches.py`).
        """
        self._native = interpose.functions()
        self._decoder = LiveDecoder(_symbols) if structure else None
        self._record_limit = record_limit
        self._recording = False
        self._slots = 0
        self._late = 0

    def start(self) -> None:
        """Lead the import slots of every loaded library to the stubs.

        Raises:
            TracingError: another tracer is recording, or memory protection of a slot cannot be
            changed.

        """
        _scan(self._native)
        previous, LiveDecoder.current = LiveDecoder.current, self._decoder
        # Before it is: whatever cuts this short, stop() then writes the slots back.
        self._recording = True
        result = self._native.xsp_interpose_start(
            callback if self._decoder else None, self._record_limit
        )
        if result < 0:
            self._recording = False
            LiveDecoder.current = previous
        if result == -errno.EBUSY:
            msg = "library calls are being recorded by another LibraryTracer: stop that one first"
            raise TracingError(msg)
        if result < 0:
            msg = f"library calls cannot be intercepted: {os.strerror(-result)}"
            raise TracingError(msg)
        self._slots = self._native.xsp_interpose_slots()

    def stop(self) -> None:
        """Write every slot back as it was.

        Raises:
            TracingError: the memory protection of a slot cannot be changed back.

        """
        if not self._recording:
            return
        result = self._native.xsp_interpose_stop()
        self._recording = False
        if result:
            msg = f"import slots cannot be restored: {os.strerror(-result)}; end this process"
            raise TracingError(msg)
        _scan(self._native)
        self._late += self._native.xsp_interpose_slots() > self._slots

    def collect(self) -> dict[str, Columns]:
        """The calls since the last `collect`, ordered by their start."""
        _scan(self._native)  # a slot that another tool took over gets its stub while it is patched
        records = interpose.collect(self._native)
        records = records[np.argsort(records["start_ns"], kind="stable")]
        launching = [launch_domain(symbol) is not None for symbol in _symbols]
        launched = np.array(launching, dtype=bool)[records["stub"]]
        self.launches = _events(records[launched])
        records = records[~launched]
        events = _events(records)
        self.details = _details(events, records["sequence"], self._decoder) if self._decoder else []
        return {"library_events": events}

    @property
    def names(self) -> Sequence[str]:
        """API names, by `symbol` of the events."""
        return self.symbols

    def recorded(self, model_calls: Columns) -> list[dict[str, Any]]:
        """The calls inside the model calls, with their decoded arguments."""
        events = self.collect()["library_events"]
        order = np.argsort(events["start_ns"], kind="stable")
        inside = order[call_of(events["start_ns"][order], model_calls) >= 0]
        return [
            {"name": self.symbols[symbol], "arguments": self.details[index]}
            for index, symbol in zip(inside, events["symbol"][inside], strict=True)
        ]

    def doubts(self) -> list[str]:
        """A sentence on functions that are not traced for want of room, if there are any."""
        refused = int(self._native.xsp_interpose_refused())
        if not refused:
            return []
        sentence = (
            f"{refused} imported functions of the libraries are not traced: this process imports "
            f"more than the {len(_symbols)} there is room for"
        )
        return [with_slug("untraced-functions", sentence)]

    def missing_from(self, tables: Mapping[str, Columns], model_calls: Columns) -> int:
        """Launches inside the model calls that were seen at their import slots and that CUPTI has
        not recorded. Between two calls CUPTI may be off where the slots are written.
        """
        if "api_calls" not in tables:
            return 0
        launches, _ = within_model(self.launches, model_calls)
        return count_unrecorded(launches, _symbols, tables["api_calls"])

    def lost(self) -> int:
        """Calls missing since the last `lost`: no room, still running at `stop`, left by an
        exception, out of sight.
        """
        late, self._late = self._late, 0
        return int(self._native.xsp_interpose_take_lost()) + late


def _events(records: npt.NDArray[Any]) -> Columns:
    events = empty(LIBRARY_EVENTS, len(records))
    for column in ("thread", "start_ns", "end_ns", "arguments"):
        events[column][:] = records[column]
    events["symbol"][:] = records["stub"]
    return events


def _details(
    events: Columns, sequences: npt.NDArray[np.uint32], decoder: LiveDecoder
) -> list[dict[str, Any]]:
    """One dict per row: what was recorded, what was decoded live, and `flops` where that is
    defined.
    """
    details = [decoder.take(sequence) for sequence in sequences.tolist()]
    decoder.forget()
    for stub in np.unique(events["symbol"]).tolist():
        rows = np.flatnonzero(events["symbol"] == stub)
        columns = decode_arguments(_symbols[stub], events["arguments"][rows])
        for row, *values in zip(
            rows.tolist(), *(column.tolist() for column in columns.values()), strict=True
        ):
            details[row] = {**dict(zip(columns, values, strict=True)), **details[row]}
            count = flops(_symbols[stub], details[row])
            if count is not None:
                details[row]["flops"] = count
    return details


def _at_exit() -> None:
    if _native.why_missing() is None:
        interpose.functions().xsp_interpose_stop()


atexit.register(_at_exit)
