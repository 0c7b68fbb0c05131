"""What became of one measurement of one test; plain values, which travel between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

REGRESSION, GREW, REFUSED, SHRANK, UNDECIDED, IMPROVED, SAME, ADDED, NEW, UNCOMPARED, DISABLED = (
    "regression",
    "grew",
    "refused",
    "shrank",
    "undecided",
    "improved",
    "same",
    "added",
    "new",
    "uncompared",
    "disabled",
)

MEANINGS = {
    REGRESSION: "significantly slower than the baseline, by more than the threshold",
    GREW: "executes, allocates or waits more than the baseline",
    REFUSED: "cannot be compared with the baseline",
    SHRANK: "executes, allocates or waits less than the baseline",
    UNDECIDED: "the noise is too large to tell",
    IMPROVED: "significantly faster than the baseline, by more than the threshold",
    SAME: "neither slower nor faster, with the same counts",
    ADDED: "one more session of the baseline; its time is not judged",
    NEW: "no baseline for this machine",
    UNCOMPARED: "measured, compared with nothing",
    DISABLED: "not measured",
}
"""Every state, those that need attention first."""


@dataclass(frozen=True)
class Outcome:
    """One measurement: its state, why the test fails (empty if it does not), and what there is to
    say besides.

    Times are in ms and of the metric compared; `ratio` is to the baseline, `low` and `high` bound
    its 95 % interval. What is unknown is None. `kept` and `unchecked` are about budgets. `saved` is
    the file that was written.
    """

    test: str
    state: str
    metric: str = "latency"
    time_ms: float | None = None
    time_ci_ms: float | None = None
    baseline_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    allowed: float | None = None
    baseline: str = ""
    machine: str = ""
    rounds: int = 0
    seconds: float = 0.0
    counts: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    saved: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """The inverse of `to_dict`, also after JSON has made lists of tuples."""
        sequences = {
            name: tuple(values[name]) for name in ("failures", "notes", "kept", "unchecked")
        }
        counts = tuple((str(name), int(number)) for name, number in values["counts"])
        return cls(**{**values, **sequences, "counts": counts})
