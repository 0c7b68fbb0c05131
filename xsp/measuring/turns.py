"""One profile at a time in a process: what tracers replace is the process's, and two profiles at
once would trace, and delay, each other.

A second thread that wants to profile waits for its turn. It waits in vain if the program that is
being profiled waits for that thread: such a wait is recognised and refused, never endless.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from xsp.errors import TargetError, TracingError
from xsp.levels._native.signals import let_through

WAITING_S = 10.0
"""So long a profiled call may stand in one wait of Python's `threading` before a thread that wants
to profile takes itself for what it waits for.
"""

CALL_S = 300.0
"""So long a single profiled call may take altogether before such a thread gives up."""

EXIT_S = 10.0
"""So long the interpreter's exit waits for the call that another thread is profiling."""

_POLL_S = 0.05

_ending = threading.Event()


@dataclass
class _Running:
    """What the profile whose turn it is does: its thread, target and calls begun."""

    thread: int = 0
    name: str = ""
    calls: int = 0
    in_call: bool = False


@dataclass
class _Turn:
    lock: Any
    running: _Running


_turn = _Turn(threading.RLock(), _Running())


def _forget() -> None:
    """In a forked process no other thread is left that could be profiling."""
    global _turn  # noqa: PLW0603 - the one turn of a process
    _turn = _Turn(threading.RLock(), _Running())


os.register_at_fork(after_in_child=_forget)


@contextmanager
def turn(name: str) -> Iterator[None]:
    """A block that is the only one of its kind in this process; entered in `held()`.

    Raises TargetError if the profile before it cannot end while this thread waits: its program
    has stood in one wait for `WAITING_S`, or one call of it has taken `CALL_S`.
    """
    patience = _Patience()
    with ExitStack() as undo:
        release_at_end: Callable[..., object] = undo.callback
        while True:
            mine = _turn
            # One expression: an exception on a line between the two would keep the turn for ever.
            if mine.lock.acquire(timeout=_POLL_S) and release_at_end(_release, mine):
                break
            with let_through():
                pass
            patience.check(name, mine.running)
        undo.callback(setattr, mine, "running", mine.running)
        mine.running = _Running(threading.get_ident(), name)
        yield


def _release(mine: _Turn) -> None:
    global _turn  # noqa: PLW0603 - the one turn of a process
    try:
        mine.lock.release()
    except RuntimeError:
        # Another thread ends the profile than the one whose turn it was: only that one could give
        # its lock back.
        _turn = _Turn(threading.RLock(), _Running())


@contextmanager
def in_call() -> Iterator[None]:
    """Around a call of the profiled program.

    Raises TracingError when the interpreter is about to end.
    """
    if _ending.is_set():
        raise TracingError("the interpreter is exiting: the profile on another thread is abandoned")
    running = _turn.running
    with ExitStack() as undo:
        undo.callback(setattr, running, "in_call", False)
        running.calls += 1
        running.in_call = True
        yield


def _end() -> None:
    """At the interpreter's exit: a daemon thread that profiles makes no further call, and is waited
    for. Left alone it would be stopped inside a call, where C++ code often aborts the process.
    """
    _ending.set()
    if _turn.lock.acquire(timeout=EXIT_S):
        _turn.lock.release()


atexit.register(_end)


class _Patience:
    """How long the call of the other profile has stood still."""

    def __init__(self) -> None:
        self._call = self._place = (0, 0, 0)
        self._call_since = self._place_since = time.monotonic()

    def check(self, name: str, running: _Running) -> None:
        """Raise TargetError if it has stood too long."""
        now = time.monotonic()
        call = (running.thread, running.calls, running.in_call)
        frame = sys._current_frames().get(running.thread) if running.in_call else None
        place = (running.calls, id(frame), frame.f_lasti if frame else 0)
        if call != self._call:
            self._call, self._call_since = call, now
        if place != self._place:
            self._place, self._place_since = place, now
        waited = now - self._place_since
        if frame is not None and _is_wait(frame) and waited >= WAITING_S:
            raise _stuck(name, running, f"has waited in {_place(frame)} for {waited:.0f} s")
        taken = now - self._call_since
        if frame is not None and taken >= CALL_S:
            raise _stuck(name, running, f"has taken {taken:.0f} s")


def _is_wait(frame: FrameType) -> bool:
    """A join, an event, a queue, a future: all wait inside this module."""
    return frame.f_code.co_filename == threading.__file__


def _place(frame: FrameType | None) -> str:
    while frame is not None and _is_wait(frame):
        frame = frame.f_back
    if frame is None:
        return "threading"
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _stuck(name: str, running: _Running, how: str) -> TargetError:
    return TargetError(
        f"{name} cannot be profiled on this thread: another thread is profiling {running.name}, "
        f"one call of which {how}, perhaps for this very thread; profile one after the other"
    )
