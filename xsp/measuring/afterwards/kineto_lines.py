"""torch's profiler without what it writes to stderr.

Kineto writes two lines (`USDT:… profiler_start`) above every level that KINETO_LOG_LEVEL can name
but silence, which would take its errors away from the program's own profiles too. So stderr goes
through a pipe while the profiler starts and while it stops, some milliseconds, and everything but
these lines is passed on.

The CPU allocator warns of the first block of a process, and then of every thousandth, that is freed
in a session and was allocated before it. So the first is freed while stderr goes through the pipe.
"""

from __future__ import annotations

import _thread
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_STDERR = 2
_UNWANTED = re.compile(
    rb"^USDT:.*\n?|\[W[^]]*CPUAllocator[^]]*\] Memory block of unknown size.*deallocation event\n?"
)
_PATIENCE_S = 1.0
"""A child process that was started meanwhile has the pipe for as long as it lives."""


@contextmanager
def profiled(profile: Any) -> Iterator[Any]:
    """The profiler, running while the block does."""
    known_to_nobody = torch.empty(1)
    with _filtered():
        profile.__enter__()
        del known_to_nobody
    try:
        yield profile
    finally:
        with _filtered():
            profile.__exit__(None, None, None)


@contextmanager
def _filtered() -> Iterator[None]:
    try:
        kept = os.dup(_STDERR)
    except OSError:  # the program has no stderr
        yield
        return
    source, sink = os.pipe()
    ended = _passing(source, kept)
    if ended is None:
        os.close(sink)
        yield
        return
    os.dup2(sink, _STDERR)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        ended.acquire(timeout=_PATIENCE_S)


def _passing(source: int, target: int) -> _thread.LockType | None:
    """A lock that is free once a thread has passed everything on; None where no thread can be had.

    Where memory is short `threading.Thread.start` waits for ever for a thread that could not begin.
    """
    begun, ended = _thread.allocate_lock(), _thread.allocate_lock()
    begun.acquire()
    ended.acquire()

    def run() -> None:
        begun.release()
        try:
            _pass_on(source, target)
        finally:
            ended.release()

    try:
        _thread.start_new_thread(run, ())
    except (RuntimeError, MemoryError):
        os.close(source)
        os.close(target)
        return None
    # Both ends are the thread's from here on: it can be late.
    return ended if begun.acquire(timeout=_PATIENCE_S) else None


def _pass_on(source: int, target: int) -> None:
    """Copy lines until nobody can write any more."""
    with os.fdopen(source, "rb") as lines, os.fdopen(target, "wb", buffering=0) as out:
        for line in lines:
            wanted = _UNWANTED.sub(b"", line)
            if wanted:
                with suppress(OSError):
                    out.write(wanted)
