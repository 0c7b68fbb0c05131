"""Batch sizes side by side, and the one beyond which more brings little."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from xsp.analysis.spans.statistics import trimmed
from xsp.evaluation.metrics.estimate import Estimate, unknown
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.sweeping.batch_size import OptimalBatchSize, optimal_batch_size

UNIT = "per_s"


def by_batch(outcome: Outcome) -> pd.DataFrame:
    """A row for each number of samples in a query: batch_size, queries, latency_ns (trimmed mean),
    latency_ci_ns (half its 95 % interval), throughput_per_s.

    Of answered queries whose time runs from their issue: what waited in a queue is not the batch's.
    """
    answered = outcome.answered
    samples = outcome.samples[answered]
    took_ns = (outcome.completed_ns - outcome.issued_ns)[answered]
    rows = []
    for size in np.unique(samples).tolist():
        mean, half = (float(x) for x in trimmed(took_ns[samples == size]))
        rows.append((size, int((samples == size).sum()), mean, half, 1e9 * size / mean))
    columns = ["batch_size", "queries", "latency_ns", "latency_ci_ns", "throughput_per_s"]
    return pd.DataFrame(rows, columns=columns)


def optimal_batch(outcome: Outcome) -> OptimalBatchSize:
    """The smallest batch size whose doubling brings no more than 5 % of throughput (XSP, section
    IV-B), of a batched sweep.
    """
    if outcome.scenario != "batched":
        return OptimalBatchSize(None, f"{outcome.scenario} is no sweep over batch sizes")
    table = by_batch(outcome)
    return optimal_batch_size(
        {
            int(size): (float(mean), float(half))
            for size, mean, half in zip(
                table["batch_size"], table["latency_ns"], table["latency_ci_ns"], strict=True
            )
        }
    )


def highest_throughput(outcome: Outcome) -> Estimate:
    """Of all batch sizes of a sweep, that of the fastest, with its interval."""
    table = by_batch(outcome)
    if outcome.scenario != "batched" or table.empty:
        return unknown(UNIT, f"{outcome.scenario} is no sweep over batch sizes that were timed")
    best = int(table["throughput_per_s"].to_numpy().argmax())
    rate = float(table["throughput_per_s"].to_numpy()[best])
    half = float((table["latency_ci_ns"] / table["latency_ns"]).to_numpy()[best])
    return Estimate(rate, UNIT, rate / (1 + half), rate / (1 - half) if half < 1 else math.inf)
