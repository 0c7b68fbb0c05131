"""What became of one measurement of one test; plain values, which travel between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, NamedTuple


class Facts(NamedTuple):
    """What a state means, whether it fails a test, and what can be done about it.

    `fails` is True for a state that fails a test by default, False for one that does so if
    `--xsp-fail` names it, and None for one that never does.
    """

    meaning: str
    fails: bool | None = None
    way_out: str = ""


class State(Enum):
    """Every state of a measurement, those that need attention first. Its word, which users read and
    `--xsp-fail` takes, is its name in small letters.
    """

    REGRESSION = Facts("significantly slower than the baseline, by more than the threshold", True)
    GREW = Facts("executes, allocates or waits more than the baseline", True)
    REFUSED = Facts("cannot be compared with the baseline", True)
    SHRANK = Facts(
        "executes, allocates or waits less than the baseline",
        False,
        "--xsp-update makes it the baseline",
    )
    UNDECIDED = Facts("the noise is too large to tell", False)
    IMPROVED = Facts(
        "significantly faster than the baseline, by more than the threshold",
        way_out="--xsp-update makes it the baseline",
    )
    SAME = Facts("neither slower nor faster, with the same counts")
    COUNTED = Facts(
        "the same counts, of one run; times were not measured: no rule and no budget is about them"
    )
    NEW = Facts("no baseline for this machine", False, "--xsp-save makes one")
    RECORDED = Facts("measured for a baseline; its time is not judged")
    DISABLED = Facts("not measured")

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Outcome:
    """One measurement: its state, why the test fails (empty if it does not), and what there is to
    say besides.

    Times are in ms and of the metric compared; `ratio` is to the baseline, `low` and `high` bound
    its 95 % interval. What is unknown is None. `kept` and `unchecked` are about budgets. `saved` is
    the file that was written.
    """

    test: str
    state: State
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
        return asdict(self) | {"state": self.state.name}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """The inverse of `to_dict`, also after JSON has made lists of tuples."""
        sequences = {
            name: tuple(values[name]) for name in ("failures", "notes", "kept", "unchecked")
        }
        counts = tuple((str(name), int(number)) for name, number in values["counts"])
        state = State[values["state"]]
        return cls(**{**values, **sequences, "counts": counts, "state": state})
