"""Everything that an outcome's columns tell, by name."""

from __future__ import annotations

import math

from xsp.evaluation.metrics.batches import highest_throughput, optimal_batch
from xsp.evaluation.metrics.cost import cost_per_million
from xsp.evaluation.metrics.estimate import Estimate, unknown
from xsp.evaluation.metrics.latency import latency_distribution
from xsp.evaluation.metrics.throughput import throughput
from xsp.evaluation.metrics.usage import energy, memory
from xsp.evaluation.scenarios.scenario import Outcome

_QUEUED = frozenset({"server", "replay", "highest_rate"})
"""Scenarios in which queries wait for those before them."""


def measured(
    outcome: Outcome, price_per_hour: float | None = None, currency: str = "price"
) -> dict[str, Estimate]:
    """The metrics of an outcome but for accuracy, which its columns do not have.

    Names: latency_trimmed_mean, latency_p50, latency_p90, latency_p99, latency_p99.9 (ns; not of
    offline and batched tests, in which nothing waits for a single answer), throughput, and where
    they belong to the scenario optimal_batch, highest_rate and valid_rate; weights_bytes where the
    runtime tells it; memory and energy as in `xsp.evaluation.metrics.usage`; cost_per_million where
    there is a price.
    """
    swept = outcome.scenario == "batched"
    found: dict[str, Estimate] = {}
    if outcome.scenario not in {"offline", "batched"}:
        found |= _latencies(outcome)
    rate = highest_throughput(outcome) if swept else throughput(outcome)
    found["throughput"] = rate
    if swept:
        size, reason = optimal_batch(outcome)
        value = math.nan if size is None else float(size)
        found["optimal_batch"] = Estimate(value, "samples", reason=reason)
    if outcome.scenario == "highest_rate":
        found |= _rates(outcome)
    if "weights_bytes" in outcome.details:
        found["weights_bytes"] = Estimate(float(outcome.details["weights_bytes"]), "bytes")
    found |= memory(outcome.usage) | energy(outcome)
    if price_per_hour is not None:
        found["cost_per_million"] = cost_per_million(rate, price_per_hour, currency)
    return found


def _latencies(outcome: Outcome) -> dict[str, Estimate]:
    queued = outcome.scenario in _QUEUED
    latencies = latency_distribution(outcome.latency_ns[outcome.answered], queued=queued)
    named = {"latency_trimmed_mean": latencies.trimmed_mean}
    for share, estimate in latencies.percentiles.items():
        named[f"latency_p{100 * share:g}"] = estimate
    return named


def _rates(outcome: Outcome) -> dict[str, Estimate]:
    details = outcome.details
    reason = str(details.get("search", ""))
    rate, valid = details.get("highest_rate_per_s"), details.get("valid_rate_per_s")
    found = unknown("per_s", reason)
    if rate is not None:
        low, high = (float(details[name]) for name in ("lowest_per_s", "highest_per_s"))
        found = Estimate(float(rate), "per_s", low, high, reason)
    held = unknown("per_s", reason) if valid is None else Estimate(float(valid), "per_s")
    return {"highest_rate": found, "valid_rate": held}
