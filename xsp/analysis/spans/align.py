"""Finding the row of the structure run that an event of a timed run repeats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xsp.types import BACKWARD_BASE, IntArray


def occurrence(codes: IntArray) -> npt.NDArray[np.int64]:
    """How many equal codes precede each element: `[7, 9, 7, 7]` gives `[0, 0, 1, 2]`."""
    order = np.argsort(codes, kind="stable")
    ranked = codes[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]] if len(codes) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(first)
    result = np.empty(len(codes), dtype=np.int64)
    result[order] = np.arange(len(codes)) - starts[np.cumsum(first) - 1]
    return result


def match_events(codes: IntArray, structure_codes: IntArray) -> npt.NDArray[np.int64]:
    """For each event, in order of time, the structure row with its code and occurrence; -1 where
    there is none.

    Where a run repeats the structure exactly this is the alignment by order; where control flow
    depended on data, events that did repeat still find their row.
    """
    if not len(structure_codes):
        return np.full(len(codes), -1, dtype=np.int64)
    if np.array_equal(codes, structure_codes):
        return np.arange(len(codes))
    known, structure_index = np.unique(structure_codes, return_inverse=True)
    position = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    span = max(len(codes), len(structure_codes)) + 1
    wanted = position * span + np.where(codes >= BACKWARD_BASE, 0, occurrence(codes))
    offered = structure_index * span + occurrence(structure_codes)
    order = np.argsort(offered)
    place = np.minimum(np.searchsorted(offered[order], wanted), len(offered) - 1)
    row = order[place]
    hit = (offered[row] == wanted) & (known[position] == codes)
    return np.where(hit, row, -1)
