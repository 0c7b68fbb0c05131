"""LIBRARY level: calls into cuBLAS, cuBLASLt, cuDNN, cuFFT, cuSPARSE, cuSOLVER and NCCL, with their arguments.

While recording, the import slots through which PyTorch and its extensions reach these libraries lead to stubs of xsp's
native part, which write one fixed-size record per outermost call; nothing of Python runs. In a *structure run* the
descriptor arguments are decoded as well, through a callback into Python before each such call.

Not seen: calls of the libraries to themselves and to each other, calls through pointers that a program got from
`dlsym` (CuPy, Triton's own loaders), and calls from a library loaded after `start`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.library_decoders import DESCRIPTORS, FINISHERS, Getters
from xsp.levels.library_enums import ENUMERATIONS
from xsp.levels.library_symbols import Parameter, data_type_of, is_traced, library_of, signature_of
from xsp.types import LIBRARY_EVENTS, Columns, Level, empty

__all__ = ["LibraryTracer", "availability", "decode_arguments", "library_of"]

RECORD_LIMIT = 1 << 22
"""Records kept between two collections, 104 bytes each; later calls are counted as lost."""


def availability() -> str | None:
    """None if library calls can be traced here now, else one sentence that says why not and what would help."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"library calls are intercepted on Linux on x86-64 only; this is {sys.platform} on {platform.machine()}"
    missing = _native.why_missing()
    if missing:
        return missing
    if not any(is_traced(symbol) for symbol in _scan(interpose.functions())):
        return (
            "no loaded library imports cuBLAS, cuDNN, cuFFT, cuSPARSE, cuSOLVER or NCCL: "
            "install a CUDA build of torch and import it first"
        )
    return None


def decode_arguments(symbol: str, arguments: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Columns by argument name from the kept arguments, shape (n, 8), of n calls of one symbol.

    Integers stay `int64`; enumerators become the library's own names. Sizes and transpositions of a GEMM are those
    passed to the API, which is column-major: PyTorch's row-major product appears with m and n exchanged.
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


def _scan(native: ctypes.CDLL) -> list[str]:
    """Names of the symbols found so far in loaded objects, by stub."""
    count = native.xsp_interpose_scan()
    if count < 0:
        msg = f"the import tables of the loaded libraries cannot be read: {os.strerror(-count)}"
        raise TracingError(msg)
    return [native.xsp_interpose_name(stub).decode() for stub in range(count)]


class LibraryTracer:
    """Records calls into NVIDIA's libraries; see the module's text for what is not seen.

    Args:
        structure: also decode descriptor arguments, for an untimed run; `details` then describes every call.
        record_limit: how many calls are kept between two collections.
    """

    level = Level.LIBRARY
    name = "import slots"

    def __init__(self, structure: bool = False, record_limit: int = RECORD_LIMIT) -> None:
        self.symbols: list[str] = []
        """API name by `symbol` of the events. A name appears twice if two copies of a library are loaded."""
        self.details: list[dict[str, Any]] = []
        """Decoded arguments of each row of the last collected events; empty outside a structure run."""
        self._native = interpose.functions()
        self._decoder = _LiveDecoder(self) if structure else None
        self._record_limit = record_limit
        self._recording = False

    def start(self) -> None:
        """Lead the import slots of every loaded library to the stubs.

        Raises:
            TracingError: another tracer is recording, or memory protection of a slot cannot be changed.
        """
        self._describe(_scan(self._native))
        _LiveDecoder.current = self._decoder
        result = self._native.xsp_interpose_start(_callback if self._decoder else None, self._record_limit)
        if result < 0:
            msg = f"library calls cannot be intercepted: {os.strerror(-result)}; is another LibraryTracer recording?"
            raise TracingError(msg)
        self._recording = True

    def stop(self) -> None:
        """Write every slot back as it was.

        Raises:
            TracingError: the memory protection of a slot cannot be changed back.
        """
        if not self._recording:
            return
        self._recording = False
        result = self._native.xsp_interpose_stop()
        _LiveDecoder.current = None
        if result:
            msg = f"import slots cannot be restored: {os.strerror(-result)}; end this process"
            raise TracingError(msg)

    def collect(self) -> dict[str, Columns]:
        """The calls since the last `collect`, ordered by their start."""
        records = interpose.collect(self._native)
        records = records[np.argsort(records["start_ns"], kind="stable")]
        events = empty(LIBRARY_EVENTS, len(records))
        for column in ("thread", "return_code", "start_ns", "end_ns", "arguments"):
            events[column][:] = records[column]
        events["symbol"][:] = records["stub"]
        self.details = self._decoder.details(events, records["sequence"]) if self._decoder else []
        return {"library_events": events}

    def lost(self) -> int:
        """Calls missing since the last question: no room, still running at `stop`, or left by an exception."""
        return int(self._native.xsp_interpose_take_lost())

    def _describe(self, symbols: list[str]) -> None:
        """Tell the native part what to record of the symbols that are new to this tracer."""
        for stub in range(len(self.symbols), len(symbols)):
            signature = signature_of(symbols[stub])
            kept = [(p.position, p.bits) for p in signature.recorded]
            live = any(p.kind in DESCRIPTORS or p.is_value for p in signature.live)
            interpose.describe(self._native, stub, is_traced(symbols[stub]), live, kept)
        self.symbols = symbols


class _LiveDecoder:
    """Reads the arguments of calls about to happen. One is current at a time, like the recording itself."""

    current: _LiveDecoder | None = None

    def __init__(self, tracer: LibraryTracer) -> None:
        self._tracer = tracer
        self._getters: dict[int, Getters] = {}
        self._plans: dict[int, Any] = {}
        self._live: dict[int, dict[str, Any]] = {}

    def before_call(self, stub: int, sequence: int, integer: Any, stack: Any) -> None:
        """Decode what the records of timed runs do not hold; nothing that goes wrong reaches the program."""
        try:
            self._live[sequence] = self._decode(stub, integer, stack)
        except Exception as error:  # noqa: BLE001 - the program must go on
            self._live[sequence] = {"undecoded": f"{type(error).__name__}: {error}"}

    def details(self, events: Columns, sequences: npt.NDArray[np.uint32]) -> list[dict[str, Any]]:
        """One dict per row: what was recorded, what was decoded, and `flops` where that is defined."""
        details: list[dict[str, Any]] = [{} for _ in sequences]
        for stub in np.unique(events["symbol"]):
            rows = np.flatnonzero(events["symbol"] == stub)
            columns = decode_arguments(self._tracer.symbols[stub], events["arguments"][rows])
            for name, values in columns.items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    details[row][name] = value
        for row, sequence in enumerate(sequences.tolist()):
            details[row].update(self._live.pop(sequence, {}))
        return details

    def _decode(self, stub: int, integer: Any, stack: Any) -> dict[str, Any]:
        symbol = self._tracer.symbols[stub]
        call = {}
        for parameter in signature_of(symbol).live:
            position = parameter.position
            call[parameter.name] = self._value(
                stub, parameter, integer[position] if position < 6 else stack[position - 6]
            )
        finish = FINISHERS.get(symbol)
        return finish(call) if finish else call

    def _value(self, stub: int, parameter: Parameter, raw: int) -> Any:
        if parameter.is_value:
            value = ctypes.c_int32(raw).value if parameter.bits == 32 else ctypes.c_int64(raw).value
            names: Mapping[int, str] = ENUMERATIONS.get(parameter.kind, {})
            return names.get(value, value)
        return DESCRIPTORS[parameter.kind](self._getters_of(stub), raw)

    def _getters_of(self, stub: int) -> Getters:
        if stub not in self._getters:
            path = interpose.file_of(self._tracer._native.xsp_interpose_real(stub))
            self._getters[stub] = Getters(path or "")
        return self._getters[stub]


def _before_call(stub: int, sequence: int, integer: Any, stack: Any) -> None:
    decoder = _LiveDecoder.current
    if decoder is not None:
        decoder.before_call(stub, sequence, integer, stack)


# Alive as long as the process: a thread may be about to call it when recording stops.
_callback = interpose.live_callback_type(_before_call)


def _at_exit() -> None:
    if _native.why_missing() is None:
        interpose.functions().xsp_interpose_stop()


atexit.register(_at_exit)
