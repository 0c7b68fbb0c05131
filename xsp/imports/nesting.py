"""Which range lies directly inside which, on each thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def parents(thread: npt.NDArray[Any], start_ns: Ints, end_ns: Ints) -> Ints:
    """For every range the innermost other one around it on its thread, -1 for none.

    Of ranges with equal ends on both sides the one that comes first is the outer one. One pass per
    depth of nesting.
    """
    found = np.full(len(start_ns), -1, dtype=np.int64)
    for one in np.unique(thread):
        mine = np.flatnonzero(thread == one)
        order = mine[np.lexsort((-end_ns[mine], start_ns[mine]))]
        above = _of_one_thread(start_ns[order], end_ns[order])
        found[order] = np.where(above >= 0, order[above], -1)
    return found


def _of_one_thread(opens: Ints, closes: Ints) -> Ints:
    index = np.arange(len(opens))
    depth = np.maximum(index - np.searchsorted(np.sort(closes), opens, side="right"), 0)
    found = np.full(len(opens), -1, dtype=np.int64)
    for level in range(int(depth.max(initial=0)), -1, -1):
        # The candidate at this depth is the last one opened there before.
        last = np.maximum.accumulate(np.where(depth == level, index, -1))
        candidate = np.r_[np.int64(-1), last[:-1]]
        inside = (
            (found < 0)
            & (candidate >= 0)
            & (closes[candidate] >= closes)
            & (closes[candidate] > opens)
        )
        found[inside] = candidate[inside]
    return found
