"""Driving what a call returns to its end where the work is only done then: coroutines, generators,
futures and the like. Without that, a profile would be one of nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections import deque
from typing import Any

import torch

from xsp.errors import TargetError

_LATE = (map, filter, zip)
"""Iterators of Python's own that call nothing until they are gone through."""

_FUTURES = (concurrent.futures.Future, torch.futures.Future)

_loops: list[asyncio.AbstractEventLoop] = []


def is_lazy(value: Any) -> bool:
    """Whether the work that `value` stands for is still to be done."""
    if value is None or isinstance(value, torch.Tensor):
        return False
    if type(value) in (list, tuple):
        return bool(value) and _is_one_lazy(value[0])
    return _is_one_lazy(value)


def _is_one_lazy(value: Any) -> bool:
    return (
        inspect.isawaitable(value)
        or inspect.isasyncgen(value)
        or inspect.isgenerator(value)
        or isinstance(value, (*_LATE, *_FUTURES))
    )


def drive(value: Any) -> Any:
    """`value`, or what a coroutine or future gives once it has ended; generators are gone through,
    and what they give is dropped. So is each of a list of these.

    Raises TargetError for a coroutine where an event loop is already running on this thread.
    """
    if not is_lazy(value):
        return value
    if isinstance(value, list | tuple):
        return [drive(each) for each in value]
    return drive(_driven(value))


def _driven(value: Any) -> Any:
    if isinstance(value, concurrent.futures.Future):
        return value.result()
    if isinstance(value, torch.futures.Future):
        return value.wait()
    if inspect.isasyncgen(value):
        return _awaited(_through(value))
    if inspect.isawaitable(value):
        return _awaited(value if inspect.iscoroutine(value) else _ended(value))
    deque(value, maxlen=0)
    return None


async def _ended(value: Any) -> Any:
    return await value


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
