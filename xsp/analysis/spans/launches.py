"""The join of what CUPTI recorded to the API call that caused it, on the correlation id."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray

_RUN = 1 << 32
"""Correlation ids have 32 bits, so run and id together fit into 64."""


def launch_of(
    correlation_id: IntArray,
    api_correlation_id: IntArray,
    api_start_ns: IntArray | None = None,
    *,
    run: IntArray | None = None,
    api_run: IntArray | None = None,
) -> npt.NDArray[np.int64]:
    """Index of the API call that has each correlation id, -1 where no call has it.

    A runtime call and the driver call below it can share an id: the first in time, the outer one,
    is taken. Correlation id 0 is none: traces of other tools have activities and calls without an
    id.

    Args:
        correlation_id: of the device activities or synchronisation records.
        api_correlation_id: of the API calls.
        api_start_ns: of the API calls; they are in order of time where it is left out.
        run: of each record, where the calls of several runs are searched.
        api_run: of each API call, given with `run`.

    """
    wanted = _key(correlation_id, run)
    if not len(api_correlation_id):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = (
        np.arange(len(api_correlation_id))
        if api_start_ns is None
        else np.argsort(api_start_ns, kind="stable")
    )
    known, first = np.unique(_key(api_correlation_id, api_run)[order], return_index=True)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    has_call = (known[place] == wanted) & (np.asarray(correlation_id) != 0)
    return np.where(has_call, order[first[place]], -1)


def _key(correlation_id: IntArray, run: IntArray | None) -> npt.NDArray[np.int64]:
    identity = np.asarray(correlation_id).astype(np.int64)
    return identity if run is None else np.asarray(run).astype(np.int64) * _RUN + identity


def launch_ns(api_calls: pd.DataFrame, kernels: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Start of the API call that launched each of these spans, their own where it is not known;
    kernels of one graph launch share it.
    """
    starts = api_calls["start_ns"].to_numpy(np.int64)
    launch = launch_of(
        kernels["correlation_id"].to_numpy(),
        api_calls["correlation_id"].to_numpy(),
        starts,
        run=kernels["run"].to_numpy(),
        api_run=api_calls["run"].to_numpy(),
    )
    own = kernels["start_ns"].to_numpy(np.int64)
    return np.where(launch >= 0, np.append(starts, 0)[launch], own)
