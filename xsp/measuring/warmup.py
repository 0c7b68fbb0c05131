"""Running the target until its latency has settled."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from xsp.doubts import Doubt, Slug

MINIMUM_RUNS = 4
MAXIMUM_RUNS = 30
# A latency counts as settled when the later half of the runs is no more than this much faster than
# the earlier.
_SETTLED = 0.02


def is_settled(latencies_ns: list[int]) -> bool:
    """Whether runs no longer get faster: medians of the two halves of the last `2 * MINIMUM_RUNS`
    runs agree.
    """
    if len(latencies_ns) < MINIMUM_RUNS:
        return False
    recent = np.array(latencies_ns[-2 * MINIMUM_RUNS :], dtype=np.float64)
    earlier, later = np.array_split(recent, 2)
    return bool(np.median(later) >= np.median(earlier) * (1 - _SETTLED))


def warm_up(
    run: Callable[[], int],
    runs: int | None,
    budget_s: float,
    any_rank: Callable[[bool], bool] = bool,
) -> tuple[int, Doubt | None]:
    """Execute `run`, which returns a latency in ns, `runs` times or until it has settled.

    Returns the number of executions and, if the latency had not settled within MAXIMUM_RUNS or the
    time budget, a doubt that says so. `any_rank` tells whether something is so on any of the ranks
    that warm up together.
    """
    latencies: list[int] = []
    begin = time.perf_counter()
    while len(latencies) < (MAXIMUM_RUNS if runs is None else runs):
        latencies.append(run())
        if runs is not None:
            continue
        if not any_rank(not is_settled(latencies)):
            return len(latencies), None
        if any_rank(time.perf_counter() - begin > budget_s and len(latencies) >= 2):
            break
    if runs is not None:
        return runs, None
    return len(latencies), Doubt.of(Slug.UNSETTLED, runs=len(latencies))
