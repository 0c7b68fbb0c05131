"""The thread that a loop runs on, and how another one ends what is switched on for it.

A torch function mode is its thread's own: another thread can only see to it that it does nothing
more, and the loop's thread drops it at its next call (`drop_what_was_left`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xsp.levels.layer.function_mode import drop_ended_modes
from xsp.measuring.executor import no_longer_executing

PATIENCE_S = 10.0
"""So long a thread is waited for that is in the middle of a call."""


class LoopThread:
    """The thread of one loop, at first the one that makes this; `close` switches everything off."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._id = threading.get_ident()
        self._is_open = False
        self._lock = threading.Lock()
        self._in_call = self._asked = False
        self._answered = threading.Event()

    def open_to_all(self) -> None:
        """The loop runs on whichever thread is the first to `claim` it."""
        self._is_open = True

    def claim(self) -> bool:
        """Whether the loop runs on this thread from now on, and on none before."""
        with self._lock:
            if not self._is_open:
                return False
            self._id, self._is_open = threading.get_ident(), False
            return True

    def is_elsewhere(self) -> bool:
        """Whether the loop runs on another thread than this one."""
        return threading.get_ident() != self._id

    def lives_elsewhere(self) -> bool:
        """Whether that is another thread, which has not ended."""
        return self.is_elsewhere() and any(
            thread.ident == self._id for thread in threading.enumerate()
        )

    def close(self) -> None:
        """Close here where the loop's thread is between two calls, else have it close when its call
        has ended.
        """
        if not self.is_elsewhere():
            self._close()
            return
        with self._lock:
            if not self._in_call:
                self._close()
                return
            self._asked = True
        self._answered.wait(PATIENCE_S)

    def call_begins(self) -> None:
        """Said on the loop's thread; no other thread closes until the call has ended."""
        with self._lock:
            self._in_call = True

    @contextmanager
    def call_ends(self) -> Iterator[bool]:
        """A block at the end of a call; whether the loop goes on, as nobody has asked to close."""
        with self._lock:
            self._in_call = False
            if self._asked:
                self._close()
                self._answered.set()
            yield not self._asked


def drop_what_was_left() -> None:
    """Drop from this thread what another one that closed its loop had to leave there."""
    drop_ended_modes()
    no_longer_executing()
