"""The distribution of latencies: a robust mean and percentiles, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from xsp.analysis.spans.statistics import CONFIDENCE, TRIM, trimmed
from xsp.evaluation.metrics.dependence import FEWEST, inflation
from xsp.evaluation.metrics.estimate import Estimate, unknown

SHARES = (0.5, 0.9, 0.99, 0.999)
UNIT = "ns"
_TAIL = (1 - CONFIDENCE) / 2

Latencies = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatencyDistribution:
    """Latencies of the answered queries, in ns.

    Args:
        queries: how many there are.
        trimmed_mean: without the longest and shortest 20 % (MLModelScope, section IV).
        percentiles: by share, such as 0.99.

    """

    queries: int
    trimmed_mean: Estimate
    percentiles: Mapping[float, Estimate]


def latency_distribution(latency_ns: npt.ArrayLike, *, queued: bool = False) -> LatencyDistribution:
    """The distribution of latencies, given in the order of the queries' arrival. Where they are of
    a queue and too few to tell how they depend on each other, there are no intervals.
    """
    latencies = np.asarray(latency_ns, dtype=np.int64)
    found = LatencyDistribution(
        len(latencies),
        trimmed_mean(latencies),
        {share: percentile(latencies, share) for share in SHARES},
    )
    return found if not queued or len(latencies) >= FEWEST else _without_intervals(found)


def _without_intervals(found: LatencyDistribution) -> LatencyDistribution:
    reason = (
        f"{found.queries} queries of a queue do not tell how they depend on each other; {FEWEST} do"
    )

    def bare(each: Estimate) -> Estimate:
        return Estimate(each.value, each.unit, reason=reason) if each.known else each

    percentiles = {share: bare(each) for share, each in found.percentiles.items()}
    return LatencyDistribution(found.queries, bare(found.trimmed_mean), percentiles)


def trimmed_mean(latencies: Latencies) -> Estimate:
    """Yuen's trimmed mean; its interval is widened for the dependence of neighbouring queries."""
    if not len(latencies):
        return unknown(UNIT, "no query was answered")
    mean, half = (float(x) for x in trimmed(latencies))
    if math.isnan(half):
        return Estimate(mean, UNIT, reason=f"{len(latencies)} queries have no interval")
    cut = int(TRIM * len(latencies))
    ordered = np.sort(latencies)
    kept = np.clip(latencies, ordered[cut], ordered[len(latencies) - cut - 1])
    half *= math.sqrt(inflation(kept))
    return Estimate(mean, UNIT, mean - half, mean + half)


def percentile(latencies: Latencies, share: float) -> Estimate:
    """The percentile `share`, the smallest latency that at least this share of queries kept.

    The interval lies between two order statistics (David and Nagaraja, Order Statistics, 3rd ed.,
    section 7.1), which needs no assumption on the distribution. It is that of fewer, independent
    queries: their number is over the `inflation` of "was no longer than the percentile"
    (P. Heidelberger and P. A. W. Lewis, Quantile estimation in dependent sequences, 1984), or of
    the latencies up to the percentile where that is larger, since a few long bursts tell little of
    themselves. Where the interval does not end among the queries, they are too few for the
    percentile, and it is unknown.
    """
    count = len(latencies)
    if not count:
        return unknown(UNIT, "no query was answered")
    ordered = np.sort(latencies)
    found = int(ordered[math.ceil(count * share) - 1])
    less_by = inflation(latencies <= found, np.minimum(latencies, found))
    ranks = _ranks(math.floor(count / less_by), share)
    if ranks is None:
        dependent = f", which tell as much as {count / less_by:.0f} independent ones"
        return unknown(
            UNIT,
            f"p{100 * share:g} needs {fewest_queries(share)} queries, not {count}"
            f"{dependent if less_by > 1 else ''}",
        )
    low, high = (min(math.ceil(rank * less_by), count) for rank in ranks)
    return Estimate(found, UNIT, float(ordered[low - 1]), float(ordered[high - 1]))


def fewest_queries(share: float) -> int:
    """The fewest independent queries for an interval of a percentile: the largest of them is below
    the percentile, or the smallest above it, with a probability of at most 2.5 %.
    """
    return math.ceil(math.log(_TAIL) / math.log(max(share, 1 - share)))


def _ranks(count: int, share: float) -> tuple[int, int] | None:
    """Ranks, from 1, of the order statistics between which the percentile is with 95 %, None where
    one of them does not exist.
    """
    if count < fewest_queries(share):
        return None
    below = _quantile(_TAIL, count, share)
    above = _quantile(1 - _TAIL, count, share) + 1
    return (below, above) if below >= 1 and above <= count else None


def _quantile(probability: float, count: int, share: float) -> int:
    """The least k with P(Binomial(count, share) <= k) >= probability."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if special.bdtr(middle, count, share) >= probability:
            high = middle
        else:
            low = middle
    return high
