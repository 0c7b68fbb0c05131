"""When a test is valid, by MLPerf's rules, as numbers over latencies.

The rules are those of loadgen's results.cc and early_stopping.cc (MLPerf Inference, loadgen 6.0):
a test is stopped early when what was seen says with 99 % confidence that the percentile is within
the bound. Latencies of a queue are not independent, which the rule assumes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

CONFIDENCE = 0.99
"""The `confidence` of loadgen's early stopping."""

Latencies = npt.NDArray[np.int64]


def fewest_within(over: int, share: float) -> int:
    """The fewest queries within the bound, h, that make `over` queries beyond it, t, acceptable for
    the percentile `share` (0 to 1).

    The least h with P(Binomial(h + t, 1 − share) <= t) < 1 − CONFIDENCE; that probability is the
    regularised incomplete beta function I_share(h, t + 1) (early_stopping.cc, `odds`).
    """

    def enough(within: int) -> bool:
        return bool(special.betainc(within, over + 1, share) < 1 - CONFIDENCE)

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def most_over(queries: int, share: float) -> int:
    """The most queries beyond the bound that a valid test of so many queries has, −1 if it cannot
    be valid at all.
    """
    low, high = -1, queries
    while high - low > 1:
        middle = (low + high) // 2
        fits = fewest_within(middle, share) + middle <= queries
        low, high = (middle, high) if fits else (low, middle)
    return low


def percentile_ns(latency_ns: Latencies, share: float) -> int:
    """The percentile as loadgen takes it: entry int(queries × share) of the sorted latencies."""
    return int(np.sort(latency_ns)[int(len(latency_ns) * share)])


def stopping_estimate_ns(latency_ns: Latencies, share: float) -> float:
    """The percentile that single and multi stream report: with 99 % confidence it is no higher.
    The t-th longest latency, t being the most that early stopping may discard; NaN where there are
    too few queries (results.cc, `EarlyStopping`).
    """
    discarded = most_over(len(latency_ns), share)
    if discarded < 1:
        return math.nan
    return float(np.sort(latency_ns)[len(latency_ns) - discarded])


def too_few(queries: int, share: float, over: int) -> str | None:
    """Why early stopping refuses a test in which `over` queries took longer than the bound."""
    needed = fewest_within(over, share) + over
    if queries >= needed:
        return None
    return (
        f"early stopping: {queries} queries, {over} of them over the bound, do not show p"
        f"{100 * share:g} with {CONFIDENCE:.0%} confidence; {needed} with no more over it would"
    )


def beyond_bound(latency_ns: Latencies, share: float, bound_ns: int) -> list[str]:
    """Why a test under a latency bound is not valid: its percentile is over it, or early stopping
    says that the queries are too few. Empty if it is.
    """
    if not len(latency_ns):
        return ["no query was answered"]
    said = []
    found = percentile_ns(latency_ns, share)
    if found > bound_ns:
        said.append(
            f"p{100 * share:g} is {found / 1e6:.3f} ms, over the bound of {bound_ns / 1e6:g} ms"
        )
    over = int(np.count_nonzero(latency_ns > bound_ns))
    refused = too_few(len(latency_ns), share, over)
    return [*said, refused] if refused else said
