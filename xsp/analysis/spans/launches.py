"""The join of device work to the API call that launched it, on the correlation id."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xsp.types import IntArray


def launch_of(correlation_id: IntArray, api_correlation_id: IntArray) -> npt.NDArray[np.int64]:
    """Index of the API call that launched each device activity, -1 where it is missing.

    Correlation id 0 is none: traces of other tools have activities and calls without an id. A
    runtime call and the driver call below it can share an id: the first in time, the outer one, is
    taken.
    """
    if not len(api_correlation_id):
        return np.full(len(correlation_id), -1, dtype=np.int64)
    known, first = np.unique(api_correlation_id, return_index=True)
    place = np.minimum(np.searchsorted(known, correlation_id), len(known) - 1)
    return np.where((known[place] == correlation_id) & (correlation_id != 0), first[place], -1)
