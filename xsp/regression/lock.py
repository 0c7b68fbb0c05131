"""Measuring one target at a time, whatever runs tests at the same time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def one_at_a_time(folder: Path | None = None) -> Iterator[None]:
    """Wait until no other process of this user measures on this machine, and keep others waiting meanwhile.

    The lock is the operating system's (flock) and ends with the process, however that ends.
    """
    import fcntl

    folder = folder or Path(tempfile.gettempdir())
    with (folder / f"xsp-measuring-{os.getuid()}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
