"""The highest rate under a latency bound, over any `measure(rate)`: real, or simulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from xsp.evaluation.scenarios.crossing import UNKNOWN, Crossing, crossing

NARROW = 1.05
"""The bracket is halved until its ends are no further apart than this ratio."""
NEAR = 3
"""Tests on both sides of the rate count if they are at most so many steps from it."""
SMALLEST_STEP, LARGEST_STEP = 0.005, 0.04
"""Distance of the tests from the estimated rate, relative to it."""
DOUBLES = 0.7
"""A step that changes the share of late queries by about a factor of two."""
FEWEST_NEAR = 4
DESCENTS = 5
"""How often a rate below the found one is tried for a test that is valid by itself."""
FAR = 64.0
"""A rate this many times below the first one is not tried: no queue is left there."""


@dataclass(frozen=True)
class Trial:
    """A test at one rate: so many queries, so many of them `late` (over the bound, or failed)."""

    rate_per_s: float
    queries: int
    late: int
    valid: bool
    reasons: tuple[str, ...] = ()

    def within(self, share: float) -> bool:
        """Whether no more than `1 − share` of the queries were late."""
        return self.late <= (1 - share) * self.queries


@dataclass(frozen=True)
class Found:
    """What a search gives.

    Args:
        rate_per_s: at which the percentile of the latency meets the bound, estimated from all tests
            near it; NaN where it was not found.
        lowest_per_s: lower end of its 95 % interval.
        highest_per_s: upper end of its 95 % interval.
        valid_rate_per_s: highest rate, none above `rate_per_s`, of a test that is valid by MLPerf's
            rules. It is lower, because a test must show the percentile with 99 % confidence.
        trials: every test, in order.
        reason: why the search ended.

    """

    rate_per_s: float
    lowest_per_s: float
    highest_per_s: float
    valid_rate_per_s: float
    trials: tuple[Trial, ...]
    reason: str


@dataclass
class _Search:
    measure: Callable[[float], Trial]
    share: float
    most_trials: int
    trials: list[Trial] = field(default_factory=list)

    def within(self, rate: float) -> bool:
        self.trials.append(self.measure(rate))
        return self.trials[-1].within(self.share)

    @property
    def spent(self) -> bool:
        return len(self.trials) >= self.most_trials

    def crossing_near(self, rate: float, width: float) -> Crossing:
        near = [t for t in self.trials if abs(math.log(t.rate_per_s / rate)) <= width]
        if not near:
            return UNKNOWN
        return crossing(
            [t.rate_per_s for t in near],
            [t.late for t in near],
            [t.queries for t in near],
            1 - self.share,
        )


def highest_rate(
    measure: Callable[[float], Trial],
    first_per_s: float,
    *,
    share: float = 0.99,
    precision: float = 0.02,
    most_trials: int = 30,
) -> Found:
    """Search for the rate at which the percentile `share` (0 to 1) of the latency meets the bound.

    Doubling or halving the first rate brackets it, bisection narrows the bracket to 5 %. Whether
    one test near the rate keeps the bound is chance, so tests on both sides of it follow, and the
    rate is where a curve through the counts of late queries has the allowed share, until half its
    95 % interval is no wider than `precision`. At last rates below it are tried for a valid test.

    `measure` runs a test at a rate; each of its tests must have arrivals of its own.
    """
    search = _Search(measure, share, most_trials)
    bracket = _bracket(search, first_per_s)
    if isinstance(bracket, str):
        return _unfound(search, bracket)
    low, high = _narrowed(search, *bracket)
    found = _refined(search, low, high, precision)
    if math.isnan(found.log_rate):
        return _unfound(
            search,
            f"the counts of late queries do not tell where between {low:g} and {high:g} queries/s: "
            "give more queries",
            low,
            high,
        )
    rate = math.exp(found.log_rate)
    _descend(search, rate, precision)
    reason = (
        f"known to within {found.half_width:.1%} after {len(search.trials)} tests"
        if found.half_width <= precision
        else f"{most_trials} tests gave ± {found.half_width:.2%}, not {precision:.2%}: give more "
        "queries or more tests"
    )
    width = math.exp(found.half_width)
    valid = _valid(search, rate)
    return Found(rate, rate / width, rate * width, valid, tuple(search.trials), reason)


def _bracket(search: _Search, first: float) -> tuple[float, float] | str:
    """A rate that keeps the bound and one that does not, or why there is none."""
    low: float | None = None
    high: float | None = None
    rate = first
    while not search.spent:
        if search.within(rate):
            low, rate = rate, 2 * rate
        else:
            high, rate = rate, rate / 2
        if low is not None and high is not None:
            return low, high
        if rate < first / FAR:
            break
    if low is None:
        return f"even at {high:g} queries/s the bound is not kept: it is below what a query takes"
    return f"at {low:g} queries/s the bound is still kept, and no higher rate was tried"


def _narrowed(search: _Search, low: float, high: float) -> tuple[float, float]:
    while high / low > NARROW and not search.spent:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if search.within(middle) else (low, middle)
    return low, high


def _refined(search: _Search, low: float, high: float, precision: float) -> Crossing:
    """The crossing, with tests alternately below and above its estimate."""
    middle = math.sqrt(low * high)
    step = LARGEST_STEP
    found = search.crossing_near(middle, NEAR * step)
    near = 0
    while not search.spent:
        rate = middle if math.isnan(found.log_rate) else math.exp(found.log_rate)
        rate = min(max(rate, low / NARROW), high * NARROW)
        if found.slope > 0:
            step = min(max(DOUBLES / found.slope, SMALLEST_STEP), LARGEST_STEP)
        search.within(rate * math.exp(step if near % 2 else -step))
        near += 1
        found = search.crossing_near(rate, NEAR * step)
        if near >= FEWEST_NEAR and found.half_width <= precision:
            break
    return found


def _descend(search: _Search, rate: float, precision: float) -> None:
    """Valid tests just below the rate: these may be more than `most_trials`."""
    for descent in range(1, DESCENTS + 1):
        if _valid(search, rate) >= rate * (1 - descent * precision):
            return
        search.within(rate * (1 - descent * precision))


def _valid(search: _Search, highest: float = math.inf) -> float:
    """The highest rate of a valid test. One above the found rate was valid by chance."""
    rates = [t.rate_per_s for t in search.trials if t.valid and t.rate_per_s <= highest]
    return max(rates, default=math.nan)


def _unfound(search: _Search, reason: str, low: float = math.nan, high: float = math.nan) -> Found:
    return Found(math.nan, low, high, _valid(search), tuple(search.trials), reason)
