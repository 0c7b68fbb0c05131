"""The tracers' costs, estimated in place from what each rung of the ladder adds.

docs/replay.md has the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from xsp.analysis.correction.bounds import ceilings
from xsp.analysis.correction.charges import COST_LEVELS, Bools, Costs, Floats, Ints
from xsp.analysis.correction.evidence import Evidence, Prediction, Round
from xsp.analysis.spans.statistics import TRIM, student_quantile
from xsp.types import Level

SHAPE = Costs(
    layer_ns=8000,
    functional_ns=7000,
    backward_ns=6000,
    library_ns=150,
    launch_ns=4000,
    api_ns=300,
    kernel_ns=900,
)
"""Costs found in place on an H100 host. Only their ratios are used: how kinds of one level divide
what the rungs tell of them together.
"""

SCALE_WIDTH = 2.0
"""How far the costs of a level may be together from what its rung adds per event, as a multiple."""

RATIO_WIDTH = 0.5
"""How far each of them may be from its share in that, likewise; standard deviations both."""

IDENTIFIED = 0.5
"""A cost is identified if half its interval is less than this part of it."""

SHOWN = 1.0
"""The rungs show that a group costs something if it costs more than so many standard deviations.
More would be kept out of noisy profiles that is there, and these would be corrected too little.
"""

CONFIDENCE = 0.95
VISIBLE = 0.02
"""Of the latency: less than this need not be said."""

MODEL_ERROR = 2e-3
"""Of the latency: smaller differences must not drive costs that the latency hardly depends on."""

FEW_ROUNDS = 4
"""Replayed while the search is far from its end."""

MAX_STEPS = 6
SHORTEST_STEP = 0.02
"""The search ends with a step that changes no cost by more than this part of its scale."""

MAX_LOWERINGS = 12
STAMP_NS = 1.0
"""Stamps are whole ns: an excess of one is none."""

NO_EXCESS = 1e-3
"""Nor is one of less than this part of what a step may take out."""

_KERNEL = list(COST_LEVELS).index("kernel_ns")


@dataclass(frozen=True, eq=False)
class Fit:
    """Costs, and what they were fitted to: the evidence, and the replays at these costs.

    `spread` (7, 7) in ns² is such that n @ spread @ n is the square of half the 95 % interval of
    what n events of each kind cost together: their sum can be known better than each of them.
    """

    costs: Costs
    spread: Floats
    problem: Problem
    prediction: Prediction

    @property
    def unshown(self) -> tuple[Level, ...]:
        """Levels whose costs were kept at 0 but could be a visible part of the latency."""
        evidence, found = self.problem.evidence, set()
        latency = evidence.measured[:, 0, 0].mean()
        highest = np.array([self.costs.intervals[name][1] for name in COST_LEVELS])
        for number in self.problem.dropped:
            step, group = self.problem.groups[number]
            if (evidence.events * highest)[group].sum() > VISIBLE * latency:
                found |= evidence.levels_of(step)
        return tuple(sorted(found))

    @property
    def taken(self) -> tuple[float, float]:
        """What all tracers together took of the host's time, and half its interval, both over the
        unprofiled host's time.
        """
        evidence = self.problem.evidence
        paid = np.where(np.arange(len(COST_LEVELS)) == _KERNEL, 0.0, evidence.events)
        total = float(paid @ self.costs.values())
        half = float(np.sqrt(np.maximum(paid @ self.spread @ paid, 0.0)))
        unprofiled = float(evidence.measured[:, 0, -1].mean())
        return total / unprofiled, half / unprofiled

    def again_on(self, rounds: Bools) -> Floats:
        """The costs that these rounds alone give, to first order in the difference."""
        problem = self.problem
        differences = problem.differences(self.prediction)[rounds]
        change = problem.step(self.costs.values(), differences, self.prediction.slope)
        values = self.costs.values() + change
        return problem.within_rungs(values, self.prediction.moved(change))


def fit_costs(rounds: Sequence[Round], shape: Costs = SHAPE) -> Fit:
    """Costs with which the deepest rung, replayed, has each shallower rung's latency in the same
    rounds.

    The search begins at what each rung adds per event, and brings the trimmed mean over rounds of
    (replayed - measured) addition of each step of the ladder to 0 by bounded least squares. No cost
    is above the room between the stamps of its events (`bounds`), nor above what its step adds,
    with its interval, over the events on the critical path; nor do all costs of a step together
    take out more than that, replayed. Costs of a level that the rungs do not
    show to be above 0 are 0. A cost is `identified` if half its 95 % interval is less than half of
    it.

    Raises:
        XspError: fewer than 3 rounds, rounds with different rungs, no rung to compare with, or no
            runs.

    """
    evidence = Evidence.of(rounds)
    few = evidence.some(FEW_ROUNDS)
    problem = whole = Problem(evidence, shape, ceilings(few.timelines))
    values, prediction = problem.search(problem.start(), few)
    while (hidden := problem.least_shown(values, prediction)) is not None:
        problem = problem.without(hidden)
        values, prediction = problem.search(np.where(problem.free, values, 0.0), few)
    values, _ = problem.search(values, evidence)
    values, prediction = problem.bounded_by_rungs(values)
    # What was kept at 0 may still have cost something: all intervals allow for it.
    costs, spread = whole.described(values, prediction)
    return Fit(costs, spread, problem, prediction)


class Problem:
    """Bounded least squares over the costs that occur.

    A group are the costs of one step of the ladder that are paid on the host, or the device's.
    """

    def __init__(
        self, evidence: Evidence, shape: Costs, room: Floats, dropped: Sequence[int] = ()
    ) -> None:
        self.evidence, self.shape, self.room = evidence, shape, room
        self.dropped = tuple(dropped)
        self.groups = [
            (step, group)
            for step in range(len(evidence.steps))
            for group in _host_and_device(evidence.costs_of(step), evidence.events)
        ]
        self.free = np.zeros(len(COST_LEVELS), bool)
        for number, (_, group) in enumerate(self.groups):
            self.free[group] = number not in self.dropped
        self.scale = np.zeros(len(COST_LEVELS))
        for step, group in self.groups:
            self.scale[group] = self._scale(step, group)
        self.mean_added, self.half_added = _mean_and_half(evidence.added)

    def without(self, group: int) -> Problem:
        """The same with the costs of one more group kept at 0."""
        return Problem(self.evidence, self.shape, self.room, (*self.dropped, group))

    def _scale(self, step: int, group: Ints) -> Floats:
        """What the step adds, divided among its events: on the host by the ratios of `shape`."""
        shape = self.shape.values()[group]
        if group[0] == _KERNEL:
            return np.minimum(shape, self.room[group])
        # The host's own time, where there is one: the last of the times.
        added = _trimmed(self.evidence.added[:, step, -1:])[0][0]
        each = max(added, 1.0) / (self.evidence.events[group] @ shape)
        scale: Floats = shape * each
        return scale

    def start(self) -> Floats:
        """Costs to begin with: for the host's, the scale; the device's may be hidden."""
        begin = np.where(self.free, self.scale, 0.0)
        begin[_KERNEL] /= 2
        return np.minimum(begin, self.room)

    def differences(self, prediction: Prediction) -> Floats:
        """Replayed minus measured addition, of shape (rounds, steps, times)."""
        difference: Floats = prediction.added - self.evidence.added
        return difference

    def search(self, values: Floats, evidence: Evidence) -> tuple[Floats, Prediction]:
        """Gauss-Newton with bounds, replaying the runs of `evidence`; a step that makes things
        worse is halved.
        """
        prediction = evidence.predict(Costs.from_values(values))
        for _ in range(MAX_STEPS):
            step = self.step(values, self.differences(prediction), prediction.slope)
            if self._length(step) < SHORTEST_STEP:
                return values + step, prediction.moved(step)
            there = evidence.predict(Costs.from_values(values + step))
            if self._misfit(values + step, there) >= self._misfit(values, prediction):
                step = step / 4
                there = evidence.predict(Costs.from_values(values + step))
                if self._misfit(values + step, there) >= self._misfit(values, prediction):
                    return values, prediction
            values, prediction = values + step, there
        return values, prediction

    def bounded_by_rungs(self, values: Floats) -> tuple[Floats, Prediction]:
        """Costs lowered until no step takes more out of the deepest rung's runs than the upper end
        of the interval of what it was measured to add; all 0 if that does not come to an end.
        """
        for _ in range(MAX_LOWERINGS):
            prediction = self.evidence.predict(Costs.from_values(values))
            lowered = self.within_rungs(values, prediction)
            if np.array_equal(lowered, values):
                return values, prediction
            values = lowered
        nothing = np.zeros(len(values))
        return nothing, self.evidence.predict(Costs.from_values(nothing))

    def within_rungs(self, values: Floats, prediction: Prediction) -> Floats:
        """The same to first order: what a step takes out too much, its costs lose in proportion to
        their parts of it.
        """
        lowered, total = values.copy(), prediction.added.mean(axis=0)
        most = np.maximum(self.mean_added + self.half_added, 0.0)
        # A step's costs are also taken out for the steps above, so the deepest comes first.
        for step, time in product(reversed(range(len(total))), range(total.shape[1])):
            own = self.evidence.costs_of(step)
            taken = np.maximum(prediction.slope[step, time, own] * lowered[own], 0.0)
            excess = total[step, time] - most[step, time]
            if excess > STAMP_NS + NO_EXCESS * most[step, time] and taken.any():
                change = np.zeros(len(values))
                change[own] = -lowered[own] * np.minimum(excess * taken / (taken @ taken), 1.0)
                lowered, total = lowered + change, total + prediction.slope @ change
        return lowered

    def step(self, values: Floats, differences: Floats, slope: Floats) -> Floats:
        """The change of the costs that brings mean differences of shape (rounds, steps, times)
        nearest to 0.
        """
        free = np.flatnonzero(self.free)
        # Takes half a second to import; a report fits nothing.
        from scipy import optimize

        change = np.zeros(len(values))
        if not len(free):
            return change
        matrix, target = self._equations(values, differences, slope)
        highest = self._ceiling(slope)
        lower = -values[free] / self.scale[free]
        upper = np.maximum((highest - values)[free] / self.scale[free], lower + 1e-9)
        found = optimize.lsq_linear(matrix, target, (lower, upper)).x
        change[free] = found * self.scale[free]
        return change

    def response(self, values: Floats, prediction: Prediction, of: int = 0) -> Floats:
        """By how much the replayed addition of the deepest rung changes with what each step was
        measured to add, of shape (steps, times). `of` is the time that changes.
        """
        differences, slope = self.differences(prediction), prediction.slope
        found = np.zeros(differences.shape[1:])
        usual = self.step(values, differences, slope)
        for step, time in np.ndindex(found.shape):
            more = differences.copy()
            unit = max(float(self.half_added[step, time]), 1.0)
            more[:, step, time] -= unit
            change = (self.step(values, more, slope) - usual) / unit
            found[step, time] = prediction.total_slope[-1, of] @ change
        return found

    def _equations(
        self, values: Floats, differences: Floats, slope: Floats
    ) -> tuple[Floats, Floats]:
        """Matrix and right side of the least squares, for the free costs in units of their scale:
        a block for each step of the ladder, and what is expected of each group beforehand.
        """
        free = np.flatnonzero(self.free)
        mean, whiten = self._whitened(differences)
        rows = [whiten[step] @ slope[step][:, free] * self.scale[free] for step in range(len(mean))]
        targets = [-whiten[step] @ mean[step] for step in range(len(mean))]
        for number, (_, group) in enumerate(self.groups):
            if number not in self.dropped:
                expected, whiten_group = self._expected(group)
                row = np.zeros((len(group), len(free)))
                row[:, np.searchsorted(free, group)] = whiten_group
                rows.append(row)
                targets.append(whiten_group @ (expected - values[group] / self.scale[group]))
        return np.concatenate(rows), np.concatenate(targets)

    def _expected(self, group: Ints) -> tuple[Floats, Floats]:
        """Of a group's costs in units of their scale: mean and whitening of what is expected."""
        ones = np.ones(len(group))
        covariance = SCALE_WIDTH**2 * np.outer(ones, ones) + RATIO_WIDTH**2 * np.eye(len(group))
        # Nothing says beforehand that the device pays at all.
        expected = np.zeros(1) if group[0] == _KERNEL else ones
        return expected, np.linalg.inv(np.linalg.cholesky(covariance))

    def _whitened(self, differences: Floats) -> tuple[list[Floats], list[Floats]]:
        """By step the trimmed mean of the differences, and what whitens its error."""
        latency = self.evidence.measured.mean(axis=0)[self.evidence.steps[:, 0]]
        means, whiten = [], []
        for step in range(differences.shape[1]):
            mean, covariance, _ = _trimmed(differences[:, step])
            least = np.diag((MODEL_ERROR * latency[step] + 1.0) ** 2)
            means.append(mean)
            whiten.append(np.linalg.inv(np.linalg.cholesky(covariance + least)))
        return means, whiten

    def _ceiling(self, slope: Floats) -> Floats:
        """No cost above the room for it, or above what its step adds with its interval over the
        events that the addition depends on.
        """
        highest = self.room.copy()
        for step, group in self.groups:
            most = np.maximum(self.mean_added[step] + self.half_added[step], 0.0)
            counted = np.maximum(slope[step][:, group], 1e-9)
            by_rung = (most[:, None] / counted).min(axis=0)
            highest[group] = np.minimum(highest[group], by_rung)
        return highest

    def _misfit(self, values: Floats, prediction: Prediction) -> float:
        _, target = self._equations(values, self.differences(prediction), prediction.slope)
        return float(target @ target)

    def _length(self, step: Floats) -> float:
        used = self.free & (self.scale > 0)
        return float(np.max(np.abs(step[used]) / self.scale[used], initial=0.0))

    def _covariance(self, values: Floats, prediction: Prediction) -> Floats:
        """Of the free costs, in units of their scale."""
        matrix, _ = self._equations(values, self.differences(prediction), prediction.slope)
        return np.asarray(np.linalg.inv(matrix.T @ matrix), dtype=np.float64)

    def _quantile(self) -> float:
        freedom = _trimmed(self.evidence.measured[:, 0])[2]
        return float(student_quantile(freedom, CONFIDENCE))

    def least_shown(self, values: Floats, prediction: Prediction) -> int | None:
        """The group of which the rungs show least that it costs anything; None if they show it of
        all. One at a time, because what two can make up for is shown of neither.
        """
        kept = [number for number in range(len(self.groups)) if number not in self.dropped]
        if not kept:
            return None
        free, covariance = np.flatnonzero(self.free), self._covariance(values, prediction)
        in_scales = values[free] / self.scale[free]
        certainty = []
        for number in kept:
            group = self.groups[number][1]
            paid = np.zeros(len(free))
            paid[np.searchsorted(free, group)] = (self.evidence.events * self.scale)[group]
            certainty.append(float(paid @ in_scales / np.sqrt(paid @ covariance @ paid)))
        least = int(np.argmin(certainty))
        return None if certainty[least] > SHOWN else kept[least]

    def described(self, values: Floats, prediction: Prediction) -> tuple[Costs, Floats]:
        """The costs with the intervals that they have if all free ones are to be found, and the
        spread of `Fit`.
        """
        free = np.flatnonzero(self.free)
        spread = np.zeros((len(values), len(values)))
        if len(free):
            units = self._quantile() * self.scale[free]
            covariance = self._covariance(values, prediction)
            spread[np.ix_(free, free)] = covariance * np.outer(units, units)
        half = np.sqrt(np.diag(spread))
        low = np.maximum(values - half, 0.0)
        high = np.minimum(values + half, np.maximum(self._ceiling(prediction.slope), values))
        # Bounds that cut an interval off cut the doubt off, too.
        cut = np.divide(
            np.maximum(high - values, values - low), half, out=np.zeros_like(half), where=half > 0
        )
        known = self.free & (half < IDENTIFIED * values)
        costs = replace(
            Costs.from_values(values),
            intervals=dict(
                zip(COST_LEVELS, zip(low.tolist(), high.tolist(), strict=True), strict=True)
            ),
            identified=dict(zip(COST_LEVELS, known.tolist(), strict=True)),
        )
        return costs, spread * np.outer(cut, cut)


def _host_and_device(group: Ints, events: Floats) -> list[Ints]:
    """The costs that occur of a step, those paid on the host apart from the device's."""
    there = group[events[group] > 0]
    parts = (there[there != _KERNEL], there[there == _KERNEL])
    return [part for part in parts if len(part)]


def _mean_and_half(samples: Floats) -> tuple[Floats, Floats]:
    """Trimmed mean over axis 0 and half its interval; samples of shape (rounds, steps, times)."""
    flat = samples.reshape(len(samples), -1)
    mean, covariance, freedom = _trimmed(flat)
    quantile = student_quantile(freedom, CONFIDENCE)
    half: Floats = np.asarray(quantile * np.sqrt(np.diag(covariance)), dtype=np.float64)
    return mean.reshape(samples.shape[1:]), half.reshape(samples.shape[1:])


def _trimmed(samples: Floats) -> tuple[Floats, Floats, int]:
    """Trimmed mean of each column, its covariance from winsorised samples, degrees of freedom (as
    `statistics.trimmed`).
    """
    number = len(samples)
    cut = int(TRIM * number)
    ranked = np.sort(samples, axis=0)
    kept = number - 2 * cut
    winsorised = np.clip(samples, ranked[cut], ranked[number - 1 - cut])
    deviation = winsorised - winsorised.mean(axis=0)
    covariance = deviation.T @ deviation / (kept * (kept - 1))
    return ranked[cut : number - cut].mean(axis=0), covariance, kept - 1
