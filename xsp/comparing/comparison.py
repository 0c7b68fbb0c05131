"""Two profiles compared: whether the model is slower, and which layer, library call or kernel it
comes from.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.comparing import sentences
from xsp.comparing.causes import causes
from xsp.comparing.comparable import Comparable, comparable
from xsp.comparing.differences import Differences, differences
from xsp.comparing.refusal import levels_missing, refusal, settings_changed
from xsp.comparing.result import COLUMNS, ComparisonData
from xsp.comparing.sentences import Whole, narrowing
from xsp.comparing.verdict import (
    ALPHA,
    THRESHOLD,
    UNDECIDED,
    Verdict,
    runs_needed,
)
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_LEVELS = ["MODEL", "MODULE", "LAYER", "OP", "LIBRARY", "KERNEL"]


class Comparison(ComparisonData):
    """What changed from a baseline to a candidate, how it is shown and written."""

    def to_html(self, path: str | Path) -> Path:
        """Write a page that holds all of it and loads nothing.

        Raises XspError where the directory does not exist.
        """
        from xsp.comparing.page import write_comparison

        return write_comparison(self, Path(path))

    def to_markdown(self) -> str:
        """GitHub-flavoured markdown: the sentences and tables of counts and layers."""
        from xsp.comparing.text import comparison_markdown

        return comparison_markdown(self)

    def __repr__(self) -> str:
        from xsp.comparing.text import comparison_text

        return comparison_text(self)


def compare(
    a: ProfileData | Comparable,
    b: ProfileData | Comparable,
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    allow: Collection[str] = (),
) -> Comparison:
    """What changed from the baseline `a` to the candidate `b`, and where.

    Args:
        a: a profile, or what `xsp.comparing.comparable.comparable` keeps of one.
        b: the same.
        threshold: slow-down that matters, as a share. To find slow-downs of 5 %, ask for about half
            of it.
        alpha: significance that a difference needs; for the nodes of a level it is divided by their
            number.
        allow: facts that may differ and times still be compared: those of the environment, such as
            "torch" or "driver", and "inputs", the shapes and types of the model's inputs.

    Raises XspError for an unknown name in `allow`, and for an impossible threshold or alpha.

    """
    if not 0 <= threshold < np.inf:
        raise XspError(f"threshold must be a share >= 0, such as 0.05, not {threshold!r}")
    if not 0 < alpha < 1:
        raise XspError(
            f"alpha must be a probability between 0 and 1, such as {ALPHA}, not {alpha!r}"
        )
    mine, other = comparable(a), comparable(b)
    return compare_data(mine, other, threshold, alpha, refusal(mine, other, allow))


def compare_data(
    a: Comparable,
    b: Comparable,
    threshold: float,
    alpha: float,
    refused: str | None,
    better: Whole | None = None,
) -> Comparison:
    """The comparison; `better` takes the place of the verdict on the whole that the two samples
    give.
    """
    found = differences(a, b, threshold, alpha, timed=refused is None)
    nodes = _nodes(found)
    model = nodes.iloc[0]
    whole = Verdict(
        str(model["verdict"] or UNDECIDED),
        *(float(model[name]) for name in ("ratio", "low", "high", "p_value")),
    )
    runs = min(len(each.sample(each.nodes["path"].iloc[0], "latency")) for each in (a, b))
    told = Whole(
        whole, float(model["a_ms"]), float(model["b_ms"]), narrowing(runs, runs_needed(alpha))
    )
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
        a.name,
        b.name,
        told.verdict,
        told.a_ms,
        told.b_ms,
        nodes,
        counts,
        tuple(ranked),
        tuple(said),
        refused,
        threshold,
        alpha,
    )


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
    rows = [
        (name, a.counts[name], b.counts[name])
        for name in names
        if name in a.counts and name in b.counts
    ]
    return pd.DataFrame(rows, columns=["count", "a", "b"])
