"""The highest rate of a real system: a search in which each trial is a Server test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.evaluation.scenarios.search import Found, Trial, highest_rate
from xsp.evaluation.scenarios.settings import HighestRate, Server, SingleStream, as_json

PROBE_QUERIES = 64
FIRST_LOAD = 0.5
"""Share of what a single stream reaches, where the search begins."""
HOPELESS = 10
"""A test ends early when so many times more queries wait than the bound allows (Little's law)."""
SPARE = 100
"""Queries that may wait beyond that: few queries come in bursts."""

ENOUGH = 20_000
_TOO_NARROW = (
    "the highest rate was searched for with {:,} queries a test: its interval is narrower than it "
    f"should be, since late queries come in bursts; give {ENOUGH:,}"
)
"""Simulated, such intervals of 5,000 queries hold M/D/1's rate in 68 to 88 of 100, of 20,000 in 86
to 98 (benchmarks/load_generation.py)."""

RunTest = Callable[[Any], Outcome]


def run_search(scenario: HighestRate, run_test: RunTest) -> Outcome:
    """Search, and give the outcome of the valid test with the highest rate, else of the last one,
    with the search in `details`.
    """
    first = scenario.first_rate_per_s
    if first is None:
        probe = run_test(
            SingleStream(
                kind="single_stream",
                queries=PROBE_QUERIES,
                seed=scenario.seed,
                warmup=scenario.warmup,
                time_limit_s=scenario.time_limit_s,
            )
        )
        alone_ns = _median_ns(probe)
        if not alone_ns <= 1e6 * scenario.latency_bound_ms:
            return _hopeless(scenario, probe, alone_ns)
        first = FIRST_LOAD * 1e9 / alone_ns
    tests: list[Outcome] = []

    def measure(rate_per_s: float) -> Trial:
        try:
            outcome = run_test(_server(scenario, rate_per_s, len(tests)))
        except EvaluationError as error:
            raise EvaluationError(
                f"test {len(tests) + 1} of the search, at {rate_per_s:g} queries/s, failed: "
                f"{error}; logs of those before it: {[str(each.logs) for each in tests]}"
            ) from error
        tests.append(outcome)
        return _trial(scenario, rate_per_s, outcome)

    found = highest_rate(
        measure,
        first,
        share=scenario.percentile / 100,
        precision=scenario.precision,
        most_trials=scenario.most_trials,
    )
    return _told(scenario, found, tests)


def _median_ns(probe: Outcome) -> float:
    latency = probe.latency_ns[probe.answered]
    return float(np.median(latency)) if len(latency) else math.nan


def _server(scenario: HighestRate, rate_per_s: float, number: int) -> Server:
    most_in_bound = rate_per_s * scenario.latency_bound_ms / 1e3
    return Server(
        kind="server",
        rate_per_s=rate_per_s,
        latency_bound_ms=scenario.latency_bound_ms,
        percentile=scenario.percentile,
        queries=scenario.queries,
        batch=scenario.batch,
        most_waiting=math.ceil(HOPELESS * most_in_bound) + SPARE,
        # Each test has arrivals of its own.
        seed=(scenario.seed + number) % 2**31,
        warmup=scenario.warmup,
        time_limit_s=scenario.time_limit_s,
    )


def _trial(scenario: HighestRate, rate_per_s: float, outcome: Outcome) -> Trial:
    """Queries that were not issued any more, or failed, count as late."""
    latency = outcome.latency_ns[outcome.answered]
    in_time = int(np.count_nonzero(latency <= 1e6 * scenario.latency_bound_ms))
    queries = max(scenario.queries, len(outcome.samples))
    return Trial(rate_per_s, queries, queries - in_time, outcome.valid, outcome.reasons)


def _told(scenario: HighestRate, found: Found, tests: list[Outcome]) -> Outcome:
    rates = [trial.rate_per_s for trial in found.trials]
    known = not math.isnan(found.valid_rate_per_s)
    outcome = tests[rates.index(found.valid_rate_per_s)] if known else tests[-1]
    rows = [
        {**asdict(trial), "reasons": list(trial.reasons), "logs": str(test.logs)}
        for trial, test in zip(found.trials, tests, strict=True)
    ]
    details = {
        "highest_rate_per_s": _number(found.rate_per_s),
        "lowest_per_s": _number(found.lowest_per_s),
        "highest_per_s": _number(found.highest_per_s),
        "valid_rate_per_s": _number(found.valid_rate_per_s),
        "search": found.reason,
        "trials": rows,
    }
    reasons = outcome.reasons if known else (found.reason, *outcome.reasons)
    told = _as(scenario, outcome, details, reasons)
    if scenario.queries >= ENOUGH or math.isnan(found.rate_per_s):
        return told
    return replace(told, doubts=(*told.doubts, _TOO_NARROW.format(scenario.queries)))


def _hopeless(scenario: HighestRate, probe: Outcome, alone_ns: float) -> Outcome:
    reason = "no rate: the system answers no query"
    if not math.isnan(alone_ns):
        reason = (
            f"no rate: a query alone takes {alone_ns / 1e6:.3f} ms (median), longer than the "
            f"bound of {scenario.latency_bound_ms:g} ms"
        )
    details: dict[str, Any] = {
        "highest_rate_per_s": None,
        "valid_rate_per_s": None,
        "search": reason,
        "trials": [],
    }
    return _as(scenario, probe, details, (reason, *probe.reasons))


def _as(
    scenario: HighestRate, outcome: Outcome, details: dict[str, Any], reasons: tuple[str, ...]
) -> Outcome:
    return replace(
        outcome,
        scenario=scenario.kind,
        settings=as_json(scenario),
        details={**outcome.details, **details},
        valid=not reasons,
        reasons=reasons,
    )


def _number(value: float) -> float | None:
    """None where it is not known: JSON has no NaN."""
    return None if math.isnan(value) else value
