"""The structure run's view of library calls: arguments read while a call is about to be made."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from xsp.levels._native import interpose
from xsp.levels.library.decoders import DESCRIPTORS, FINISHERS, Getters
from xsp.levels.library.enums import ENUMERATIONS
from xsp.levels.library.symbols import Parameter, signature_of

REGISTERS = 6
"""INTEGER-class arguments passed in registers (System V ABI); the others lie on the stack, eight
bytes each.
"""


class LiveDecoder:
    """Decodes what timed records do not hold. One decoder is current at a time, like the recording
    itself.
    """

    current: LiveDecoder | None = None

    def __init__(self, symbols: Mapping[int, str] | list[str]) -> None:
        self._symbols = symbols
        self._getters: dict[int, Getters] = {}
        self._plans: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, dict[str, Any]] = {}

    def before_call(self, stub: int, sequence: int, integer: Any, stack: Any) -> None:
        """Decode one call; nothing that goes wrong reaches the program."""
        try:
            self._calls[sequence] = self._decode(stub, integer, stack)
        except Exception as error:
            self._calls[sequence] = {"undecoded": f"{type(error).__name__}: {error}"}

    def take(self, sequence: int) -> dict[str, Any]:
        """What was decoded of the call with this sequence number, once."""
        return self._calls.pop(sequence, {})

    def forget(self) -> None:
        """Begin a new run: descriptors decoded before may since have been freed and their addresses
        reused.
        """
        self._plans.clear()
        self._calls.clear()

    def _decode(self, stub: int, integer: Any, stack: Any) -> dict[str, Any]:
        symbol = self._symbols[stub]
        call = {}
        for parameter in signature_of(symbol).live:
            position = parameter.position
            raw = integer[position] if position < REGISTERS else stack[position - REGISTERS]
            call[parameter.name] = self._value(stub, parameter, raw)
        finish = FINISHERS.get(symbol)
        return finish(call) if finish else call

    def _value(self, stub: int, parameter: Parameter, raw: int) -> Any:
        if parameter.is_value:
            value = ctypes.c_int32(raw).value if parameter.bits == 32 else ctypes.c_int64(raw).value
            return ENUMERATIONS.get(parameter.kind, {}).get(value, value)
        if parameter.kind != "plan":
            return DESCRIPTORS[parameter.kind](self._library_of(stub), raw)
        if raw not in self._plans:
            self._plans[raw] = DESCRIPTORS["plan"](self._library_of(stub), raw)
        return self._plans[raw]

    def _library_of(self, stub: int) -> Getters:
        if stub not in self._getters:
            real = interpose.functions().xsp_interpose_real(stub)
            self._getters[stub] = Getters(interpose.file_of(real) or "")
        return self._getters[stub]


def _before_call(stub: int, sequence: int, integer: Any, stack: Any) -> None:
    decoder = LiveDecoder.current
    if decoder is not None:
        decoder.before_call(stub, sequence, integer, stack)


callback = interpose.live_callback_type(_before_call)
"""Lives as long as the process: a thread may be about to call it when recording stops."""
