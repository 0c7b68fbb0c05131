"""A comparison for people: plain text, and GitHub-flavoured markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import pandas as pd

from xsp.comparing import phrases
from xsp.comparing.differences import APPEARED, SAME, VANISHED
from xsp.comparing.verdict import IMPROVED, REGRESSION
from xsp.report.text import terminal_width
from xsp.words.labels import escape_markdown, kernel_name, markdown_sentence, printable, shorten
from xsp.words.numbers import UNKNOWN

if TYPE_CHECKING:
    from xsp.comparing.result import ComparisonData

_ROWS = 20
_ALONE = 5
"""Rows at most of layers that only one of the two has, of each kind."""
_NAME = 48
NODE_LEVELS = {
    "MODULE": "Modules",
    "LAYER": "Layers",
    "OP": "Operators",
    "LIBRARY": "Library calls",
    "KERNEL": "Kernels, copies and sets",
}
HEADS = ("layer", "change", "before", "now", "difference", "verdict", "kernels")
_NO_CELLS = (UNKNOWN, UNKNOWN, "", "", "")


def comparison_text(comparison: ComparisonData) -> str:
    """The sentences, then the layers that differ."""
    size = terminal_width()
    lines = [
        line
        for sentence in comparison.sentences
        for line in textwrap.wrap(printable(sentence), size)
    ]
    rows = node_rows(comparison)
    if not rows:
        return "\n".join(lines)
    every = [HEADS, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEADS))]
    table = [
        "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip()
        for row in every
    ]
    return "\n".join([*lines, "", *table])


def comparison_markdown(comparison: ComparisonData) -> str:
    """The verdict as a heading, the sentences as a list, and tables of counts and of layers that
    differ.
    """
    lines = [f"### {escape_markdown(comparison.candidate)}: {verdict_word(comparison)}", ""]
    lines += [f"- {markdown_sentence(sentence)}" for sentence in comparison.sentences]
    changed = comparison.counts[comparison.counts["a"] != comparison.counts["b"]]
    if len(changed):
        lines += ["", "| count | before | now |", "|---|---:|---:|"]
        lines += [f"| {name} | {a} | {b} |" for name, a, b in changed.itertuples(index=False)]
    if rows := node_rows(comparison):
        lines += ["", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        lines += [f"| {' | '.join(map(escape_markdown, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def verdict_word(comparison: ComparisonData) -> str:
    """The verdict on the whole, or that times are not compared."""
    return "times not compared" if comparison.refusal else comparison.verdict.name


def node_rows(
    comparison: ComparisonData, level: str = "LAYER", most: int = _ROWS, alone: int = _ALONE
) -> list[tuple[str, ...]]:
    """Cells of HEADS for nodes of a level that changed or whose time did, those that cost most
    first, and a row for each kind of change with the number of those that are not shown.

    Of different models nearly all layers have vanished or appeared: `alone` of each stand for them.
    """
    nodes = comparison.nodes[comparison.nodes["level"] == level]
    is_told = (nodes["change"] != SAME) | nodes["verdict"].isin([REGRESSION, IMPROVED])
    told = nodes[is_told]
    cost = (told["b_ms"].fillna(0) - told["a_ms"].fillna(0)).abs()
    told = told.iloc[(-cost).argsort(kind="stable")]
    is_alone = told["change"].isin((APPEARED, VANISHED))
    is_first = told.groupby("change").cumcount() < alone
    shown = told[~is_alone | is_first].iloc[:most]
    rows = [_row(row) for row in shown.to_dict("records")]
    rest = told.drop(shown.index)["change"].value_counts(sort=False)
    more = [(f"and {count} more", str(change), *_NO_CELLS) for change, count in rest.items()]
    return rows + more


def _row(row: dict[Hashable, Any]) -> tuple[str, ...]:
    short = kernel_name(str(row["name"])) if row["level"] == "KERNEL" else str(row["name"])
    name = f"{short} (backward)" if row["phase"] == "backward" else short
    kernels = [f"{row[f'kernels_{side}']:.0f}" for side in "ab" if pd.notna(row[f"kernels_{side}"])]
    return (
        shorten(printable(name), _NAME),
        str(row["change"]),
        *(
            phrases.milliseconds(float(row[side])) if pd.notna(row[side]) else UNKNOWN
            for side in ("a_ms", "b_ms")
        ),
        phrases.percent(float(row["ratio"])) if pd.notna(row["ratio"]) else "",
        str(row["verdict"]),
        " → ".join(dict.fromkeys(kernels)),
    )
