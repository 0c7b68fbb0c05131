"""Is the load true? Arrivals, lag, waiting times and the cost of a query, and the search.

Four figures, of which the first three read the clock of this machine:

- `arrivals`: at several rates, the Kolmogorov-Smirnov test of the distances of scheduled and of
  issued queries against the exponential distribution, and how much later than scheduled queries
  reached the system.
- `lindley`: p99 of a server of known service time beside Lindley's recursion on its own arrivals:
  with the nominal service time, with the times that the server stamped, and with the nominal time
  and what the outcome states of xsp's own time, two medians: that between two queries of which the
  second waits, and that from when a query should arrive to when an idle server begins it. `stalls`
  are calls that began or took a millisecond longer than they should have: the machine's doing.
- `overhead`: latency and cycle of a system that does nothing, and the least service time that
  makes them no more than 5 %.
- `search`: the highest rate found on simulated servers beside M/D/1's formula; no clock.

    python benchmarks/load_generation.py [--parts lindley …] [--queries 2000] [--runs 1] [--json f]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import load_systems
import numpy as np
from scipy import optimize, stats

from xsp.evaluation.scenarios.queueing import departures
from xsp.evaluation.scenarios.running import run_scenario
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.evaluation.scenarios.search import highest_rate
from xsp.evaluation.scenarios.settings import Server, SingleStream
from xsp.evaluation.scenarios.simulation import SimulatedServer
from xsp.machine.environment import environment

SAMPLES = 64
WARMUP = 3
TOLERATED = 0.05
STALL_NS = 1_000_000
"""Longer than anything here takes: the machine did something else."""
BOUND_MS = 3_600_000.0
CASES = (
    (1, 0.5),
    (2, 0.3),
    (2, 0.5),
    (2, 0.7),
    (3, 0.5),
    (5, 0.3),
    (5, 0.5),
    (5, 0.7),
    (10, 0.5),
)
"""Service time in ms, and the share of the time in which the server is busy."""
PARTS = ("arrivals", "lindley", "overhead", "search")
RATES = (50.0, 100.0, 250.0, 500.0, 1000.0)


def server(rate_per_s: float, queries: int, seed: int) -> Server:
    """Poisson arrivals under a bound that nothing breaks."""
    return Server(
        kind="server",
        rate_per_s=rate_per_s,
        latency_bound_ms=BOUND_MS,
        queries=queries,
        seed=seed,
        warmup=WARMUP,
    )


def arrivals(queries: int, logs: Path) -> list[dict[str, Any]]:
    """Distances of arrivals at a system that does nothing."""
    rows = []
    for rate in RATES:
        outcome = run_scenario(server(rate, queries, 1), load_systems.nothing, SAMPLES, logs=logs)
        rows.append({"rate_per_s": rate, "queries": queries, **of_arrivals(outcome, rate)})
        print(rows[-1], flush=True)
    return rows


def of_arrivals(outcome: Outcome, rate: float) -> dict[str, Any]:
    """Kolmogorov-Smirnov's p of scheduled and issued distances, and the lag in µs."""
    columns = {"scheduled": outcome.scheduled_ns, "issued": outcome.issued_ns}
    tests = {
        f"ks_p_{name}": float(stats.kstest(np.diff(times) / 1e9, "expon", (0, 1 / rate)).pvalue)
        for name, times in columns.items()
    }
    lag_us = {f"lag_{name}_us": value / 1e3 for name, value in outcome.details["lag_ns"].items()}
    return tests | lag_us


def lindley(queries: int, runs: int, longest_ms: int, logs: Path) -> list[dict[str, Any]]:
    """Servers of known service time beside the recursion on their own arrivals; runs in turn."""
    rows = []
    cases = [case for case in CASES if case[0] <= longest_ms]
    for run in range(runs):
        for service_ms, load in cases:
            found = one_server(service_ms * 1_000_000, load, queries, 100 + run, logs)
            rows.append({"service_ms": service_ms, "load": load, "run": run, **found})
            print(rows[-1], flush=True)
    return rows


def one_server(
    service_ns: int, load: float, queries: int, seed: int, logs: Path
) -> dict[str, float]:
    """A row of `lindley`."""
    stamps = logs / "stamps.npy"
    calls = 2 * queries + WARMUP
    outcome = run_scenario(
        server(1e9 * load / service_ns, queries, seed),
        partial(load_systems.constant, service_ns, stamps, calls),
        SAMPLES,
        logs=logs,
    )
    issued = len(outcome.scheduled_ns)
    begin_ns, end_ns = np.load(stamps)[WARMUP : WARMUP + issued].T
    begun_ns = np.maximum(outcome.scheduled_ns, np.concatenate([[0], end_ns[:-1]]))
    longer = np.maximum(begin_ns - begun_ns, end_ns - begin_ns - service_ns)
    stalls = {"stalls": int(np.count_nonzero(longer[1:] > STALL_NS))}
    return beside_recursion(outcome, service_ns, end_ns - begin_ns) | stalls


def beside_recursion(outcome: Outcome, service_ns: int, took: np.ndarray) -> dict[str, float]:
    """p99 in ms, measured and by the recursion, how far apart they are, and why."""
    scheduled = outcome.scheduled_ns - outcome.scheduled_ns[0]
    between, late = (outcome.details["own_ns"][name] for name in ("between", "at_idle"))
    measured = np.quantile(outcome.latency_ns, 0.99)
    services = {
        "nominal": (scheduled, service_ns),
        "stamped": (scheduled, took),
        "stated": (scheduled + late["median"], service_ns + between["median"]),
    }
    expected = {
        name: float(np.quantile(departures(*given) - scheduled, 0.99))
        for name, given in services.items()
    }
    return {
        "p99_ms": float(measured) / 1e6,
        **{f"lindley_{name}_ms": value / 1e6 for name, value in expected.items()},
        **{f"over_{name}": float(measured / value) - 1 for name, value in expected.items()},
        "took_ms_p50": float(np.median(took)) / 1e6,
        "took_ms_p99": float(np.quantile(took, 0.99)) / 1e6,
        "between_us_median": between["median"] / 1e3,
        "between_us_p99": between["p99"] / 1e3,
        "late_at_idle_us_median": late["median"] / 1e3,
        "lag_us_median": outcome.details["lag_ns"]["median"] / 1e3,
        "lag_us_p99": outcome.details["lag_ns"]["p99"] / 1e3,
    }


def overhead(queries: int, logs: Path) -> dict[str, Any]:
    """What a query costs beside the system."""
    single = run_scenario(
        SingleStream(kind="single_stream", queries=queries, warmup=WARMUP),
        load_systems.nothing,
        SAMPLES,
        logs=logs,
    )
    poisson = run_scenario(server(100.0, 1000, 1), load_systems.nothing, SAMPLES, logs=logs)
    latency_us = single.latency_ns / 1e3
    cycle_us = np.diff(single.scheduled_ns) / 1e3
    found = {
        "single_stream_latency_us": quantiles(latency_us),
        "single_stream_cycle_us": quantiles(cycle_us),
        "server_latency_us": quantiles(poisson.latency_ns / 1e3),
        "tolerated": TOLERATED,
        "least_service_us_single_stream": float(np.median(latency_us)) / TOLERATED,
        "least_service_us_server": float(np.median(poisson.latency_ns)) / 1e3 / TOLERATED,
    }
    print(found, flush=True)
    return found


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median, p90 and p99."""
    p50, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}


def search(seeds: int) -> list[dict[str, Any]]:
    """The search on simulated servers, beside Erlang's formula of the waiting time in M/D/1."""
    rows = []
    for bound in (2.5, 5.0, 10.0, 20.0):
        for queries in (5_000, 20_000, 50_000):
            found = [
                highest_rate(SimulatedServer(1.0, bound, queries, seed=10_000 * seed).measure, 0.5)
                for seed in range(seeds)
            ]
            truth = true_rate(bound)
            rates = np.array([each.rate_per_s for each in found])
            held = [each.lowest_per_s <= truth <= each.highest_per_s for each in found]
            rows.append(
                {
                    "bound_in_service_times": bound,
                    "queries": queries,
                    "searches": seeds,
                    "true_load": truth,
                    "mean_error": float(np.nanmean(rates) / truth - 1),
                    "largest_error": float(np.nanmax(np.abs(rates / truth - 1))),
                    "not_found": int(np.isnan(rates).sum()),
                    "interval_holds": float(np.mean(held)),
                    "valid_over_true": float(
                        np.nanmean([each.valid_rate_per_s for each in found]) / truth
                    ),
                    "tests": float(np.mean([len(each.trials) for each in found])),
                }
            )
            print(rows[-1], flush=True)
    return rows


def true_rate(bound: float, share: float = 0.99) -> float:
    """Load of M/D/1 with service time 1 at which this share leaves within the bound (Erlang, 1909;
    Crommelin, 1933): P(W <= t) = (1 − ρ) Σ_k (ρ(k − t))^k / k! exp(−ρ(k − t)).
    """

    def excess(load: float) -> float:
        wait = bound - 1
        terms = [
            (load * (k - wait)) ** k / math.factorial(k) * math.exp(-load * (k - wait))
            for k in range(int(wait) + 1)
        ]
        return (1 - load) * math.fsum(terms) - share

    return float(optimize.brentq(excess, 1e-6, 0.999999))


def _scheduler() -> str:
    """How this process, and so the measured one, is scheduled: `chrt -f 10` makes it "FIFO"."""
    names = {os.SCHED_OTHER: "OTHER", os.SCHED_FIFO: "FIFO", os.SCHED_RR: "RR"}
    policy = os.sched_getscheduler(0)
    return names.get(policy, str(policy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--longest-ms", type=int, default=10, help="service time of `lindley`")
    parser.add_argument("--searches", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"load_average_before": os.getloadavg(), "scheduler": _scheduler()}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        measures: dict[str, Callable[[], Any]] = {
            "arrivals": lambda: arrivals(options.queries, logs),
            "lindley": lambda: lindley(options.queries, options.runs, options.longest_ms, logs),
            "overhead": lambda: overhead(options.queries, logs),
            "search": lambda: search(options.searches),
        }
        found |= {part: measures[part]() for part in PARTS if part in options.parts}
    found |= {"load_average_after": os.getloadavg(), "environment": environment()}
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
