"""Estimate the tracers' costs in place, from what each rung of the ladder adds, and check the
replay's closure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from xsp.analysis.correction.charges import COST_LEVELS, Bools, Costs, EventKind, Floats
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.spans.statistics import TRIM, trimmed
from xsp.errors import XspError
from xsp.types import DeviceKind, Level, RunSpec

MIN_ROUNDS = 3
PRIOR_WIDTH = 2.0  # standard deviation of the prior, as a multiple of the prior cost
MAX_STEPS = 4  # the replayed latency is piecewise linear in the costs: one step is nearly enough
STEP_TOLERANCE = 1e-2  # in units of the prior's width
IDENTIFIED = 0.5  # of the prior's width
MODEL_ERROR = 2e-3  # of the latency
SLOPE_ROUNDS = 5  # rounds that the replayed latency's dependence on the costs is taken from
TYPICAL = Costs(
    layer_ns=8000,
    functional_ns=7000,
    backward_ns=6000,
    library_ns=150,
    launch_ns=4000,
    api_ns=300,
    kernel_ns=900,
)
"""Costs found in place on an H100 host; where to start, and what is kept where the rungs do not
tell.
"""

MODEL = RunSpec((Level.MODEL,))


@dataclass(frozen=True)
class Round:
    """One round of the ladder: the deepest rung's runs, and the mean synchronised latency of each
    rung's runs in ns.
    """

    runs: tuple[Timeline, ...]
    latency_ns: Mapping[RunSpec, float]


@dataclass(frozen=True)
class Closure:
    """(Replayed - unprofiled latency) / unprofiled latency, over rounds that the costs were not
    fitted on.

    `low` to `high` is where the error of as many new rounds would lie with the given confidence.
    `by_round` has each round's difference over the unprofiled latency of all rounds: a ratio to the
    round's own, which varies, would be too large on average, by 1 % where latencies vary by 20 %.
    """

    error: float
    low: float
    high: float
    by_round: tuple[float, ...]

    def within(self, bound: float) -> bool:
        """Whether the whole interval lies within ± `bound` (0.02 is 2 %)."""
        return bool(max(abs(self.low), abs(self.high)) <= bound)


def fit_costs(
    rounds: Sequence[Round],
    prior: Costs = TYPICAL,
    lower: Costs | None = None,
    confidence: float = 0.95,
) -> Costs:
    """Costs with which the deepest rung, replayed, has each shallower rung's latency in the same
    rounds.

    For each rung the costs of the levels that it lacks are taken out of the deepest rung's runs.
    The trimmed means over rounds of (replayed - measured) are brought to 0 by bounded least
    squares, weighted by their covariance; a weak prior, `PRIOR_WIDTH` wide, decides what they do
    not. `lower` bounds the costs from below; no kernel can have cost more than the gaps between
    kernels that queued. A cost is `identified` if the rungs narrow it to less than half of the
    prior's width.

    Raises:
        XspError: fewer than 3 rounds, rounds with different rungs, or no rung to compare with.

    """
    problem = _Problem(rounds, prior, lower or Costs())
    return problem.solve(confidence)


def closure(
    rounds: Sequence[Round], costs: Costs, fitted_on: int | None = None, confidence: float = 0.95
) -> Closure:
    """Closure error of costs that were fitted on other rounds.

    With the number of rounds that they were `fitted_on` the interval allows for the costs' own
    error and contains 0 if the model holds; without, it is that of these very costs.
    """
    errors = _differences(rounds, costs) / _unprofiled(rounds)
    return _closure(
        errors, 1 / max(len(rounds), 1) + (1 / fitted_on if fitted_on else 0), confidence
    )


def cross_validated_closure(
    rounds: Sequence[Round],
    folds: int = 5,
    prior: Costs = TYPICAL,
    lower: Costs | None = None,
    confidence: float = 0.95,
) -> Closure:
    """Closure error of each round under costs fitted on the other folds; fold i holds rounds i, i +
    folds, ...

    Raises:
        XspError: too few rounds to fit without a fold.

    """
    folds = min(folds, len(rounds))
    errors = np.empty(len(rounds))
    for fold in range(folds):
        costs = fit_costs(
            [r for i, r in enumerate(rounds) if i % folds != fold], prior, lower, confidence
        )
        errors[fold::folds] = _differences(rounds[fold::folds], costs) / _unprofiled(rounds)
    # The fitted costs have an error too, that of a mean over the rounds that they were fitted on.
    fitted_on = len(rounds) * (folds - 1) / folds
    return _closure(errors, 1 / len(rounds) + 1 / fitted_on, confidence)


def closure_by_rung(
    rounds: Sequence[Round],
    near: Costs,
    folds: int = 5,
    prior: Costs = TYPICAL,
    confidence: float = 0.95,
) -> dict[RunSpec, Closure]:
    """Cross-validated closure error of every rung above M, under costs fitted on the other folds.

    `near` are costs fitted on all rounds. The searches only begin there: what they find depends on
    the other folds alone.

    A rung's corrected latency is its measured one less what the replay says its tracers added: the
    deepest run replayed without the costs of the levels that the rung lacks, minus the same
    replayed without any.

    Raises:
        XspError: too few rounds to fit without a fold.

    """
    folds = min(folds, len(rounds))
    rungs = [*_rungs(rounds)[1:], max(rounds[0].latency_ns, key=lambda rung: len(rung.levels))]
    errors = np.empty((len(rounds), len(rungs)))
    for fold in range(folds):
        others = [r for i, r in enumerate(rounds) if i % folds != fold]
        costs = _Problem(others, prior, Costs()).solve(confidence, near)
        errors[fold::folds] = _rung_differences(rounds[fold::folds], rungs, costs) / _unprofiled(
            rounds
        )
    variance_factor = 1 / len(rounds) + folds / (len(rounds) * (folds - 1))
    return {
        rung: _closure(errors[:, i], variance_factor, confidence) for i, rung in enumerate(rungs)
    }


def _unprofiled(rounds: Sequence[Round]) -> float:
    """Trimmed mean of the unprofiled latency, ns."""
    return float(trimmed([entry.latency_ns[MODEL] for entry in rounds])[0])


def _rung_differences(rounds: Sequence[Round], rungs: Sequence[RunSpec], costs: Costs) -> Floats:
    """Corrected minus unprofiled latency by round and rung, ns."""
    unprofiled = np.array([entry.latency_ns[MODEL] for entry in rounds])
    total = _replayed(rounds, costs)
    columns = []
    for rung in rungs:
        with_rung = _replayed(
            rounds, costs.of_levels([level for level in Level if level not in rung.levels])
        )
        measured = np.array([entry.latency_ns[rung] for entry in rounds])
        columns.append(measured - with_rung + total - unprofiled)
    differences: Floats = np.stack(columns, axis=1)
    return differences


def _differences(rounds: Sequence[Round], costs: Costs) -> Floats:
    """Replayed minus unprofiled latency by round, ns."""
    difference: Floats = _replayed(rounds, costs) - np.array(
        [entry.latency_ns[MODEL] for entry in rounds]
    )
    return difference


def _closure(errors: Floats, variance_factor: float, confidence: float) -> Closure:
    if len(errors) < 2:
        raise XspError(
            f"the closure error needs at least 2 rounds, got {len(errors)}: measure more rounds"
        )
    mean, covariance, freedom = _trimmed(errors[:, None])
    half = stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(
        covariance[0, 0] * len(errors) * variance_factor
    )
    return Closure(
        float(mean[0]), float(mean[0] - half), float(mean[0] + half), tuple(errors.tolist())
    )


def _replayed(rounds: Sequence[Round], removed: Costs) -> Floats:
    """Mean latency of each round's runs without these costs; typical latencies are those of all the
    runs.
    """
    typical = Latencies.observed([run for entry in rounds for run in entry.runs], removed)
    return np.array(
        [
            np.mean([replay(run, removed, typical).latency_ns for run in entry.runs])
            for entry in rounds
        ]
    )


def _trimmed(samples: Floats) -> tuple[Floats, Floats, int]:
    """Trimmed mean of each column, its covariance from winsorised samples, degrees of freedom (as
    `trimmed`).
    """
    number = len(samples)
    cut = int(TRIM * number)
    ranked = np.sort(samples, axis=0)
    kept = number - 2 * cut
    winsorised = np.clip(samples, ranked[cut], ranked[number - 1 - cut])
    deviation = winsorised - winsorised.mean(axis=0)
    covariance = deviation.T @ deviation / (kept * (kept - 1))
    return ranked[cut : number - cut].mean(axis=0), covariance, kept - 1


class _Problem:
    """Bounded least squares over the costs that can be told, in units of the prior's width."""

    def __init__(self, rounds: Sequence[Round], prior: Costs, lower: Costs) -> None:
        self.rounds = rounds
        self.rungs = _rungs(rounds)
        self.measured = np.array(
            [[entry.latency_ns[rung] for rung in self.rungs] for entry in rounds]
        )
        self.prior = prior.values()
        self.width = PRIOR_WIDTH * np.maximum(self.prior, 1.0)
        self.floor = lower.values()
        self.ceiling = np.maximum(
            np.maximum(self.prior, self.floor) + 50 * self.width, self.floor + 1.0
        )
        kernel = list(COST_LEVELS).index("kernel_ns")
        self.ceiling[kernel] = np.clip(
            _least_gap(rounds), self.floor[kernel] + 1.0, self.ceiling[kernel]
        )
        always = set.intersection(*(set(rung.levels) for rung in self.rungs))
        self.free = _occurring(rounds) & np.array(
            [level not in always for level in COST_LEVELS.values()]
        )

    def difference(self, values: Floats, number: int | None = None) -> Floats:
        """Replayed minus measured latency by round and rung, in all or the first few rounds."""
        costs = Costs.from_values(values)
        lacking = [
            costs.of_levels([level for level in Level if level not in rung.levels])
            for rung in self.rungs
        ]
        replayed = np.stack(
            [_replayed(self.rounds[:number], removed) for removed in lacking], axis=1
        )
        difference: Floats = replayed - self.measured[:number]
        return difference

    def solve(self, confidence: float, near: Costs | None = None) -> Costs:
        """Gauss-Newton with bounds; each step solves the linear problem exactly. The slope is taken
        twice, once where costs `near` the solution are given.
        """
        solution = np.clip(self.prior if near is None else near.values(), self.floor, self.ceiling)
        difference = self.difference(solution)
        for _ in range(2 if near is None else 1):
            whiten = self._whitening(difference)
            matrix = np.concatenate(
                [whiten @ (self._slope(solution) * self.width), np.eye(len(self.width))]
            )
            for _ in range(MAX_STEPS):
                step = self._step(solution, whiten @ _trimmed(difference)[0], matrix)
                solution = solution + step * self.width
                difference = self.difference(solution)
                if np.abs(step).max() < STEP_TOLERANCE:
                    break
        deviation = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
        return self._described(solution, deviation, confidence)

    def _step(self, solution: Floats, mean: Floats, matrix: Floats) -> Floats:
        target = np.concatenate([-mean, (self.prior - solution) / self.width])
        bounds = ((self.floor - solution) / self.width, (self.ceiling - solution) / self.width)
        step: Floats = optimize.lsq_linear(matrix, target, bounds).x
        return step

    def _described(self, solution: Floats, deviation: Floats, confidence: float) -> Costs:
        freedom = _trimmed(self.measured)[2]
        half = stats.t.ppf((1 + confidence) / 2, freedom) * deviation * self.width
        low, high = (
            np.maximum(solution - half, self.floor),
            np.minimum(solution + half, self.ceiling),
        )
        known = self.free & (deviation < IDENTIFIED)
        return replace(
            Costs.from_values(solution),
            intervals={
                name: (float(a), float(b))
                for name, a, b in zip(COST_LEVELS, low, high, strict=True)
            },
            identified={name: bool(yes) for name, yes in zip(COST_LEVELS, known, strict=True)},
        )

    def _whitening(self, difference: Floats) -> Floats:
        # What the model cannot know: smaller differences must not drive costs that the latency
        # hardly depends on.
        least = np.diag((MODEL_ERROR * self.measured.mean(axis=0) + 1.0) ** 2)
        whiten: Floats = np.linalg.inv(np.linalg.cholesky(_trimmed(difference)[1] + least))
        return whiten

    def _slope(self, values: Floats) -> Floats:
        """Change of the mean replayed latency of each rung per ns of each cost, from the first few
        rounds.
        """
        here = self.difference(values, SLOPE_ROUNDS)
        slope = np.zeros((len(self.rungs), len(values)))
        for index in np.flatnonzero(self.free):
            moved = values.copy()
            # Inwards, so that a cost at its ceiling can still come down.
            moved[index] += (
                0.05 * self.width[index] * (-1 if values[index] > self.ceiling[index] / 2 else 1)
            )
            slope[:, index] = (
                (self.difference(moved, SLOPE_ROUNDS) - here) / (moved[index] - values[index])
            ).mean(axis=0)
        return slope


def _rungs(rounds: Sequence[Round]) -> list[RunSpec]:
    """The rungs below the deepest, which every round must have."""
    if len(rounds) < MIN_ROUNDS:
        raise XspError(
            f"costs were to be fitted on {len(rounds)} rounds: at least {MIN_ROUNDS} are needed, "
            "measure more"
        )
    rungs = sorted(rounds[0].latency_ns, key=lambda rung: len(rung.levels))
    if any(set(entry.latency_ns) != set(rungs) for entry in rounds) or not all(
        entry.runs for entry in rounds
    ):
        raise XspError(
            "rounds differ in their rungs or lack runs of the deepest one: leave incomplete rounds "
            "out"
        )
    if len(rungs) < 2:
        names = ", ".join(rung.name for rung in rungs)
        raise XspError(
            f"the ladder has only the rung {names}: costs are the difference between at least 2 "
            "rungs"
        )
    return rungs[:-1]


def _occurring(rounds: Sequence[Round]) -> Bools:
    """Which costs were paid at all, in the order of `COST_LEVELS`."""
    runs = [run for entry in rounds for run in entry.runs]
    kinds = set().union(*(np.unique(run.events.kind).tolist() for run in runs))
    kernels = any((run.ops.kind == DeviceKind.KERNEL).any() for run in runs)
    return np.array([kind in kinds for kind in EventKind] + [kernels])


def _least_gap(rounds: Sequence[Round]) -> float:
    """The 5 % quantile of the gaps after kernels that had a successor waiting; infinite if no
    operation waited.
    """
    gaps = []
    for run in (run for entry in rounds for run in entry.runs):
        ops = run.ops
        launched = np.append(run.events.end_ns, np.iinfo(np.int64).max)[ops.launch]
        follows = (ops.stream[1:] == ops.stream[:-1]) & (ops.kind[:-1] == DeviceKind.KERNEL)
        queued = follows & (launched[1:] < ops.end_ns[:-1])
        gaps.append((ops.start_ns[1:] - ops.end_ns[:-1])[queued])
    found = np.concatenate(gaps)
    found = found[found >= 0]
    return float(np.quantile(found, 0.05)) if len(found) else np.inf
