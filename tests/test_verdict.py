"""The statistics of verdicts, by simulation: false alarms, power, and when nothing can be said."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from xsp.comparing.verdict import ALPHA, inflation, paired_verdict, runs_needed, verdict, verdicts

TRIALS = 2000
Array = npt.NDArray[np.float64]


def noise(runs: int, sigma: float = 0.02, trials: int = TRIALS, memory: float = 0.0) -> Array:
    """Lognormal latencies around 1, a column per trial; with outliers, as a busy host
    makes them.
    """
    random = np.random.default_rng(runs)
    steps = random.normal(0, np.sqrt(1 - memory**2), (runs, trials))
    steps[0] /= np.sqrt(1 - memory**2)
    for row in range(1, runs):
        steps[row] += memory * steps[row - 1]
    outliers = random.random((runs, trials)) < 0.03
    return np.exp(sigma * steps) * np.where(
        outliers, 1 + random.exponential(0.5, (runs, trials)), 1
    )


def shuffled(samples: Array, seed: int) -> Array:
    """The trials in another order: an independent second sample."""
    return samples[:, np.random.default_rng(seed).permutation(samples.shape[1])]


@pytest.mark.parametrize("runs", [10, 30, 100])
def test_at_most_one_false_alarm_in_a_hundred(runs: int) -> None:
    """With no change at most 1 % of comparisons say regression, even if every slow-down matters."""
    samples = noise(runs)
    found = verdicts(samples, shuffled(samples, 1), threshold=0.0)
    assert (found.names == "regression").mean() <= 0.01


def test_runs_that_resemble_their_neighbours_raise_no_alarm() -> None:
    """Where half of each run's deviation stays for the next, false alarms stay below 1 % at a
    threshold of 1 %.
    """
    samples = noise(60, memory=0.5)
    found = verdicts(samples, shuffled(samples, 2), threshold=0.01)
    assert (found.names == "regression").mean() <= 0.01
    assert np.median(inflation(samples)) > 1.5
    assert np.median(inflation(noise(60))) == 1


def test_few_runs_that_drift_raise_few_alarms() -> None:
    """Where four fifths of each run's deviation stay for the next, seven runs raise a false alarm
    in at most 1 % of comparisons at a threshold of 5 %, and twenty in at most 3 % at a threshold of
    2.5 %, little more than their noise.
    """
    for runs, threshold, most in ((7, 0.05, 0.01), (20, 0.025, 0.03)):
        samples = noise(runs, memory=0.8)
        found = verdicts(samples, shuffled(samples, 6), threshold=threshold)
        assert (found.names == "regression").mean() <= most


def test_far_apart_is_found_from_ten_runs() -> None:
    """What ten independent runs correlate by chance hides a twofold latency in at most 4 % of
    comparisons.
    """
    samples = noise(10)
    found = verdicts(samples, 2 * shuffled(samples, 7), threshold=0.5)
    assert (found.names == "regression").mean() >= 0.96


def test_a_mean_that_a_few_runs_make_is_no_regression() -> None:
    """Where the ranks differ for sure but the interval of the ratio holds 1, the verdict is
    undecided.
    """
    baseline = np.tile([1.0, 1.0, 1.0, 1e-3], 6)
    found = verdict(baseline, np.full(24, 1.2))
    assert found.p_value < 1e-6
    assert found.low < 1
    assert found.name == "undecided"


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of the ratio hold the true ratio in 93 to 98 % of comparisons."""
    samples = noise(30)
    found = verdicts(samples, 1.05 * shuffled(samples, 3))
    assert 0.93 <= ((found.low <= 1.05) & (found.high >= 1.05)).mean() <= 0.98


def test_five_per_cent_is_found_from_thirty_runs() -> None:
    """A slow-down of 5 % under noise of 2 % is found in 95 % of comparisons of thirty runs, at half
    that threshold.
    """
    samples = noise(30)
    found = verdicts(samples, 1.05 * shuffled(samples, 4), threshold=0.025)
    assert (found.names == "regression").mean() >= 0.95
    assert (
        verdicts(1.05 * samples, shuffled(samples, 4), threshold=0.025).names == "improved"
    ).mean() >= 0.95


def test_two_per_cent_is_found_in_turn_under_drift_of_twenty() -> None:
    """Runs made in turn show 2 % although the machine drifts by 20 %, which hides it from
    independent samples.
    """
    random = np.random.default_rng(0)
    alone, in_turn, alarms = 0, 0, 0
    for trial in range(100):
        drift = np.exp(0.2 * np.sin(np.linspace(0, 9, 100) + trial))
        a, b, same = (drift * np.exp(random.normal(0, 0.02, 100)) for _ in range(3))
        in_turn += paired_verdict(a, 1.02 * b, threshold=0.01).name == "regression"
        alone += verdict(a, 1.02 * b, threshold=0.01).name == "regression"
        alarms += paired_verdict(a, same, threshold=0.01).name == "regression"
    assert in_turn >= 90
    assert alone <= 10
    assert alarms <= 1


def test_a_small_difference_is_neutral_however_sure() -> None:
    """A difference of 1 % that is certain is no regression at a threshold of 5 %."""
    samples = noise(200, sigma=0.001, trials=1)[:, 0]
    found = verdict(samples, 1.01 * samples)
    assert found.name == "neutral"
    assert found.p_value < 1e-6
    assert found.ratio == pytest.approx(1.01)


def test_noise_that_hides_the_threshold_is_undecided() -> None:
    """Where the interval holds both no change and the threshold, the verdict is neither good nor
    bad.
    """
    samples = noise(20, sigma=0.3, trials=2)
    found = verdict(samples[:, 0], samples[:, 1])
    assert found.low <= 1
    assert found.high >= 1.05
    assert found.name == "undecided"


@pytest.mark.parametrize("runs", [0, 1, 2, runs_needed() - 1])
def test_too_few_runs_are_undecided(runs: int) -> None:
    """With fewer runs than can be significant a twofold latency is undecided, never neutral and
    never a regression.
    """
    samples = np.linspace(1.0, 1.01, runs)
    assert verdict(samples, 2 * samples).name == "undecided"


def test_as_many_runs_as_needed_decide() -> None:
    """The number of runs that is named as needed is enough for samples that do not overlap and in
    which neighbours do not resemble each other, and is the least.
    """
    for nodes in (1, 100):
        runs = runs_needed(ALPHA / nodes)
        samples = 1 + 0.01 * (np.arange(runs) % 2) + 1e-4 * np.random.default_rng(0).random(runs)
        assert verdict(samples, 2 * samples, nodes=nodes).name == "regression"
        assert verdict(samples[1:], 2 * samples[1:], nodes=nodes).name == "undecided"


def test_more_nodes_need_more_evidence() -> None:
    """Over a thousand nodes without a change the corrected test raises an alarm in at most 1 % of
    the comparisons.
    """
    samples = noise(30, trials=20_000)
    found = verdicts(samples, shuffled(samples, 5), threshold=0.0, nodes=1000)
    alarms = (found.names == "regression").reshape(20, 1000).any(axis=1)
    assert alarms.mean() <= 0.05
    assert (found.p_value < 0.002).any()


def test_identical_times_are_neutral() -> None:
    """Samples without any spread, such as counted clocks, give a ratio of 1 and no error."""
    assert verdict(np.ones(10), np.ones(10)).name == "neutral"
    assert paired_verdict(np.ones(10), np.ones(10)).name == "neutral"
