"""One call timed as `xsp bound` times candidates."""

from __future__ import annotations

from xsp.bounds.timing import BUDGET_S, Prepared, Timed, Timer, raced
from xsp.bounds.torch_calls import Call


def timed(timer: Timer, call: Call, caches: str, budget_s: float = BUDGET_S) -> Timed:
    """The time of one call; what it raises is raised."""
    (found,) = raced(timer, [Prepared(call)], caches, budget_s)
    if isinstance(found, Exception):
        raise found
    return found
