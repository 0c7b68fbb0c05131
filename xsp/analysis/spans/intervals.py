"""Arithmetic on many intervals at once: who encloses whom, and how much time a set of them
covers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray


def innermost(
    outer_thread: IntArray,
    outer_start: IntArray,
    outer_end: IntArray,
    thread: IntArray,
    start: IntArray,
    end: IntArray,
) -> npt.NDArray[np.int64]:
    """For every interval the index of the innermost outer interval on its thread that contains it,
    -1 for none.

    Outer intervals of one thread must be nested or disjoint, as calls are. Cost is a sort plus one
    pass per depth of nesting (XSP, section III-B, builds an interval tree for the same question).
    """
    result = np.full(len(start), -1, dtype=np.int64)
    for one in pd.unique(outer_thread).tolist():
        mine, asked = np.flatnonzero(outer_thread == one), np.flatnonzero(thread == one)
        if len(asked):
            found = _innermost_on_one_thread(
                outer_start[mine], outer_end[mine], start[asked], end[asked]
            )
            result[asked] = np.where(found >= 0, mine[found], -1)
    return result


def _innermost_on_one_thread(
    outer_start: IntArray, outer_end: IntArray, start: IntArray, end: IntArray
) -> npt.NDArray[np.int64]:
    index = np.arange(len(outer_start))
    in_order = (outer_start[1:] > outer_start[:-1]).all()
    order = index if in_order else np.lexsort((-outer_end, outer_start))
    opens, closes = outer_start[order], outer_end[order]
    depth = np.maximum(index - np.searchsorted(np.sort(closes), opens, side="right"), 0)
    last = np.searchsorted(opens, start, side="right") - 1
    found = np.full(len(start), -1, dtype=np.int64)
    for level in range(int(depth.max()), -1, -1):
        # The candidate at this depth is the last one opened there before the query.
        candidate = np.maximum.accumulate(np.where(depth == level, index, -1))[last]
        inside = (last >= 0) & (candidate >= 0) & (found < 0)
        inside &= closes[candidate] >= end
        found[inside] = candidate[inside]
    return np.where(found >= 0, order[found], -1)


def covered_ns(
    group: IntArray, start: IntArray, end: IntArray, groups: int
) -> npt.NDArray[np.int64]:
    """Length of the union of the intervals of each group 0..groups-1 (GPU-busy time, when they are
    kernels).

    Overlap, from streams that run at once, counts once.
    """
    total = np.zeros(groups, dtype=np.int64)
    if not len(start):
        return total
    order = np.lexsort((start, group))
    group, start, end = group[order], start[order], end[order]
    origin, width = start.min(), int(end.max() - start.min()) + 1
    # Groups are laid end to end on one axis, so that a running maximum never crosses from one into
    # the next.
    shift = group.astype(np.int64) * width - origin
    opens, closes = start + shift, end + shift
    reached = np.maximum.accumulate(closes)
    before = np.r_[np.int64(-1), reached[:-1]]
    np.add.at(total, group, np.maximum(closes - np.maximum(opens, before), 0))
    return total
