"""What a comparison found, as data: text, page and markdown read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from xsp.comparing.causes import Cause
from xsp.comparing.node_facts import COUNTS
from xsp.comparing.verdict import IMPROVED, REGRESSION, Verdict
from xsp.words.numbers import known

_COUNTED = ("calls", *COUNTS, "parameter_bytes")
COLUMNS = [
    "level",
    "change",
    "path_a",
    "path_b",
    "name",
    "type",
    "phase",
    "metric",
    "a_ms",
    "b_ms",
    "ratio",
    "low",
    "high",
    "p_value",
    "verdict",
    *(f"{name}_{side}" for name in _COUNTED for side in "ab"),
]


@dataclass(frozen=True, repr=False)
class ComparisonData:
    """What changed from a baseline to a candidate.

    Attributes:
        baseline: name of the baseline's model.
        candidate: name of the candidate's model.
        verdict: on the model's unprofiled latency; undecided with NaN where times are not compared.
        a_ms: the baseline's latency.
        b_ms: the candidate's.
        nodes: one row per pair of nodes, in the order in which the candidate runs: level, change
            ("same", "changed", "appeared", "vanished"), path_a, path_b, name, type, phase, metric
            ("latency", "device", "host"), a_ms, b_ms, ratio, low, high, p_value, verdict, and
            calls, kernels, copies, sets, copied_bytes, library_calls, synchronizations,
            allocated_bytes and parameter_bytes with `_a` and `_b`.
        counts: what one run does on each side: count, a, b. Only counts that are known on both.
        causes: changes and slow-downs of layers, the most guilty first.
        sentences: the same for people; the first names the most guilty layer and says why.
        refusal: why times are not compared; None where they are.
        threshold: slow-down from which on a difference matters.
        alpha: significance that it needs.

    """

    baseline: str
    candidate: str
    verdict: Verdict
    a_ms: float
    b_ms: float
    nodes: pd.DataFrame
    counts: pd.DataFrame
    causes: tuple[Cause, ...]
    sentences: tuple[str, ...]
    refusal: str | None
    threshold: float
    alpha: float

    @property
    def counts_grew(self) -> list[str]:
        """The counts of which the candidate has more: they are the same in every run and on every
        machine.
        """
        return [str(name) for name in self.counts.loc[self.counts["b"] > self.counts["a"], "count"]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; numbers that are not known are None. Nodes that did not
        change have no row unless their time did.
        """
        told = self.nodes[
            (self.nodes["change"] != "same") | self.nodes["verdict"].isin([REGRESSION, IMPROVED])
        ]
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "verdict": _plain(asdict(self.verdict)),
            "a_ms": known(self.a_ms),
            "b_ms": known(self.b_ms),
            "refusal": self.refusal,
            "threshold": self.threshold,
            "alpha": self.alpha,
            "sentences": list(self.sentences),
            "causes": [
                _plain(asdict(cause) | {"kind": cause.kind.name.lower()}) for cause in self.causes
            ],
            "counts": [_plain(row) for row in self.counts.to_dict("records")],
            "nodes": [_plain(row) for row in told.to_dict("records")],
        }


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return known(float(value))
    if isinstance(value, np.integer):
        return int(value)
    return list(value) if isinstance(value, tuple | np.ndarray) else value
