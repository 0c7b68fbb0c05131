"""torch's profiler without the two lines that some releases write to stderr at start and stop.

Kineto writes them (`USDT:… profiler_start`) above every level that KINETO_LOG_LEVEL can name but
silence, which would take its errors away from the program's own profiles too. So stderr goes
through a pipe while the profiler starts and while it stops, some milliseconds, and everything but
these lines is passed on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_STDERR = 2
_UNWANTED = b"USDT:"
_PATIENCE_S = 1.0
"""A child process that was started meanwhile has the pipe for as long as it lives."""


@contextmanager
def profiled(profile: Any) -> Iterator[Any]:
    """The profiler, running while the block does."""
    with _filtered():
        profile.__enter__()
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
            if not line.startswith(_UNWANTED):
                with suppress(OSError):
                    out.write(line)
