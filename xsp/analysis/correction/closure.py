"""How far corrected latencies are from the unprofiled one, on rounds that the costs were not fitted
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from xsp.analysis.correction.charges import Floats
from xsp.analysis.correction.costs import Fit
from xsp.analysis.spans.statistics import student_quantile, trimmed_mean, winsorised
from xsp.types import RunSpec

FOLDS = 5
TOLERANCE = 0.02
"""A correction whose error is beyond chance and larger than this is not used."""

GROSS = 0.1
"""One whose error is larger than this is not used whatever chance could explain: so wide an
interval shows nothing.
"""


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

    @property
    def by_chance(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    @property
    def fails(self) -> bool:
        """Whether the error is too large for the corrected times to be used."""
        return abs(self.error) > (GROSS if self.by_chance else TOLERANCE)


def closure_by_rung(fit: Fit, time: int = 0) -> Mapping[RunSpec, Closure]:
    """Cross-validated closure error of every rung above M: round i is judged by costs that the
    rounds i, i + 5, ... had no part in.

    A rung's corrected time is its measured one less what the replay says its tracers added. `time`
    is that of `Evidence.measured`: the latency, or the host's from call to return, whose closure
    tells of costs that the latency does not depend on. The annotated rung of a separate ladder had
    no part in the fit in any round.
    """
    measured = fit.problem.evidence.measured
    rounds, folds = len(measured), min(FOLDS, len(measured))
    unprofiled = _unprofiled(measured, time)
    errors = np.empty((rounds, measured.shape[1] - 1))
    for fold in range(folds):
        mine = np.arange(rounds) % folds == fold
        change = fit.again_on(~mine) - fit.costs.values()
        errors[mine] = _differences(fit, change, time)[mine] / unprofiled
    # The fitted costs have an error too, that of a mean over the rounds that they were fitted on.
    variance_factor = 1 / rounds + folds / (rounds * (folds - 1))
    rungs = fit.problem.evidence.rungs[1:]
    found = {rung: _closure(errors[:, i], variance_factor) for i, rung in enumerate(rungs)}
    if fit.problem.evidence.is_separate:
        annotated = _closure(_of_annotated(fit, time), 1 / rounds)
        found[rungs[-1]] = _with_doubt_of_fit(annotated, fit, time)
    return found


def _with_doubt_of_fit(closure: Closure, fit: Fit, time: int) -> Closure:
    """With an interval that holds the doubt about the costs, too. Where tracing fills the
    time between stamps, what is added to other rungs does not move the replay, and the scatter of
    the errors says too little of the fit's.
    """
    slope = fit.prediction.total_slope[-1, time]
    variance = np.maximum(slope @ fit.spread @ slope, 0.0)
    unprofiled = _unprofiled(fit.problem.evidence.measured, time)
    doubt = float(np.sqrt(variance)) / unprofiled
    half = float(np.hypot(closure.high - closure.error, doubt))
    return replace(closure, low=closure.error - half, high=closure.error + half)


def _of_annotated(fit: Fit, time: int) -> Floats:
    """By round the error of the annotated rung. What is added in a round to the rungs that costs
    are fitted to differs from its mean; what that does to the costs is part of the round's error,
    so that the scatter of the errors holds that of the fit too.
    """
    evidence = fit.problem.evidence
    added = evidence.measured[:, -1, time] - evidence.measured[:, 0, time]
    deviation = evidence.added - evidence.added.mean(axis=0)
    response = fit.problem.response(fit.costs.values(), fit.prediction, time)
    followed = (deviation * response).sum(axis=(1, 2))
    errors: Floats = added - fit.prediction.total[:, -1, time] - followed
    return errors / _unprofiled(evidence.measured, time)


def _differences(fit: Fit, change: Floats, time: int) -> Floats:
    """Corrected minus unprofiled time by round and rung, ns, at costs changed by `change`."""
    measured = fit.problem.evidence.measured
    added = measured - measured[:, :1]
    differences: Floats = (added - fit.prediction.moved(change).total)[:, 1:, time]
    return differences


def _unprofiled(measured: Floats, time: int) -> float:
    """Trimmed mean of the unprofiled time, ns."""
    return float(trimmed_mean(measured[:, 0, time]))


def _closure(errors: Floats, variance_factor: float) -> Closure:
    within, kept = winsorised(errors)
    squares = ((within - within.mean()) ** 2).sum()
    variance = squares / (kept * (kept - 1)) * len(errors) * variance_factor
    half = float(student_quantile(kept - 1) * np.sqrt(variance))
    mean = float(trimmed_mean(errors))
    return Closure(mean, mean - half, mean + half, tuple(errors.tolist()))
