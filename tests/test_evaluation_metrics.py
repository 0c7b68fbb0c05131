"""Metrics of an outcome: pure functions over columns, on columns whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats
from test_highest_rate import waits_at_most

from xsp.errors import EvaluationError
from xsp.evaluation.metrics.batches import by_batch, optimal_batch
from xsp.evaluation.metrics.cost import cost_per_million
from xsp.evaluation.metrics.dependence import inflation
from xsp.evaluation.metrics.estimate import Estimate
from xsp.evaluation.metrics.latency import fewest_queries, latency_distribution, percentile
from xsp.evaluation.metrics.measured import measured
from xsp.evaluation.metrics.throughput import throughput
from xsp.evaluation.scenarios.queueing import departures, poisson_arrivals_s
from xsp.evaluation.scenarios.scenario import Outcome, Usage

SERVICE_S = 0.01


def simulated(rate_per_s: float, queries: int, seed: int) -> Outcome:
    """A server test of M/D/1, computed."""
    arrivals = poisson_arrivals_s(rate_per_s, queries, seed)
    scheduled = np.rint(1e9 * arrivals).astype(np.int64)
    completed = np.rint(1e9 * departures(arrivals, SERVICE_S)).astype(np.int64)
    return outcome_of("server", scheduled, completed, np.ones(queries, dtype=np.int64))


def outcome_of(
    scenario: str, scheduled: np.ndarray, completed: np.ndarray, samples: np.ndarray
) -> Outcome:
    answered = np.ones(len(samples), dtype=np.bool_)
    return Outcome(scenario, {}, scheduled, scheduled, completed, samples, answered, 0, True)


def sweep_of(latencies_ms: dict[int, float], runs: int = 5) -> Outcome:
    """A batched sweep whose batches all take the same."""
    samples = np.repeat(np.array(list(latencies_ms)), runs)
    took = np.repeat(np.rint(1e6 * np.array(list(latencies_ms.values()))).astype(np.int64), runs)
    begin = np.concatenate([[0], np.cumsum(took)[:-1]])
    return outcome_of("batched", begin, begin + took, samples)


def binomial_ranks(queries: int, share: float) -> tuple[int, int]:
    """Between which 95 % of the counts of queries below a percentile are."""
    low, high = (int(stats.binom.ppf(each, queries, share)) for each in (0.025, 0.975))
    return low, high


def test_percentiles_of_independent_latencies_are_between_their_order_statistics() -> None:
    """Of 1,000 known latencies: the percentiles, and ranks that the binomial distribution gives."""
    latency = np.random.default_rng(1).permutation(np.arange(1, 1001))
    found = latency_distribution(latency).percentiles
    assert [found[share].value for share in (0.5, 0.9, 0.99)] == [500, 900, 990]
    low, high = binomial_ranks(1000, 0.9)
    assert found[0.9].low <= low
    assert found[0.9].high >= high + 1
    assert found[0.9].low == pytest.approx(low, abs=10)
    assert found[0.9].high == pytest.approx(high + 1, abs=10)


def test_a_percentile_of_too_few_queries_is_unknown() -> None:
    """p99.9 of 1,000 queries is no number, and the reason says how many it needs."""
    latency = np.random.default_rng(1).permutation(np.arange(1, 1001))
    found = latency_distribution(latency).percentiles[0.999]
    assert not found.known
    assert "3688" in found.reason
    assert [fewest_queries(share) for share in (0.5, 0.9, 0.99)] == [6, 36, 368]
    assert not percentile(latency[:35], 0.9).known
    assert percentile(np.arange(36), 0.9).known
    assert not latency_distribution([]).trimmed_mean.known


def true_percentile_s(load: float, share: float) -> float:
    """Of the latency of M/D/1, by Erlang's formula."""

    def above(wait: float) -> float:
        return waits_at_most(wait, load / SERVICE_S, SERVICE_S) - share

    return SERVICE_S + float(optimize.brentq(above, 1e-9, 19.9 * SERVICE_S))


def intervals(load: float, share: float, queries: int, seeds: int) -> tuple[int, int]:
    """How many simulated tests have an interval, and how many of these hold the truth."""
    truth = 1e9 * true_percentile_s(load, share)
    shown = held = 0
    for seed in range(seeds):
        latency = simulated(load / SERVICE_S, queries + 500, seed).latency_ns[500:]
        found = percentile(latency, share)
        shown += found.known
        held += found.known and found.low - 1 <= truth <= found.high + 1
    return shown, held


@pytest.mark.parametrize(
    ("load", "share", "queries"),
    [(0.3, 0.99, 10_000), (0.5, 0.99, 10_000), (0.7, 0.99, 30_000), (0.85, 0.9, 10_000)],
)
def test_intervals_hold_for_dependent_latencies(load: float, share: float, queries: int) -> None:
    """The 95 % interval of a percentile of a queue, which comes in bursts, holds M/D/1's in 95 of
    100 simulations that are long enough to show one; and nearly all of them are.
    """
    shown, held = intervals(load, share, queries, seeds=100)
    assert shown >= 85
    assert held >= 0.95 * shown


@pytest.mark.parametrize(
    ("load", "share", "queries"),
    [(0.5, 0.99, 1000), (0.7, 0.99, 3000), (0.85, 0.9, 1000), (0.85, 0.99, 10_000)],
)
def test_a_wrong_interval_is_rarely_shown(load: float, share: float, queries: int) -> None:
    """Where queries are too few for a percentile in a queue it is unknown; at most 8 of 100
    simulations show an interval that does not hold the truth.
    """
    shown, held = intervals(load, share, queries, seeds=100)
    assert shown <= 30
    assert shown - held <= 8


def test_an_interval_for_independent_queries_would_not_hold() -> None:
    """At 70 % load that of p90, which order statistics give, holds the truth in fewer than 80 of
    100 simulations.
    """
    truth, naive = 1e9 * true_percentile_s(0.7, 0.9), 0
    for seed in range(100):
        ordered = np.sort(simulated(70.0, 10_500, seed).latency_ns[500:])
        low, high = binomial_ranks(len(ordered), 0.9)
        naive += bool(ordered[low - 1] <= truth <= ordered[high])
    assert naive < 80


def test_few_queries_of_a_queue_have_no_interval() -> None:
    """100 queries of a server have percentiles without an interval, and the reason; 100 of a single
    stream have one.
    """
    server = measured(simulated(50.0, 100, seed=1))["latency_p90"]
    assert server.known
    assert math.isnan(server.low)
    assert "128 do" in server.reason
    stream = replace(simulated(50.0, 100, seed=1), scenario="single_stream")
    assert not math.isnan(measured(stream)["latency_p90"].low)


def test_inflation_is_one_for_independent_values() -> None:
    """Batch means find no dependence in 90 of 100 cases where there is none, and no less than the
    length of runs where there is.
    """
    generator = np.random.default_rng(2)
    assert sum(inflation(generator.normal(size=3200)) == 1 for _ in range(100)) >= 90
    independent = generator.normal(size=32_000)
    assert 10 <= inflation(np.repeat(independent[:3200], 10)) < 30
    assert inflation(np.ones(1000)) == 1
    assert inflation(independent[:100]) == 1


def test_throughput_is_samples_over_time() -> None:
    """A simulated server answers as fast as queries come, and no faster than it can."""
    for rate, expected in ((50.0, 50.0), (200.0, 100.0)):
        found = throughput(simulated(rate, 20_000, seed=4))
        assert found.value == pytest.approx(expected, rel=0.02)
        assert found.low <= found.value <= found.high
    whole = simulated(50.0, 20_000, seed=4)
    later = {name: getattr(whole, name) + 10**15 for name in ("scheduled_ns", "completed_ns")}
    assert throughput(replace(whole, **later)).value == throughput(whole).value
    few = throughput(simulated(50.0, 10, seed=4))
    assert few.known
    assert math.isnan(few.low)
    assert "10 queries" in few.reason


def test_failed_queries_are_in_no_metric() -> None:
    """A query that was not answered has neither latency nor throughput."""
    whole = simulated(50.0, 2000, seed=5)
    completed = whole.completed_ns.copy()
    completed[::2] += 10**12
    answered = np.arange(2000) % 2 == 1
    half = replace(whole, completed_ns=completed, answered=answered, errors=1000, valid=False)
    found = measured(half)
    assert found["latency_p90"].value < 10**9
    assert found["throughput"].value == pytest.approx(25.0, rel=0.1)
    nothing = measured(replace(whole, answered=np.zeros(2000, dtype=np.bool_)))
    assert not nothing["throughput"].known
    assert nothing["latency_p50"].reason == "no query was answered"


def test_the_optimal_batch_is_where_doubling_brings_little() -> None:
    """Of a sweep, the smallest batch size whose doubling brings no more than 5 %."""
    found = sweep_of({1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9, 16: 7.6})
    table = by_batch(found)
    assert table["batch_size"].tolist() == [1, 2, 4, 8, 16]
    assert table["queries"].tolist() == [5] * 5
    assert table["throughput_per_s"].iloc[1] == pytest.approx(2000 / 1.2)
    waited = replace(found, scheduled_ns=found.scheduled_ns - 10**9)
    assert by_batch(waited).equals(table)
    assert optimal_batch(found).batch_size == 4
    metrics = measured(found)
    assert metrics["optimal_batch"].value == 4
    assert metrics["throughput"].value == pytest.approx(16_000 / 7.6)
    assert "latency_p99" not in metrics


def test_cost_follows_from_price_and_throughput() -> None:
    """A million inputs at 100 a second take 2.78 hours; the interval turns round."""
    cost = cost_per_million(Estimate(100.0, "per_s", 80.0, 125.0), 3.6)
    assert (cost.value, cost.low, cost.high) == pytest.approx((10.0, 8.0, 12.5))
    with pytest.raises(EvaluationError, match="must be > 0, not -1"):
        cost_per_million(Estimate(100.0, "per_s"), -1)
    assert "cost_per_million" not in measured(simulated(50.0, 100, seed=1))
    assert measured(simulated(50.0, 100, seed=1), 3.6)["cost_per_million"].known


def test_memory_and_energy_have_reasons() -> None:
    """What could not be read is unknown with its reason; what was is a number."""
    read = Usage(100, 400, None, None, 50.0, {"peak_device_bytes": "no CUDA device is in use"})
    found = measured(replace(simulated(50.0, 100, seed=1), usage=read))
    assert found["model_host_bytes"].value == 300
    assert found["energy_per_input_joules"].value == pytest.approx(0.5)
    assert str(found["peak_device_bytes"]) == "unknown: no CUDA device is in use"
    unread = measured(simulated(50.0, 100, seed=1))
    assert not unread["model_host_bytes"].known
    assert not unread["energy_per_input_joules"].known


def test_the_highest_rate_is_a_metric_with_its_interval() -> None:
    """What a search found is told as a number, and what it did not find as unknown."""
    details = {
        "highest_rate_per_s": 56.0,
        "lowest_per_s": 55.0,
        "highest_per_s": 57.0,
        "valid_rate_per_s": None,
        "search": "known to within 2 %",
    }
    found = measured(
        replace(simulated(50.0, 100, seed=1), scenario="highest_rate", details=details)
    )
    assert (found["highest_rate"].low, found["highest_rate"].high) == (55.0, 57.0)
    assert not found["valid_rate"].known
