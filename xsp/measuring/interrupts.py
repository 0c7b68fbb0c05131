"""Ctrl-C at the wrong moment must not leave half of a change behind.

What is measured can be interrupted at any time. Switching tracers on and off, and putting state
back, are finished
first: the interrupt is passed on when they are.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

_Value = TypeVar("_Value")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold an interrupt (SIGINT) off until the end of the block. Only the main thread
    receives any.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda *received: held.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[-1])


@contextmanager
def whole(manager: AbstractContextManager[_Value]) -> Iterator[_Value]:
    """`manager`, entered and left uninterrupted; it is not told of exceptions of the block."""
    with ExitStack() as stack:
        with uninterrupted():
            value = stack.enter_context(manager)
        try:
            yield value
        finally:
            with uninterrupted():
                stack.close()
