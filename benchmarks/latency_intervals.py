"""How often the 95 % interval of a latency's percentile holds the truth, in simulated tests of a
queue (M/D/1) whose percentiles Erlang's formula gives.

    python benchmarks/latency_intervals.py --output benchmarks/results/latency_intervals.json

Time is simulated and tests are seeded: the numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import optimize

from xsp.evaluation.metrics.latency import percentile
from xsp.evaluation.scenarios.queueing import departures, poisson_arrivals_s

SERVICE_S = 0.01
LOADS = (0.3, 0.5, 0.7, 0.85)
SHARES = (0.9, 0.99)
QUERIES = (500, 1000, 3000, 10_000, 30_000)
WARM_UP = 500
"""Queries before those that count: the queue begins empty."""


def true_percentile_s(load: float, share: float) -> float:
    """Of the latency: where Erlang's (1909) distribution of waiting times reaches the share."""
    rate = load / SERVICE_S

    def above(wait_s: float) -> float:
        behind = [rate * (k * SERVICE_S - wait_s) for k in range(int(wait_s / SERVICE_S) + 1)]
        terms = [x**k / math.factorial(k) * math.exp(-x) for k, x in enumerate(behind)]
        return (1 - load) * math.fsum(terms) - share

    return SERVICE_S + float(optimize.brentq(above, 1e-9, 19.9 * SERVICE_S))


def coverage(load: float, share: float, queries: int, seeds: int) -> dict[str, float]:
    """Shares of tests that have an interval, and of those whose interval holds the truth."""
    truth = 1e9 * true_percentile_s(load, share)
    shown = held = 0
    for seed in range(seeds):
        arrivals = poisson_arrivals_s(load / SERVICE_S, queries + WARM_UP, seed)
        latency_s = (departures(arrivals, SERVICE_S) - arrivals)[WARM_UP:]
        found = percentile(np.rint(1e9 * latency_s).astype(np.int64), share)
        shown += found.known
        held += found.known and found.low - 1 <= truth <= found.high + 1
    return {
        "load": load,
        "percentile": 100 * share,
        "queries": queries,
        "shown": shown / seeds,
        "held_of_shown": held / shown if shown else math.nan,
        "shown_and_wrong": (shown - held) / seeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    for load in LOADS:
        for share in SHARES:
            for queries in QUERIES:
                rows.append(coverage(load, share, queries, options.seeds))
                print(json.dumps(rows[-1]), flush=True)
    if options.output:
        content = {"seeds": options.seeds, "service_s": SERVICE_S, "rows": rows}
        options.output.write_text(json.dumps(content, indent=1).replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
