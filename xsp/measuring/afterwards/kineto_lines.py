"""torch's profiler without what it writes to stderr.

Kineto writes two lines (`USDT:… profiler_start`) above every level that KINETO_LOG_LEVEL can name
but silence, which would take its errors away from the program's own profiles too. So stderr goes
through a pipe while the profiler starts and while it stops, some milliseconds, and everything but
these lines is passed on.

The CPU allocator warns of the first block of a process, and then of every thousandth, that is freed
in a session and was allocated before it. So the first is freed while stderr goes through the pipe.
"""

from __future__ import annotations

import os
import re
import threading
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
    passing = threading.Thread(target=_pass_on, args=(source, kept), daemon=True)
    passing.start()
    os.dup2(sink, _STDERR)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        passing.join(_PATIENCE_S)


def _pass_on(source: int, target: int) -> None:
    """Copy lines until nobody can write any more."""
    with os.fdopen(source, "rb") as lines, os.fdopen(target, "wb", buffering=0) as out:
        for line in lines:
            wanted = _UNWANTED.sub(b"", line)
            if wanted:
                with suppress(OSError):
                    out.write(wanted)
