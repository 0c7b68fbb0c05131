"""A check on CUPTI: launches of kernels counted at the import slots, by nothing of CUPTI's.

Switched on by `XSP_CHECK_LAUNCHES=1` in the environment before the first profile. The stubs then
also stand in the slots of `cudaLaunchKernel*` and its kin (`_PREFIXES`), and each launch seen there
must have its record. What has none is counted as lost: CUPTI dropped it without telling.

Only launches that go through import slots are seen: PyTorch's own and those of extensions, not
those of cuBLAS or cuDNN, which have the CUDA runtime inside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from xsp.levels.kernel import cupti
from xsp.types import ApiDomain, Columns

VARIABLE = "XSP_CHECK_LAUNCHES"

_PREFIXES = {
    "cudaLaunchKernel": ApiDomain.RUNTIME,
    # What the compiler's launch stubs call since CUDA 13; CUPTI records it as cudaLaunchKernel.
    "__cudaLaunchKernel": ApiDomain.RUNTIME,
    "cudaLaunchCooperativeKernel": ApiDomain.RUNTIME,
    "cuLaunchKernel": ApiDomain.DRIVER,
    "cuLaunchCooperativeKernel": ApiDomain.DRIVER,
}
"""Whose slots are looked for is in `symbol_prefixes` of objects.c too."""

CLOCK_SLACK_NS = 2_000
"""How far a record may lie outside the call that it is of: stub and CUPTI read the clock one after
the other, and a paired clock has an error.
"""


def is_checked() -> bool:
    """Whether launches are to be counted."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def launch_domain(function: str) -> ApiDomain | None:
    """The API that a launching function belongs to, None for every other function."""
    found = (domain for prefix, domain in _PREFIXES.items() if function.startswith(prefix))
    return next(found, None)


def count_unrecorded(
    launches: Columns,
    symbols: Sequence[str],
    api_calls: Columns,
    name: Callable[[int, int], str] = cupti.api_name,
) -> int:
    """How many of `launches` (LIBRARY_EVENTS, `symbols` by their column `symbol`) have no record of
    their own kind, thread and time among `api_calls` (API_CALLS). `name` gives an API function by
    domain and callback id.
    """
    missing = 0
    for domain in ApiDomain:
        mine = [launch_domain(symbols[symbol]) is domain for symbol in launches["symbol"].tolist()]
        records = _launch_records(api_calls, domain, name)
        for thread in np.unique(launches["thread"][mine]):
            calls = np.array(mine) & (launches["thread"] == thread)
            times = records["middle_ns"][records["thread"] == thread]
            missing += _without_record(
                launches["start_ns"][calls], launches["end_ns"][calls], times
            )
    return missing


def _launch_records(
    api_calls: Columns, domain: ApiDomain, name: Callable[[int, int], str]
) -> dict[str, npt.NDArray[np.int64]]:
    of_domain = api_calls["domain"] == domain
    wanted = [
        cbid
        for cbid in np.unique(api_calls["cbid"][of_domain]).tolist()
        if launch_domain(name(int(domain), cbid)) is domain
    ]
    rows = of_domain & np.isin(api_calls["cbid"], wanted)
    middle = (api_calls["start_ns"][rows] + api_calls["end_ns"][rows]) // 2
    return {"thread": api_calls["thread"][rows].astype(np.int64), "middle_ns": middle}


def _without_record(
    start_ns: npt.NDArray[np.int64], end_ns: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
) -> int:
    """Intervals that hold no time. Launches of a thread follow each other, so those of one with a
    record hold one each.
    """
    times = np.sort(times)
    first = np.searchsorted(times, start_ns - CLOCK_SLACK_NS, side="left")
    behind = np.searchsorted(times, end_ns + CLOCK_SLACK_NS, side="right")
    by_interval = int(np.count_nonzero(behind <= first))
    # The slack of a launch can reach the record of the next: their number tells as well.
    inside = (times >= start_ns.min() - CLOCK_SLACK_NS) & (times <= end_ns.max() + CLOCK_SLACK_NS)
    return max(by_interval, len(start_ns) - int(np.count_nonzero(inside)))
