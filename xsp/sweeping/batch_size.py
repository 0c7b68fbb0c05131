"""The optimal batch size: doubling it brings little more throughput."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, isnan
from typing import NamedTuple

GAIN = 0.05
"""Doubling that raises throughput by no more than this is not worth it (XSP, section IV-B)."""

Latency = tuple[float, float]
"""A latency and half its 95 % interval, in any unit."""


class OptimalBatchSize(NamedTuple):
    """The batch size, None where the measured ones do not tell it, and a sentence on what it
    follows from.
    """

    batch_size: int | None
    reason: str

    def __str__(self) -> str:
        return f"{'unknown' if self.batch_size is None else self.batch_size}: {self.reason}"


def optimal_batch_size(latencies: Mapping[int, Latency]) -> OptimalBatchSize:
    """The smallest batch size whose doubling does not raise throughput by more than 5 % (XSP,
    section IV-B).

    `latencies` are those of a whole batch, by batch size. The rule is applied as the paper states
    it, to the means; the reason has the gain with its 95 % interval, so that a gain which noise
    could have moved across the limit is seen.
    """
    gains = [
        (size, *gain_of_doubling(latencies[size], latencies[2 * size]))
        for size in sorted(latencies)
        if 2 * size in latencies
    ]
    if not gains:
        return OptimalBatchSize(None, "no batch size was measured together with its double")
    for size, gain, interval in gains:
        if gain <= GAIN:
            return OptimalBatchSize(
                size, f"{_doubling(size, gain, interval)}, no more than {GAIN:.0%}"
            )
    return OptimalBatchSize(None, f"even {_doubling(*gains[-1])}, more than {GAIN:.0%}")


def gain_of_doubling(before: Latency, after: Latency) -> tuple[float, float]:
    """Relative gain in throughput when a batch takes `after` and half of it `before`, and half its
    95 % interval.

    The two relative errors are added in quadrature: the runs are independent.
    """
    ratio = 2 * before[0] / after[0]
    return ratio - 1, ratio * hypot(*(interval / latency for latency, interval in (before, after)))


def _doubling(size: int, gain: float, interval: float) -> str:
    width = "" if isnan(interval) else f" (± {interval:.1%})"
    return f"doubling {size} to {2 * size} changes throughput by {gain:+.1%}{width}"
