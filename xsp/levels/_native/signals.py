"""Signals, and exceptions raised by other threads, held off while something is switched, so that
neither leaves it half way.

    with held(), switched_on(), let_through():
        program()

Handlers of the program (Ctrl-C, a SIGTERM that exits, deadlines by SIGALRM) may raise between any
two bytecodes of the main thread; other threads may have an exception raised in any thread
(`PyThreadState_SetAsyncExc`) or interrupt the main one (`_thread.interrupt_main`). In `held()` all
of it waits; in `let_through()`, inside of it, the program is as interruptible as ever. What waited
is delivered when the block ends. All of it is one `with` statement: then there is no moment at
which something is switched and nobody takes it back.

Both are entered and left by one call into C each (signals.c), because a context manager written in
Python can itself be interrupted between its own bytecodes. Without the native part the handlers
are replaced one after the other, which leaves a gap of microseconds, and what other threads raise
is not held off, interrupts excepted.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import sysconfig
import threading
from contextlib import AbstractContextManager
from functools import cache
from types import FrameType, TracebackType
from typing import Any, cast

from xsp.levels import _native

_Block = AbstractContextManager[None]


def held() -> _Block:
    """A block in which no handler of a signal runs (on the main thread, which alone runs handlers)
    and no exception of another thread is raised.

    In Python 3.11 the latter are not held off where a trace or profile function is set, such as a
    debugger's: a traced function never begins there while an exception waits for another thread.
    """
    held_off, _, only_signals = _blocks()
    if sys.version_info[:2] == (3, 11) and (sys.gettrace() or sys.getprofile()):
        return only_signals
    return held_off


def let_through() -> _Block:
    """A block inside `held()` that can be interrupted as it can outside."""
    return _blocks()[1]


def forget() -> None:
    """Leave every block that an exception raised by a trace function kept from being left. Python
    itself raises nothing between the end of a `with` block and the call of `__exit__`.
    """
    _HANDLERS.nested.clear()
    _HANDLERS.apply()
    if _native.why_missing() is None:
        ctypes.PyDLL(str(_native.LIBRARY)).xsp_signals_forget()


@cache
def _blocks() -> tuple[_Block, _Block, _Block]:
    """What holds everything off, what lets it through, and what holds off signals alone."""
    replacing = _Replacing(hold=True), _Replacing(hold=False), _Replacing(hold=True)
    if _native.why_missing() is not None:
        return replacing
    # With the GIL, and with the exception that a handler raised.
    native = ctypes.PyDLL(str(_native.LIBRARY))
    if native.xsp_signals_prepare(ctypes.pythonapi.PyErr_CheckSignals) != 0:
        return replacing
    native.xsp_signals_leave.argtypes = [ctypes.py_object] * 3
    _prepare_exceptions(native)
    _prepare_interrupts(native)
    return (
        _block(native.xsp_signals_hold, native.xsp_signals_leave),
        _block(native.xsp_signals_let_through, native.xsp_signals_leave),
        _block(native.xsp_signals_hold_only_signals, native.xsp_signals_leave),
    )


_EXCEPTION_FUNCTIONS = (
    "PyThreadState_Get",
    "PyThreadState_New",
    "PyThreadState_Clear",
    "PyThreadState_Delete",
    "PyThreadState_SetAsyncExc",
    "PyInterpreterState_Get",
    "PyObject_CallObject",
    "PyErr_Clear",
    "Py_IncRef",
    "Py_DecRef",
)
"""What exceptions.c calls, in the order in which it expects them."""


class _Sample(Exception):  # noqa: N818 - it is never raised
    """What exceptions.c looks for in a thread's state."""


def _do_nothing() -> None:
    """Python raises an exception of another thread when a function begins."""


def _prepare_exceptions(native: ctypes.PyDLL) -> None:
    """Have exceptions of other threads held off too, unless a setter may run at the same time as
    this thread.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return
    native.xsp_exceptions_prepare.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
    native.xsp_exceptions_prepare(_addresses(_EXCEPTION_FUNCTIONS), _do_nothing, _Sample)


_INTERRUPT_FUNCTIONS = (
    "PyObject_CallFunctionObjArgs",
    "PyCallable_Check",
    "PyErr_Fetch",
    "PyErr_Restore",
    "PyErr_SetInterrupt",
    "Py_DecRef",
)
"""What interrupts.c calls, in the order in which it expects them."""

_kept: list[Any] = []
"""What C refers to."""


def _prepare_interrupts(native: ctypes.PyDLL) -> None:
    """Have interrupts by `_thread.interrupt_main` held off too."""
    note = native.xsp_interrupts_note
    note.argtypes, note.restype = [ctypes.c_int, ctypes.py_object], None
    native.xsp_interrupts_prepare.argtypes = [ctypes.c_void_p, *[ctypes.py_object] * 4]
    native.xsp_interrupts_prepare.restype = None
    # The module `signal` wraps these in Python, which could be interrupted.
    in_c = importlib.import_module("_signal")
    objects = (in_c.getsignal, in_c.signal, int(signal.SIGINT), note)
    _kept.append(objects)
    native.xsp_interrupts_prepare(_addresses(_INTERRUPT_FUNCTIONS), *objects)
    after_fork = native.xsp_signals_after_fork
    after_fork.restype = None
    os.register_at_fork(after_in_child=after_fork)


def _addresses(names: tuple[str, ...]) -> Any:
    """Where these functions of Python's C API are, as an array."""
    found = (ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p) for name in names)
    return (ctypes.c_void_p * len(names))(*found)


def _block(enter: Any, leave: Any) -> _Block:
    """A context manager whose methods are these C functions themselves."""
    enter.restype = None
    return cast("_Block", type("Block", (), {"__enter__": enter, "__exit__": leave})())


class _Replacing:
    """The same without the native part, by `signal.signal`."""

    def __init__(self, *, hold: bool) -> None:
        self._hold = hold

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            _HANDLERS.nested.append(self._hold)
            try:
                _HANDLERS.apply()
            except BaseException:
                # A handler has raised: this block is never entered.
                _HANDLERS.nested.pop()
                _HANDLERS.apply()
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            _HANDLERS.nested.pop()
            _HANDLERS.apply()


class _Handlers:
    """The program's handlers while they are replaced, and the signals that arrived meanwhile."""

    def __init__(self) -> None:
        self.nested: list[bool] = []
        self._replaced: dict[signal.Signals, Any] = {}
        self._arrived: set[int] = set()

    def apply(self) -> None:
        """Hold signals off, or let them through, as the innermost block wants it."""
        wanted = bool(self.nested) and self.nested[-1]
        if wanted and not self._replaced:
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if callable(handler) and isinstance(number, signal.Signals):
                    self._replaced[number] = handler
                    signal.signal(number, self._note)
        elif not wanted:
            while self._replaced:
                number, handler = self._replaced.popitem()
                if signal.getsignal(number) == self._note:
                    signal.signal(number, handler)
            while self._arrived:
                signal.raise_signal(self._arrived.pop())

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.add(number)


_HANDLERS = _Handlers()
