"""What the rungs of the ladder show of the tracers' costs, and what a replay says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from xsp.analysis.correction.charges import COST_LEVELS, Costs, EventKind, Floats, Ints
from xsp.analysis.correction.critical_path import slopes
from xsp.analysis.correction.replay import ReplayedTimeline, replay_together
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.spans.rungs import is_separate
from xsp.errors import XspError
from xsp.types import DeviceKind, Level, RunSpec

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Round:
    """One round of the ladder: the deepest rung's runs, the mean synchronised latency of each
    rung's runs in ns and, where a device worked, the mean host time from call to return.

    `runs` can be empty: such a round says what the rungs add, and the replays of the others have to
    stand for its own.
    """

    runs: tuple[Timeline, ...]
    latency_ns: Mapping[RunSpec, float]
    host_ns: Mapping[RunSpec, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What each rung adds to the shallowest one by replay at some costs, in ns.

    `total` has shape (rounds, rungs, times) as `Evidence.measured`; `total_slope` (rungs, times, 8)
    is its mean change per ns of each cost. `steps` are those of `Evidence`.
    """

    total: Floats
    total_slope: Floats
    steps: Ints

    @property
    def added(self) -> Floats:
        """What each step adds, as `Evidence.added`."""
        return _across(self.steps, self.total, axis=1)

    @property
    def slope(self) -> Floats:
        """Its mean change per ns of each cost, of shape (steps, times, 8)."""
        return _across(self.steps, self.total_slope, axis=0)

    def moved(self, step: Floats) -> Prediction:
        """The same at costs that are a little different, to first order."""
        return replace(self, total=self.total + self.total_slope @ step)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rounds as arrays. A step is from one rung to the next deeper one; on a separate ladder it is
    from the shallowest rung to each of those that trace one level, and the annotated rung, which is
    the deepest, is in no step: costs are not fitted to it.

    `measured` (rounds, rungs, times) has the latencies in ns, the shallowest rung first; the times
    are the synchronised latency and, where a device worked, the host's from call to return. A host
    that runs ahead of the device pays in the second without paying in the first. `events` has the
    number of events of a run that pay each cost on the main thread's clock or, without one there,
    at all.
    """

    rungs: tuple[RunSpec, ...]
    measured: Floats
    runs: Mapping[int, tuple[Timeline, ...]]
    events: Floats

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> Evidence:
        """Raises XspError: fewer than 3 rounds, rounds with different rungs, no rung to compare
        with, or no round with runs.
        """
        rungs = _checked(rounds)
        runs = {number: entry.runs for number, entry in enumerate(rounds) if entry.runs}
        every = [run for one in runs.values() for run in one]
        tables = [[entry.latency_ns for entry in rounds]]
        if any(len(run.ops.kind) for run in every) and all(entry.host_ns for entry in rounds):
            tables.append([entry.host_ns for entry in rounds])
        measured = [
            [[table[number][rung] for table in tables] for rung in rungs]
            for number in range(len(rounds))
        ]
        events = np.mean([_events(run) for run in every], axis=0)
        return cls(rungs, np.array(measured), runs, events)

    @property
    def is_separate(self) -> bool:
        """Whether the rungs trace one level each, and the deepest one all of them."""
        return is_separate(rung.name for rung in self.rungs)

    @property
    def steps(self) -> Ints:
        """The rungs before and after each step, of shape (steps, 2)."""
        last = len(self.rungs) - 1
        if self.is_separate:
            return np.array([(0, rung) for rung in range(1, last)], dtype=np.int64)
        return np.array([(rung, rung + 1) for rung in range(last)], dtype=np.int64)

    @property
    def added(self) -> Floats:
        """What each step was measured to add, of shape (rounds, steps, times)."""
        return _across(self.steps, self.measured, axis=1)

    @property
    def timelines(self) -> list[Timeline]:
        """The deepest rung's runs that there are."""
        return [run for runs in self.runs.values() for run in runs]

    def levels_of(self, step: int) -> set[Level]:
        """The levels that a step adds."""
        before, after = self.steps[step]
        return set(self.rungs[after].levels) - set(self.rungs[before].levels)

    def costs_of(self, step: int) -> Ints:
        """Which costs a step adds, as places in `COST_LEVELS`."""
        levels = self.levels_of(step)
        return np.flatnonzero([level in levels for level in COST_LEVELS.values()])

    def some(self, rounds: int) -> Evidence:
        """The same with replays of that many rounds at most."""
        numbers = list(self.runs)
        chosen = np.unique(np.linspace(0, len(numbers) - 1, min(rounds, len(numbers))).round())
        kept = [numbers[int(place)] for place in chosen]
        return Evidence(
            self.rungs, self.measured, {number: self.runs[number] for number in kept}, self.events
        )

    def predict(self, costs: Costs) -> Prediction:
        """What each rung adds according to replays of the deepest rung's runs.

        The levels that a rung lacks are taken out for its latency. Rounds without runs get the mean
        of the others.
        """
        runs, times = len(self.timelines), self.measured.shape[2]
        latency = np.empty((runs, len(self.rungs), times))
        slope = np.zeros((len(self.rungs), times, len(COST_LEVELS)))
        latency[:, -1] = [_recorded(run)[:times] for run in self.timelines]
        for number, rung in enumerate(self.rungs[:-1]):
            lacking = [level for level in Level if level not in rung.levels]
            # Not by a variable, which would keep one replay until the next is there.
            played = replay_together(self.timelines, costs.of_levels(lacking))
            by_run = list(map(partial(_latencies_and_slopes, times=times), played))
            latency[:, number] = [latencies for latencies, _ in by_run]
            is_paid = np.array([level in lacking for level in COST_LEVELS.values()])
            slope[number] = np.mean([slopes for _, slopes in by_run], axis=0) * is_paid
        total = self._by_round(latency - latency[:, :1])
        return Prediction(total, slope - slope[:1], self.steps)

    def _by_round(self, of_runs: Floats) -> Floats:
        """Means over the runs of each round, of shape (rounds, rungs, times); over all runs where a
        round has none.
        """
        means = np.broadcast_to(of_runs.mean(axis=0), self.measured.shape).copy()
        cuts = np.cumsum([len(runs) for runs in self.runs.values()])[:-1]
        for number, part in zip(self.runs, np.split(of_runs, cuts), strict=True):
            means[number] = part.mean(axis=0)
        return means


def _across(steps: Ints, by_rung: Floats, axis: int) -> Floats:
    """By how much each step changes what is known by rung, along this axis."""
    before, after = steps.T
    changes: Floats = by_rung.take(after, axis) - by_rung.take(before, axis)
    return changes


def _recorded(run: Timeline) -> tuple[int, int]:
    return run.latency_ns, run.host_end_ns - run.start_ns


def _latencies_and_slopes(played: ReplayedTimeline, times: int) -> tuple[tuple[int, ...], Floats]:
    ends = (played.timeline.end_ns, played.timeline.host_end_ns)[:times]
    return (played.latency_ns, played.host_latency_ns)[:times], slopes(played, ends)


def _events(run: Timeline) -> Floats:
    main = np.bincount(run.events.kind[run.events.clock == 0], minlength=len(EventKind))
    every = np.bincount(run.events.kind, minlength=len(EventKind))
    kernels = (run.ops.kind == DeviceKind.KERNEL).sum()
    return np.append(np.where(main > 0, main, every), kernels).astype(np.float64)


def _checked(rounds: Sequence[Round]) -> tuple[RunSpec, ...]:
    """The rungs, which every round must have, the shallowest first."""
    if len(rounds) < MIN_ROUNDS:
        raise XspError(
            f"fitting the costs needs at least {MIN_ROUNDS} rounds, not {len(rounds)}: measure more"
        )
    rungs = sorted(rounds[0].latency_ns, key=lambda rung: (len(rung.levels), rung.levels))
    if any(set(entry.latency_ns) != set(rungs) for entry in rounds):
        raise XspError("the rounds do not all have the same rungs: leave out incomplete ones")
    if not any(entry.runs for entry in rounds):
        raise XspError("no round has a run of its deepest rung: give the timelines of at least one")
    if len(rungs) < 2:
        names = ", ".join(rung.name for rung in rungs)
        raise XspError(
            f"the ladder has only the rung {names}: costs are differences between rungs, so at "
            "least 2 are needed"
        )
    return tuple(rungs)
