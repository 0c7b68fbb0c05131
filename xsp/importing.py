"""How long the import of what measures took: the time of the profile that needed it first.

Nothing but the standard library is imported here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE_S = 1.0
"""A profile that begins so soon after the import is what it was made for: `xsp.measure(model)`
imports where it looks up `measure`. An import at the top of a program is no profile's.
"""

_imported: list[tuple[float, float]] = []
"""When it began and ended, until a profile has asked."""


@contextmanager
def timed(module: str) -> Iterator[None]:
    """Around an import; of one that is there already nothing is kept."""
    is_new = module not in sys.modules
    begin = time.perf_counter()
    yield
    if is_new:
        _imported[:] = [(begin, time.perf_counter())]


def just_imported_s() -> float:
    """Seconds since an import began that has just ended, 0 without one. Told once."""
    now = time.perf_counter()
    found = [now - begin for begin, end in _imported if 0 <= now - end <= AT_ONCE_S]
    _imported.clear()
    return sum(found)
