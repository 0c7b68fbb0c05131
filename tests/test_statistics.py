"""Summaries and interval arithmetic against independent implementations."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xsp.analysis.spans.align import match_events, occurrence
from xsp.analysis.spans.intervals import covered_ns, innermost
from xsp.analysis.spans.statistics import TRIM, trimmed
from xsp.types import BACKWARD_BASE

Intervals = list[tuple[int, int, int]]


@given(st.lists(st.floats(1, 1e9), min_size=2, max_size=60))
def test_trimmed_mean_is_scipys_and_its_interval_that_of_yuens_test(samples: list[float]) -> None:
    """The mean is scipy's, and a value just outside the interval is what scipy's trimmed t test
    rejects at 5 %.
    """
    mean, half = trimmed(samples)
    np.testing.assert_allclose(mean, stats.trim_mean(samples, TRIM), rtol=1e-12)
    if half < 1e-6 * mean:
        return
    for factor, least, most in ((0.99, 0.05, 1.0), (1.01, 0.0, 0.05)):
        # Against samples without any scatter, Yuen's test for two samples is that for one.
        other = np.full(2, float(mean + factor * half))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.ttest_ind(samples, other, equal_var=False, trim=TRIM)
        assert least <= found.pvalue <= most


def test_trimmed_works_column_by_column() -> None:
    """A matrix is summarised per column, each as if it stood alone."""
    samples = np.random.default_rng(0).lognormal(size=(13, 5))
    mean, half = trimmed(samples)
    for column in range(5):
        np.testing.assert_allclose((mean[column], half[column]), trimmed(samples[:, column]))


def test_too_few_samples_have_no_interval() -> None:
    """One sample has a mean and no interval; none has neither. No warning is raised either way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trimmed([3.0])[0] == 3.0
        assert np.isnan(trimmed([3.0])[1])
        assert np.isnan(trimmed([])[0])


def test_outliers_do_not_move_the_summary() -> None:
    """A fifth of the samples may be arbitrarily wrong."""
    samples = [100.0] * 8 + [1e12, 1e12]
    assert trimmed(samples)[0] == 100.0


@pytest.mark.parametrize("rounds", [2, 3, 4, 5, 6, 9, 10, 14, 15, 30])
def test_interval_covers_the_truth_as_often_as_it_says(rounds: int) -> None:
    """Over 20,000 simulated profiles the 95 % interval holds the true latency in 93 to 96 of 100,
    for any number of rounds.
    """
    samples = np.random.default_rng(1).normal(1000, 30, size=(rounds, 20_000))
    mean, half = trimmed(samples)
    assert 0.93 <= np.mean(np.abs(mean - 1000) <= half) <= 0.96


@st.composite
def laminar(draw: st.DrawFn) -> Intervals:
    """Nested or disjoint intervals with distinct ends on up to three threads, as calls are:
    (thread, start, end).
    """
    found: Intervals = []
    for thread in range(draw(st.integers(1, 3))):
        now, opened = 0, []
        for push in draw(st.lists(st.booleans(), max_size=30)):
            now += draw(st.integers(1, 5))
            if push:
                opened.append(now)
            elif opened:
                found.append((thread, opened.pop(), now))
        for start in reversed(opened):
            now += 1
            found.append((thread, start, now))
    return draw(st.permutations(found))


def columns(intervals: Intervals) -> list[npt.NDArray[np.int64]]:
    """Thread, start and end as arrays."""
    return list(np.array(intervals, dtype=np.int64).reshape(-1, 3).T)


@settings(max_examples=200)
@given(
    laminar(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 80), st.integers(0, 8)), max_size=20),
)
def test_innermost_is_what_brute_force_finds(outer: Intervals, asked: Intervals) -> None:
    """Of all intervals of the thread that contain the question, `innermost` gives the shortest."""
    inner = [(thread, start, start + length) for thread, start, length in asked]
    found = innermost(*columns(outer), *columns(inner))
    for (thread, start, end), answer in zip(inner, found, strict=True):
        around = [i for i, (t, s, e) in enumerate(outer) if t == thread and s <= start and end <= e]
        shortest = min(around, key=lambda i: outer[i][2] - outer[i][1], default=-1)
        assert answer == shortest


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 20)), max_size=25))
def test_covered_time_is_what_counting_finds(rows: Intervals) -> None:
    """The union of overlapping intervals, group by group, is the number of nanoseconds in any of
    them.
    """
    group, start, length = columns(rows)
    found = covered_ns(group, start, start + length, 4)
    for one in range(4):
        ticks = {tick for g, s, n in rows if g == one for tick in range(s, s + n)}
        assert found[one] == len(ticks)


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=30))
def test_matching_pairs_equal_occurrences(codes: list[int], structure: list[int]) -> None:
    """The n-th event with a code meets the n-th structure row with that code, and nothing else."""
    found = match_events(np.array(codes, dtype=np.int64), np.array(structure, dtype=np.int64))
    for index, (code, row) in enumerate(zip(codes, found, strict=True)):
        rows = [i for i, one in enumerate(structure) if one == code]
        nth = codes[:index].count(code)
        assert row == (rows[nth] if nth < len(rows) else -1)
    assert list(occurrence(np.array(codes, dtype=np.int64))) == [
        codes[:i].count(c) for i, c in enumerate(codes)
    ]


def test_backward_nodes_match_however_often_they_run() -> None:
    """An autograd node of a retained graph is one row of the structure, walked once or twice."""
    node = BACKWARD_BASE + 3
    assert list(match_events(np.array([node, 1, node]), np.array([1, node]))) == [1, 0, 1]
