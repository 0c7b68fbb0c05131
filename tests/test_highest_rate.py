"""The search for the highest rate under a latency bound, on servers whose answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.queueing import departures, poisson_arrivals_s
from xsp.evaluation.scenarios.scenario import Outcome
from xsp.evaluation.scenarios.search import Found, Trial, highest_rate
from xsp.evaluation.scenarios.searching import run_search
from xsp.evaluation.scenarios.settings import HighestRate, Server, SingleStream, as_json
from xsp.evaluation.scenarios.simulation import SimulatedServer
from xsp.evaluation.scenarios.validity import (
    beyond_bound,
    fewest_within,
    most_over,
    stopping_estimate_ns,
    too_few,
)


def waits_at_most(time: float, rate: float, service: float) -> float:
    """Probability that a customer of M/D/1 waits no longer than `time`.

    Erlang's (1909) formula, which Crommelin (Delay probability formulae, Post Office Electrical
    Engineers' Journal 26, 1933) derives for any number of servers, for one of them:
    (1 − ρ) Σ_k (λ(kD − t))^k / k! exp(−λ(kD − t)) over k = 0 … ⌊t/D⌋. Terms alternate: good to
    t = 20 D in double precision.
    """
    load = rate * service
    terms = [
        (rate * (k * service - time)) ** k
        / math.factorial(k)
        * math.exp(-rate * (k * service - time))
        for k in range(int(time // service) + 1)
    ]
    return (1 - load) * math.fsum(terms)


def true_rate(bound: float, service: float, share: float = 0.99) -> float:
    """The rate at which this share of the customers of M/D/1 leaves within the bound."""

    def excess(rate: float) -> float:
        return waits_at_most(bound - service, rate, service) - share

    return float(optimize.brentq(excess, 1e-6 / service, 0.999999 / service))


def found_on(bound_services: float, seed: int, queries: int = 20_000) -> Found:
    server = SimulatedServer(0.01, 0.01 * bound_services, queries, seed=1000 * seed)
    return highest_rate(server.measure, 50.0)


@pytest.mark.parametrize("bound_services", [2.5, 5, 10, 20])
def test_the_rate_of_a_simulated_server_is_found_within_5_percent(bound_services: float) -> None:
    """With 20,000 queries a test, the rate is that of M/D/1's formula to 5 %, for many arrivals."""
    truth = true_rate(0.01 * bound_services, 0.01)
    found = [found_on(bound_services, seed) for seed in range(8)]
    errors = [abs(each.rate_per_s / truth - 1) for each in found]
    assert max(errors) < 0.05
    assert np.mean([each.lowest_per_s <= truth <= each.highest_per_s for each in found]) >= 0.75
    assert all(0.9 * truth < each.valid_rate_per_s <= each.rate_per_s for each in found)


def test_lindleys_recursion_gives_the_waiting_times_of_the_formula() -> None:
    """Half a million simulated customers wait as long as Erlang's formula says."""
    arrivals = poisson_arrivals_s(70.0, 500_000, seed=3)
    waits = departures(arrivals, 0.01) - arrivals - 0.01
    for time in (0.0, 0.005, 0.02, 0.05, 0.09):
        assert np.mean(waits <= time + 1e-9) == pytest.approx(
            waits_at_most(time, 70.0, 0.01), abs=0.005
        )


def test_departures_follow_one_another() -> None:
    """A customer begins when he is there and the one before has left."""
    left = departures([0.0, 1.0, 1.5, 10.0], [2.0, 2.0, 1.0, 0.5])
    assert left.tolist() == [2.0, 4.0, 5.0, 10.5]


def test_a_bound_below_the_service_time_has_no_rate() -> None:
    """Where a query alone takes longer than the bound, no rate is found and the reason says so."""
    found = highest_rate(SimulatedServer(0.01, 0.009, 2000).measure, 50.0)
    assert math.isnan(found.rate_per_s)
    assert math.isnan(found.valid_rate_per_s)
    assert "bound is not kept" in found.reason


def test_a_server_that_is_never_late_has_no_highest_rate() -> None:
    """Where every rate keeps the bound, the last one is told and none is called the highest."""

    def never(rate: float) -> Trial:
        return Trial(rate, 1000, 0, True)

    found = highest_rate(never, 1.0, most_trials=8)
    assert math.isnan(found.rate_per_s)
    assert "still kept" in found.reason
    assert len(found.trials) == 8


def test_a_cliff_is_bracketed_and_not_called_known() -> None:
    """A server that turns from never late to always late gives a bracket, not a rate."""

    def cliff(rate: float) -> Trial:
        return Trial(rate, 1000, 0 if rate < 77 else 1000, rate < 77)

    found = highest_rate(cliff, 10.0)
    assert found.lowest_per_s <= 77 <= found.highest_per_s
    assert found.highest_per_s / found.lowest_per_s < 1.06
    assert math.isnan(found.rate_per_s)


def test_too_few_tests_are_told() -> None:
    """A search that runs out of tests says how well the rate is known."""
    server = SimulatedServer(0.01, 0.05, 2000)
    found = highest_rate(server.measure, 50.0, precision=0.0001, most_trials=15)
    assert "not 0.01%" in found.reason
    assert found.lowest_per_s < found.rate_per_s < found.highest_per_s


def test_the_smallest_valid_tests_are_mlperfs() -> None:
    """459 queries show p99 when none is late; single stream needs 64 for p90, multi stream 662."""
    assert fewest_within(0, 0.99) == 459
    assert fewest_within(1, 0.90) + 1 == 64
    assert fewest_within(1, 0.99) + 1 == 662
    assert too_few(459, 0.99, 0) is None
    assert "459" in str(too_few(458, 0.99, 0))


def test_early_stopping_is_the_binomial_tail() -> None:
    """The fewest queries are those whose binomial probability of so few late ones is below 1 %."""
    from scipy import stats

    for late, share in ((0, 0.9), (3, 0.99), (20, 0.95), (200, 0.99)):
        within = fewest_within(late, share)
        assert stats.binom.cdf(late, within + late, 1 - share) < 0.01
        assert stats.binom.cdf(late, within - 1 + late, 1 - share) >= 0.01


def test_early_stopping_discards_what_it_may() -> None:
    """The estimate is the longest latency but for those that early stopping discards."""
    latency = np.arange(1000)
    late = most_over(1000, 0.99)
    assert fewest_within(late, 0.99) + late <= 1000 < fewest_within(late + 1, 0.99) + late + 1
    assert stopping_estimate_ns(latency, 0.99) == 1000 - late
    assert math.isnan(stopping_estimate_ns(latency[:661], 0.99))
    assert stopping_estimate_ns(latency[:662], 0.99) == 661


def test_a_bound_is_broken_by_the_percentile() -> None:
    """More late queries than the percentile allows invalidate a test, each reason in words."""
    latency = np.full(5000, 1_000_000)
    assert beyond_bound(latency, 0.99, 1_000_000) == []
    latency[:51] = 2_000_000
    percentile, early = beyond_bound(latency, 0.99, 1_000_000)
    assert "p99 is 2.000 ms" in percentile
    assert "early stopping" in early


class SimulatedTests:
    """Runs of real scenarios, computed: a server that takes 10 ms, alone or with a queue."""

    def __init__(self) -> None:
        self.scenarios: list[Server | SingleStream] = []

    def __call__(self, scenario: Server | SingleStream) -> Outcome:
        self.scenarios.append(scenario)
        rate = scenario.rate_per_s if isinstance(scenario, Server) else 1.0
        arrivals = poisson_arrivals_s(rate, scenario.queries, scenario.seed)
        completed = departures(arrivals, 0.01)
        scheduled_ns, completed_ns = (
            np.rint(1e9 * each).astype(np.int64) for each in (arrivals, completed)
        )
        ones = np.ones(scenario.queries, dtype=np.int64)
        reasons: list[str] = []
        if isinstance(scenario, Server):
            bound_ns = round(1e6 * scenario.latency_bound_ms)
            reasons = beyond_bound(completed_ns - scheduled_ns, 0.99, bound_ns)
        return Outcome(
            scenario.kind,
            as_json(scenario),
            scheduled_ns,
            scheduled_ns,
            completed_ns,
            ones,
            ones == 1,
            0,
            not reasons,
            tuple(reasons),
        )


def test_a_search_is_made_of_server_tests() -> None:
    """Each trial is a Server test with arrivals of its own, under the bound asked for; the outcome
    is that of the valid test with the highest rate and has the whole search in its details.
    """
    tests = SimulatedTests()
    asked = HighestRate(kind="highest_rate", latency_bound_ms=50, queries=20_000, seed=11)
    outcome = run_search(asked, tests)
    probe, *trials = tests.scenarios
    assert isinstance(probe, SingleStream)
    assert len({trial.seed for trial in trials}) == len(trials)
    assert all(isinstance(trial, Server) and trial.latency_bound_ms == 50 for trial in trials)
    details = outcome.details
    assert details["highest_rate_per_s"] == pytest.approx(true_rate(0.05, 0.01), rel=0.05)
    assert len(details["trials"]) == len(trials)
    assert outcome.valid
    assert outcome.doubts == ()
    assert outcome.settings == as_json(asked)
    in_outcome = 1e9 / np.diff(outcome.scheduled_ns).mean()
    assert in_outcome == pytest.approx(details["valid_rate_per_s"], rel=0.05)
    assert json.loads(json.dumps(dict(details))) == details


def test_a_search_without_hope_runs_no_server_test() -> None:
    """A system that alone takes longer than the bound is told after the probe."""
    tests = SimulatedTests()
    outcome = run_search(HighestRate(kind="highest_rate", latency_bound_ms=9.0), tests)
    assert len(tests.scenarios) == 1
    assert not outcome.valid
    assert "a query alone takes 10.000 ms (median), longer than the bound" in outcome.reasons[0]
    assert outcome.details["highest_rate_per_s"] is None


def test_queries_that_were_not_issued_count_as_late() -> None:
    """A test that was broken off early, since too many waited, is not taken for one in time."""
    tests = SimulatedTests()

    def broken_off(scenario: Server | SingleStream) -> Outcome:
        whole = tests(scenario)
        if not isinstance(scenario, Server) or scenario.rate_per_s < 100:
            return whole
        columns = ("scheduled_ns", "issued_ns", "completed_ns", "samples", "answered")
        few = {name: getattr(whole, name)[:10] for name in columns}
        return replace(whole, valid=False, reasons=("10 queries",), **few)

    asked = HighestRate(
        kind="highest_rate", latency_bound_ms=50, queries=2000, first_rate_per_s=400
    )
    outcome = run_search(asked, broken_off)
    first = outcome.details["trials"][0]
    assert (first["rate_per_s"], first["queries"], first["valid"]) == (400, 2000, False)
    assert first["late"] >= 1990
    assert outcome.details["highest_rate_per_s"] < 100
    assert "with 2,000 queries a test" in outcome.doubts[-1]


def test_a_search_that_fails_says_what_it_has() -> None:
    """Where a test of the search fails, the message tells which, and where the others are."""
    tests = SimulatedTests()

    def third_hangs(scenario: Server | SingleStream) -> Outcome:
        outcome = tests(scenario)
        if len(tests.scenarios) == 3:
            raise EvaluationError("the test was ended after its time limit")
        return replace(outcome, logs=Path(f"folder{len(tests.scenarios)}"))

    asked = HighestRate(kind="highest_rate", latency_bound_ms=50, first_rate_per_s=10)
    with pytest.raises(EvaluationError, match=r"test 3 of the search, at 40 .*folder1.*folder2"):
        run_search(asked, third_hangs)
