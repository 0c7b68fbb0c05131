"""The costs as bounded least squares over what the steps of the ladder add.

docs/replay.md has the method.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsp.analysis.correction.bounded import bounded_least_squares
from xsp.analysis.correction.charges import COST_LEVELS, KERNEL_COST, Costs, Floats, Ints
from xsp.analysis.correction.evidence import Evidence, Prediction
from xsp.analysis.spans.statistics import student_quantile, trimmed_jointly

SCALE_WIDTH = 2.0
"""How far the costs of a level may be together from what its rung adds per event, as a multiple."""

RATIO_WIDTH = 0.5
"""How far each of them may be from its share in that, likewise; standard deviations both."""

MODEL_ERROR = 2e-3
"""Of the latency: smaller differences must not drive costs that the latency hardly depends on."""

MAX_STEPS = 6
SHORTEST_STEP = 0.02
"""The search ends with a step that changes no cost by more than this part of its scale."""


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

    def start(self) -> Floats:
        """Costs to begin with: for the host's, the scale; the device's may be hidden."""
        begin = np.where(self.free, self.scale, 0.0)
        begin[KERNEL_COST] /= 2
        return np.minimum(begin, self.room)

    def differences(self, prediction: Prediction) -> Floats:
        """Replayed minus measured addition, of shape (rounds, steps, times)."""
        difference: Floats = prediction.added - self.evidence.added
        return difference

    def search(self, values: Floats, evidence: Evidence) -> tuple[Floats, Prediction]:
        """Gauss-Newton with bounds, replaying the runs of `evidence`; a step that makes things
        worse is quartered.
        """
        prediction = evidence.predict(Costs.from_values(values))
        for _ in range(MAX_STEPS):
            step = self.change(values, self.differences(prediction), prediction.slope)
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

    def change(self, values: Floats, differences: Floats, slope: Floats) -> Floats:
        """The change of the costs that brings mean differences of shape (rounds, steps, times)
        nearest to 0.
        """
        free = np.flatnonzero(self.free)
        change = np.zeros(len(values))
        if not len(free):
            return change
        matrix, target = self._equations(values, differences, slope)
        scale = self.scale[free]
        lower = -values[free] / scale
        room = (self.ceiling(slope) - values)[free]
        upper = np.maximum(room / scale, lower + 1e-9)
        change[free] = bounded_least_squares(matrix, target, lower, upper) * scale
        return change

    def response(self, values: Floats, prediction: Prediction, of: int = 0) -> Floats:
        """By how much the replayed addition of the deepest rung changes with what each step was
        measured to add, of shape (steps, times). `of` is the time that changes.
        """
        differences, slope = self.differences(prediction), prediction.slope
        found = np.zeros(differences.shape[1:])
        usual = self.change(values, differences, slope)
        for step, time in np.ndindex(found.shape):
            more = differences.copy()
            unit = max(float(self.half_added[step, time]), 1.0)
            more[:, step, time] -= unit
            change = (self.change(values, more, slope) - usual) / unit
            found[step, time] = prediction.total_slope[-1, of] @ change
        return found

    def ceiling(self, slope: Floats) -> Floats:
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

    def covariance(self, values: Floats, prediction: Prediction) -> Floats:
        """Of the free costs, in units of their scale."""
        matrix, _ = self._equations(values, self.differences(prediction), prediction.slope)
        return np.asarray(np.linalg.inv(matrix.T @ matrix), dtype=np.float64)

    def _scale(self, step: int, group: Ints) -> Floats:
        """What the step adds, divided among its events: on the host by the ratios of `shape`."""
        shape = self.shape.values()[group]
        if group[0] == KERNEL_COST:
            return np.minimum(shape, self.room[group])
        # The host's own time, where there is one: the last of the times.
        added = trimmed_jointly(self.evidence.added[:, step, -1:])[0][0]
        each = max(added, 1.0) / (self.evidence.events[group] @ shape)
        scale: Floats = shape * each
        return scale

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
            if number in self.dropped:
                continue
            expected, whiten_group = _expected(group)
            row = np.zeros((len(group), len(free)))
            row[:, np.searchsorted(free, group)] = whiten_group
            rows.append(row)
            unexpected = expected - values[group] / self.scale[group]
            targets.append(whiten_group @ unexpected)
        return np.concatenate(rows), np.concatenate(targets)

    def _whitened(self, differences: Floats) -> tuple[list[Floats], list[Floats]]:
        """By step the trimmed mean of the differences, and what whitens its error."""
        latency = self.evidence.measured.mean(axis=0)[self.evidence.steps[:, 0]]
        means, whiten = [], []
        for step in range(differences.shape[1]):
            mean, covariance, _ = trimmed_jointly(differences[:, step])
            least = np.diag((MODEL_ERROR * latency[step] + 1.0) ** 2)
            means.append(mean)
            whiten.append(_whitening(covariance + least))
        return means, whiten

    def _misfit(self, values: Floats, prediction: Prediction) -> float:
        _, target = self._equations(values, self.differences(prediction), prediction.slope)
        return float(target @ target)

    def _length(self, step: Floats) -> float:
        used = self.free & (self.scale > 0)
        return float(np.max(np.abs(step[used]) / self.scale[used], initial=0.0))


def _expected(group: Ints) -> tuple[Floats, Floats]:
    """Of a group's costs in units of their scale: mean and whitening of what is expected."""
    together = np.full((len(group), len(group)), SCALE_WIDTH**2)
    each = RATIO_WIDTH**2 * np.eye(len(group))
    # Nothing says beforehand that the device pays at all.
    expected = np.zeros(1) if group[0] == KERNEL_COST else np.ones(len(group))
    return expected, _whitening(together + each)


def _whitening(covariance: Floats) -> Floats:
    """What makes values with this covariance independent and of variance 1."""
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)), dtype=np.float64)


def _host_and_device(group: Ints, events: Floats) -> list[Ints]:
    """The costs that occur of a step, those paid on the host apart from the device's."""
    there = group[events[group] > 0]
    parts = (there[there != KERNEL_COST], there[there == KERNEL_COST])
    return [part for part in parts if len(part)]


def _mean_and_half(samples: Floats) -> tuple[Floats, Floats]:
    """Trimmed mean over axis 0 and half its interval; samples of shape (rounds, steps, times)."""
    flat = samples.reshape(len(samples), -1)
    mean, covariance, freedom = trimmed_jointly(flat)
    quantile = student_quantile(freedom)
    half: Floats = np.asarray(quantile * np.sqrt(np.diag(covariance)), dtype=np.float64)
    return mean.reshape(samples.shape[1:]), half.reshape(samples.shape[1:])
