"""Whether one sample of times is slower than another: a ratio with its interval, a test, and a word
for both.

A word is given only where the ratio is over the threshold *and* the difference is significant. A
significant difference of half a per cent is not a regression, and a ratio of 1.2 from three noisy
runs is not evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from xsp.analysis.spans.statistics import CONFIDENCE, TRIM

THRESHOLD = 0.05
"""Slow-down from which on a difference matters, as a share of the baseline."""
ALPHA = 0.002
"""Significance that a difference needs, before it is divided by the number of nodes compared (asv's
default).
"""

REGRESSION, IMPROVED, NEUTRAL, UNDECIDED = "regression", "improved", "neutral", "undecided"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """`name` is "regression", "improved", "neutral" or "undecided"; `ratio` is candidate over
    baseline.

    `low` and `high` bound its 95 % interval; `p_value` is that of no difference. All are NaN where
    nothing is known.
    """

    name: str
    ratio: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Verdicts:
    """The same for many nodes at once, one element each; `names` holds the words."""

    names: npt.NDArray[np.object_]
    ratio: Array
    low: Array
    high: Array
    p_value: Array

    def __getitem__(self, index: int) -> Verdict:
        return Verdict(
            str(self.names[index]),
            float(self.ratio[index]),
            float(self.low[index]),
            float(self.high[index]),
            float(self.p_value[index]),
        )


def verdict(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    nodes: int = 1,
) -> Verdict:
    """Compare two independent samples of times, in any one unit, each in the order in which it was
    measured.

    - regression: the ratio of the trimmed means is over 1 + `threshold`, its 95 % interval is above
      1, and the Mann-Whitney test rejects "no difference" at p < `alpha` / `nodes` (Bonferroni's
      correction for the number of nodes compared);
    - improved: the same the other way round, with the ratio below 1 / (1 + `threshold`);
    - undecided: neither, but the 95 % interval of the ratio holds both 1 and 1 + `threshold`, or
      the ratio is beyond the threshold without being significant, or there are fewer than two
      values: more runs are needed to tell;
    - neutral: none of these.

    Runs that follow each other resemble each other. Where they show it, by the correlation of
    neighbours, the interval widens and the p-value rises as if there were fewer runs.
    """
    return verdicts(
        _column(baseline), _column(candidate), threshold=threshold, alpha=alpha, nodes=nodes
    )[0]


def verdicts(
    baseline: Array,
    candidate: Array,
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    nodes: int = 1,
) -> Verdicts:
    """`verdict` for matrices with a row per run and a column per node."""
    mean_a, error_a, freedom_a = _trimmed_error(baseline)
    mean_b, error_b, freedom_b = _trimmed_error(candidate)
    less = inflation(baseline, candidate)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean_b / mean_a
        part_a, part_b = (error_a / mean_a) ** 2, (error_b / mean_b) ** 2
        plain = part_a + part_b
        # Welch and Satterthwaite's degrees of freedom, of the logarithm of the ratio (delta
        # method).
        freedom = plain**2 / (part_a**2 / freedom_a + part_b**2 / freedom_b)
        half = np.where(plain > 0, stats.t.ppf(0.5 + CONFIDENCE / 2, freedom), 0.0) * np.sqrt(
            less * plain
        )
    p_value = _weakened(_mann_whitney(baseline, candidate), less)
    return name_verdicts(
        ratio,
        ratio * np.exp(-half),
        ratio * np.exp(half),
        p_value,
        threshold,
        alpha / max(nodes, 1),
    )


def paired_verdict(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
) -> Verdict:
    """`verdict` for runs that were made in turn: element i of both samples is from round i.

    What drifts from round to round is in both and falls out. The ratio is the trimmed geometric
    mean of the rounds' ratios, the test Wilcoxon's signed-rank test on their logarithms.
    """
    a, b = _column(baseline), _column(candidate)
    logarithm = np.log(b / a)
    mean, error, freedom = _trimmed_error(logarithm)
    less = inflation(logarithm)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * error * np.sqrt(less)
    different = logarithm[logarithm != 0]
    p_value = np.array(
        [
            stats.wilcoxon(different).pvalue
            if len(different) > 1
            else (1.0 if len(a) > 1 else np.nan)
        ]
    )
    return name_verdicts(
        np.exp(mean),
        np.exp(mean - half),
        np.exp(mean + half),
        _weakened(p_value, less),
        threshold,
        alpha,
    )[0]


def name_verdicts(
    ratio: Array, low: Array, high: Array, p_value: Array, threshold: float, level: float
) -> Verdicts:
    """The words for ratios with intervals and p-values; `level` is the significance that is
    needed.
    """
    with np.errstate(invalid="ignore"):
        # Ranks can differ for sure while the mean does not, where a few runs are far off: then the
        # mean is not evidence.
        significant = (p_value < level) & ((low > 1) | (high < 1))
        slower, faster = ratio > 1 + threshold, ratio < 1 / (1 + threshold)
        cannot_tell = (low <= 1) & (high >= 1 + threshold)
    unknown = np.isnan(ratio) | np.isnan(low)
    names = np.select(
        [unknown, slower & significant, faster & significant, cannot_tell | slower | faster],
        [UNDECIDED, REGRESSION, IMPROVED, UNDECIDED],
        NEUTRAL,
    ).astype(object)
    return Verdicts(names, ratio, low, high, p_value)


def runs_needed(alpha: float = ALPHA) -> int:
    """Runs on each side from which on two samples that do not overlap at all are significant."""
    runs = 2
    while 2 / comb(2 * runs, runs) >= alpha:
        runs += 1
    return runs


def rounds_needed(alpha: float = ALPHA) -> int:
    """Rounds in turn from which on ratios that all point one way are significant: the signs' 2 /
    2^rounds < alpha.
    """
    rounds = 2
    while 2.0 ** (1 - rounds) >= alpha:
        rounds += 1
    return rounds


def inflation(*samples: Array) -> Array:
    """How many times fewer independent runs each column stands for: (1 + r) / (1 - r) for a
    first-order process.

    r is the correlation of neighbours, by ranks, in all samples together. That it is taken about
    the runs' own mean makes it too small by (1 + 3 r) / runs (Marriott and Pope), which is put
    back: of twenty runs with r = 0.8 it would be 0.6, of ten 0.4. Its own standard error is left
    out, so that independent runs are not punished for chance; r is at least 0, at most 0.95.
    """
    if min(map(len, samples)) < _LEAST_CORRELATED:
        return np.ones(samples[0].shape[1])
    count = sum(map(len, samples))
    runs = count / len(samples)
    ranks = [_standard_ranks(sample) for sample in samples]
    products = [(each[1:] * each[:-1]).sum(axis=0) for each in ranks]
    neighbours = np.sum(products, axis=0) / count
    error = 1 / np.sqrt(count)
    r = np.clip((neighbours + 1 / runs - error) / (1 - 3 / runs), 0.0, 0.95)
    return np.asarray((1 + r) / (1 - r))


_LEAST_CORRELATED = 5
"""Runs from which on the correlation of neighbours is looked at."""


def _standard_ranks(sample: Array) -> Array:
    """Ranks with mean 0 and mean square 1; all 0 where the runs do not differ."""
    ranks = stats.rankdata(sample, axis=0) - (len(sample) + 1) / 2
    size = np.sqrt((ranks**2).mean(axis=0))
    return np.asarray(ranks / np.where(size > 0, size, 1.0), dtype=np.float64)


def _column(values: npt.ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _trimmed_error(samples: Array) -> tuple[Array, Array, float]:
    """Trimmed mean, its standard error and degrees of freedom (Tukey and McLaughlin), by column."""
    values = np.sort(samples, axis=0)
    count = len(values)
    cut = int(TRIM * count)
    kept = count - 2 * cut
    unknown = np.full(values.shape[1], np.nan)
    if count == 0:
        return unknown, unknown, np.nan
    if kept < 2:
        return values.mean(axis=0), unknown, np.nan
    winsorised = np.clip(values, values[cut], values[count - cut - 1])
    error = winsorised.std(axis=0, ddof=1) / ((1 - 2 * TRIM) * np.sqrt(count))
    mean = values[cut : count - cut].mean(axis=0)
    return np.asarray(mean), np.asarray(error), float(kept - 1)


_EXACT = 2500
"""Product of the sample sizes up to which the exact distribution is used: the normal one is wrong
far in the tail.
"""


def _mann_whitney(baseline: Array, candidate: Array) -> Array:
    if not len(baseline) or not len(candidate):
        return np.full(baseline.shape[1], np.nan)
    method: Literal["exact", "asymptotic"] = (
        "exact" if len(baseline) * len(candidate) <= _EXACT else "asymptotic"
    )
    found = stats.mannwhitneyu(baseline, candidate, axis=0, method=method)
    return np.asarray(found.pvalue, dtype=np.float64).reshape(-1)


def _weakened(p_value: Array, less: Array) -> Array:
    """The p-value if the runs stood for `less` times fewer, by way of the normal deviate that it is
    worth.
    """
    deviate = stats.norm.isf(np.clip(p_value, 1e-300, 1.0) / 2) / np.sqrt(less)
    return np.asarray(np.where(less > 1, 2 * stats.norm.sf(deviate), p_value), dtype=np.float64)
