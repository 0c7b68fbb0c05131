"""Driving what a call returns to its end where the work is only done then: coroutines, generators
and the like. Without that, a profile would be one of nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import Any

from xsp.errors import TargetError

_LATE = (map, filter, zip)
"""Iterators of Python's own that call nothing until they are gone through."""

_loops: list[asyncio.AbstractEventLoop] = []


def is_lazy(value: Any) -> bool:
    """Whether the work that `value` stands for is still to be done."""
    return (
        inspect.iscoroutine(value)
        or inspect.isasyncgen(value)
        or inspect.isgenerator(value)
        or isinstance(value, _LATE)
    )


def drive(value: Any) -> Any:
    """`value`, or what a coroutine returns once it has ended; generators are gone through, and what
    they give is dropped.

    Raises TargetError for a coroutine where an event loop is already running on this thread.
    """
    if inspect.iscoroutine(value):
        return _awaited(value)
    if inspect.isasyncgen(value):
        return _awaited(_through(value))
    if is_lazy(value):
        deque(value, maxlen=0)
        return None
    return value


async def _through(values: Any) -> None:
    async for _ in values:
        pass


def _awaited(coroutine: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _loop().run_until_complete(coroutine)
    coroutine.close()
    raise TargetError(
        "the target returns a coroutine, and an event loop is already running on this thread, as "
        "in a notebook: measure it on a thread of its own, such as `await "
        "asyncio.to_thread(xsp.measure, target)`"
    )


def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all runs: making one takes as long as a small model."""
    if not _loops or _loops[0].is_closed():
        _loops[:] = [asyncio.new_event_loop()]
    return _loops[0]
