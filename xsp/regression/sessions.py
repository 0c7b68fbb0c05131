"""Sessions: measurements of one test by one process each, which together say how much processes
differ here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from xsp.analysis.spans.statistics import trimmed
from xsp.comparing.comparable import Array, Comparable
from xsp.comparing.spread import LEAST_FREEDOM, spread
from xsp.regression.plan import METRICS


@dataclass(frozen=True)
class Session:
    """When it was measured, the model's time in ms by metric, and a number that is another for
    another program.
    """

    saved: str
    ms: Mapping[str, float]
    version: int = 0

    @classmethod
    def of(cls, profile: Comparable, saved: str) -> Session:
        """The session that a profile was measured in; metrics that it lacks are left out."""
        samples = {metric: model_times(profile, metric) for metric in METRICS}
        return cls(
            saved,
            {metric: float(trimmed(times)[0]) for metric, times in samples.items() if len(times)},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "ms": {metric: float(f"{time:.6g}") for metric, time in self.ms.items()},
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Session:
        """The inverse of `to_dict`."""
        return cls(row["saved"], row["ms"], row["version"])


def model_times(profile: Comparable, metric: str) -> Array:
    """The model's times in ms, one per run; empty where the metric was not measured."""
    return profile.sample(str(profile.nodes["path"].iloc[0]), metric)


def versions(sessions: Sequence[Session], metric: str) -> list[list[float]]:
    """The times of each version's sessions in ms, for `spread` and `among_sessions`."""
    grouped = groupby(sessions, key=lambda session: session.version)
    return [
        [session.ms[metric] for session in group if metric in session.ms] for _, group in grouped
    ]


def knows_spread(sessions: Sequence[Session], metric: str) -> bool:
    """Whether they are enough to say what processes differ by."""
    return spread(versions(sessions, metric))[1] >= LEAST_FREEDOM


def spread_sentence(sessions: Sequence[Session], metric: str) -> str:
    """What processes differ by, or that it is not known."""
    if not knows_spread(sessions, metric):
        count = "one session" if len(sessions) == 1 else f"{len(sessions)} sessions"
        return (
            f"the baseline is of {count}, so how much processes differ here is not in it "
            "(--xsp-add)"
        )
    deviation, _ = spread(versions(sessions, metric))
    return (
        f"processes differ here by {deviation:.1%} (standard deviation, {len(sessions)} sessions)"
    )
