"""Two profiles compared: whether the model is slower, and which layer, library call or kernel it comes from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.comparing import sentences
from xsp.analysis.comparing.causes import Cause, causes
from xsp.analysis.comparing.comparability import levels_missing, refusal, settings_changed
from xsp.analysis.comparing.comparable import Comparable, comparable
from xsp.analysis.comparing.differences import Differences, differences
from xsp.analysis.comparing.sentences import Whole, narrowing
from xsp.analysis.comparing.verdict import (
    ALPHA,
    IMPROVED,
    REGRESSION,
    THRESHOLD,
    UNDECIDED,
    Verdict,
    runs_needed,
)  # fmt: skip
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.profiles import Profile

_LEVELS = ["MODEL", "MODULE", "LAYER", "LIBRARY", "KERNEL"]
_COUNTED = [
    "calls", "kernels", "copies", "sets", "copied_bytes", "library_calls", "synchronizations", "allocated_bytes",
    "parameter_bytes",
]  # fmt: skip
COLUMNS = [
    "level", "change", "path_a", "path_b", "name", "type", "phase", "metric", "a_ms", "b_ms", "ratio", "low", "high",
    "p_value", "verdict", *(f"{name}_{side}" for name in _COUNTED for side in "ab"),
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Comparison:
    """What changed from a baseline to a candidate.

    Attributes:
        baseline: name of the baseline's model.
        candidate: name of the candidate's model.
        verdict: on the model's unprofiled latency; undecided with NaN where times are not compared.
        a_ms: the baseline's latency.
        b_ms: the candidate's.
        nodes: one row per pair of nodes, in the order in which the candidate runs: level, change ("same", "changed",
            "appeared", "vanished"), path_a, path_b, name, type, phase, metric ("latency", "device", "host"), a_ms,
            b_ms, ratio, low, high, p_value, verdict, and calls, kernels, copies, sets, copied_bytes, library_calls,
            synchronizations, allocated_bytes and parameter_bytes with `_a` and `_b`.
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
        """The counts of which the candidate has more: they are the same in every run and on every machine."""
        return [str(name) for name in self.counts.loc[self.counts["b"] > self.counts["a"], "count"]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; numbers that are not known are None. Nodes that did not change have no row
        unless their time did.
        """
        told = self.nodes[(self.nodes["change"] != "same") | self.nodes["verdict"].isin([REGRESSION, IMPROVED])]
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "verdict": _plain(asdict(self.verdict)),
            "a_ms": _known(self.a_ms),
            "b_ms": _known(self.b_ms),
            "refusal": self.refusal,
            "threshold": self.threshold,
            "alpha": self.alpha,
            "sentences": list(self.sentences),
            "causes": [_plain(asdict(cause) | {"kind": cause.kind.name.lower()}) for cause in self.causes],
            "counts": [_plain(row) for row in self.counts.to_dict("records")],
            "nodes": [_plain(row) for row in told.to_dict("records")],
        }

    def to_html(self, path: str | Path) -> Path:
        """Write a page that holds all of it and loads nothing.

        Raises XspError where the directory does not exist.
        """
        from xsp.export.comparison_html import write_comparison

        return write_comparison(self, Path(path))

    def to_markdown(self) -> str:
        """GitHub-flavoured markdown: the sentences and tables of counts and layers."""
        from xsp.render.comparison import comparison_markdown

        return comparison_markdown(self)

    def __repr__(self) -> str:
        from xsp.render.comparison import comparison_text

        return comparison_text(self)


def compare(
    a: Profile | Comparable,
    b: Profile | Comparable,
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    allow: Collection[str] = (),
) -> Comparison:
    """What changed from the baseline `a` to the candidate `b`, and where.

    Args:
        a: a profile, or what `xsp.analysis.comparing.comparable.comparable` keeps of one.
        b: the same.
        threshold: slow-down that matters, as a share. To find slow-downs of 5 %, ask for about half of it.
        alpha: significance that a difference needs; for the nodes of a level it is divided by their number.
        allow: facts that may differ and times still be compared: those of the environment, such as "torch" or
            "driver", and "inputs", the shapes and types of the model's inputs.

    Raises XspError for an unknown name in `allow`, and for a threshold or alpha that cannot be.

    """
    if not 0 <= threshold < np.inf:
        raise XspError(f"threshold={threshold!r} cannot be: a share from 0 on, such as 0.05")
    if not 0 < alpha < 1:
        raise XspError(f"alpha={alpha!r} cannot be: a probability between 0 and 1, such as {ALPHA}")
    mine, other = comparable(a), comparable(b)
    return compared(mine, other, threshold, alpha, refusal(mine, other, allow))


def compared(
    a: Comparable, b: Comparable, threshold: float, alpha: float, refused: str | None, better: Whole | None = None
) -> Comparison:
    """The comparison; `better` takes the place of the verdict on the whole that the two samples give."""
    found = differences(a, b, threshold, alpha, timed=refused is None)
    nodes = _nodes(found)
    model = nodes.iloc[0]
    whole = Verdict(
        str(model["verdict"] or UNDECIDED), *(float(model[name]) for name in ("ratio", "low", "high", "p_value"))
    )
    runs = min(len(each.sample(each.nodes["path"].iloc[0], "latency")) for each in (a, b))
    told = Whole(whole, float(model["a_ms"]), float(model["b_ms"]), narrowing(runs, runs_needed(alpha)))
    if better is not None and refused is None:
        told = better
    ranked = causes(found, told.a_ms)
    counts = _counts(a, b, found)
    said = [
        *sentences.first(ranked, told.verdict, found),
        sentences.of_model(told, refused),
        *sentences.others(ranked),
        *sentences.of_counts(counts),
        *settings_changed(a, b),
        *levels_missing(a, b),
    ]
    return Comparison(
        a.name, b.name, told.verdict, told.a_ms, told.b_ms, nodes, counts, tuple(ranked), tuple(said), refused,
        threshold, alpha,
    )  # fmt: skip


def _nodes(found: Differences) -> pd.DataFrame:
    pairs = found.pairs
    there = pairs["row_b"] >= 0
    table = pairs.assign(
        name=pairs["name_b"].where(there, pairs["name_a"]),
        type=pairs["type_b"].where(there, pairs["type_a"]),
        path_a=pairs["path_a"].fillna(""),
        path_b=pairs["path_b"].fillna(""),
        depth=pairs["level"].map({level: depth for depth, level in enumerate(_LEVELS)}),
    )
    ordered = table.sort_values(["position", "depth"], kind="stable", ignore_index=True)
    return ordered[COLUMNS]


def _counts(a: Comparable, b: Comparable, found: Differences) -> pd.DataFrame:
    names = ["layers", *found.counts]
    rows = [(name, a.counts[name], b.counts[name]) for name in names if name in a.counts and name in b.counts]
    return pd.DataFrame(rows, columns=["count", "a", "b"])


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return _known(float(value))
    if isinstance(value, np.integer):
        return int(value)
    return list(value) if isinstance(value, tuple | np.ndarray) else value
