"""Two evaluations beside each other, with the verdicts of `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xsp.comparing.spread import LEAST_FREEDOM, among_sessions
from xsp.comparing.verdict import ALPHA, IMPROVED, REGRESSION, THRESHOLD, Verdict, verdict
from xsp.database.store import Store
from xsp.evaluation.records.differing import differences, doubts
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.reading import alike, read

SESSIONS = 30
"""Evaluations that tell how sessions differ among themselves, at most: each is read whole."""
SAME, DIFFERENT, WITHIN = "same", "different", "within the interval"


@dataclass(frozen=True)
class Comparison:
    """`latency` is the verdict on the times of the answered queries; `accuracy` has a row for each
    metric: name, before, after, word. A word is "same", "different", or "within the interval",
    where both are within the other's 95 %. `differences` says what else is not the same,
    `sessions` how many evaluations like the first told how such evaluations differ by themselves,
    and `doubts` what makes the verdict doubtful.
    """

    before: str
    after: str
    latency: Verdict
    accuracy: pd.DataFrame
    differences: tuple[str, ...]
    sessions: int = 0
    doubts: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """The comparison in words."""
        found = self.latency
        if np.isfinite(found.ratio):
            interval = f"95 % interval {found.low:.3f} to {found.high:.3f}, p = {found.p_value:.2g}"
            first = f"latency: {found.name}, ratio {found.ratio:.3f} ({interval})"
        else:
            first = f"latency: {found.name}"
        rows = [
            f"{row.name_}: {row.before:.6g} before, {row.after:.6g} after: {row.word}"
            for row in self.accuracy.rename(columns={"name": "name_"}).itertuples(index=False)
        ]
        doubted = [f"doubt: {each}" for each in (*self.doubts, *self._two_alone())]
        return [first, *doubted, *rows, *self.differences]

    def _two_alone(self) -> list[str]:
        if self.sessions > LEAST_FREEDOM or self.latency.name not in {REGRESSION, IMPROVED}:
            return []
        return [
            "this is about two measurements, and a busy moment of the machine looks the "
            f"same; evaluate the first {LEAST_FREEDOM + 1} times or more (`xsp evaluate --from "
            f"{self.before[:8]}`), and what it differs by itself counts"
        ]

    def __str__(self) -> str:
        head = f"{self.after} compared with {self.before}"
        return "\n".join([head, *(f"  {each}" for each in self.sentences())])


def compare(
    before: Evaluation,
    after: Evaluation,
    *,
    sessions: Sequence[float] = (),
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
) -> Comparison:
    """Compare the latency of the queries, and every metric of accuracy that both have.

    `sessions` are mean latencies of evaluations of the same manifest on the same system, of which
    `before` is one: with three and more, a difference has to be larger than theirs among
    themselves.
    """
    first, second = _latencies(before), _latencies(after)
    found = verdict(first, second, threshold=threshold, alpha=alpha)
    if sessions:
        found = among_sessions(
            found, [list(sessions)], float(second.mean()), threshold=threshold, alpha=alpha
        )
    return Comparison(
        before.id,
        after.id,
        found,
        _accuracy(before, after),
        tuple(differences(before, after)),
        len(sessions),
        tuple(doubts(before, after)),
    )


def sessions_like(store: Store, evaluation: Evaluation) -> list[float]:
    """Mean latencies in ns of the `SESSIONS` newest valid evaluations of the same manifest by the
    same runtime on the same system, this one included.
    """
    found = alike(store, evaluation.id, SESSIONS)
    return [float(_latencies(read(store, each)).mean()) for each in found]


def _latencies(evaluation: Evaluation) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    outcome = evaluation.outcome
    return np.asarray(outcome.latency_ns[outcome.answered], np.float64)


def _accuracy(before: Evaluation, after: Evaluation) -> pd.DataFrame:
    rows = []
    for name, value in before.accuracy.items():
        if name in after.accuracy:
            word = _word(before, after, name)
            rows.append((name, value, after.accuracy[name], word))
    return pd.DataFrame(rows, columns=["name", "before", "after", "word"])


def _word(before: Evaluation, after: Evaluation, name: str) -> str:
    first, second = before.measure(name), after.measure(name)
    if first.value == second.value:
        return SAME
    bounds = (first.low, first.high, second.low, second.high, first.value, second.value)
    if any(each is None for each in bounds):
        return DIFFERENT
    low, high, other_low, other_high, value, other = (float(each or 0.0) for each in bounds)
    return WITHIN if low <= other <= high and other_low <= value <= other_high else DIFFERENT
