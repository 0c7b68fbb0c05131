"""The native part of xsp: one shared library without Python's or CUDA's headers, called through
ctypes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from xsp.errors import LevelError

LIBRARY = Path(__file__).with_name("libxsp_native.so")


@cache
def load() -> ctypes.CDLL:
    """The native library; its calls release the GIL.

    Raises:
        LevelError: it was not built, or cannot be loaded.

    """
    reason = why_missing()
    if reason:
        raise LevelError(reason)
    return ctypes.CDLL(str(LIBRARY))


def why_missing() -> str | None:
    """None if the native library can be loaded, else one sentence."""
    if not LIBRARY.exists():
        return (
            f"xsp's native part was not built ({LIBRARY} is missing): install a C compiler, then "
            "reinstall xsp"
        )
    try:
        ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"xsp's native part cannot be loaded ({error}): reinstall xsp"
    return None
