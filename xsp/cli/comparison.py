"""A comparison on a terminal: the sentences and a table, with colours that say nothing that the text does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsp.analysis.comparing.verdict import IMPROVED, NEUTRAL, REGRESSION, UNDECIDED
from xsp.render.comparison import HEADS, node_rows, verdict_word
from xsp.render.labels import printable

if TYPE_CHECKING:
    from xsp.analysis.comparing.compare_profiles import Comparison

_STYLES = {REGRESSION: "bold red", IMPROVED: "green", NEUTRAL: "green", UNDECIDED: "yellow"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print verdict, sentences and the layers that differ."""
    word = verdict_word(comparison)
    name = Text(f"{printable(comparison.candidate)}: ", style="bold")
    console.print(name.append(word, style=_STYLES.get(word, "yellow")), soft_wrap=True)
    for place, sentence in enumerate(comparison.sentences):
        console.print(Text(printable(sentence), style="bold" if place == 0 else ""))
    rows = node_rows(comparison)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        table.add_column(head, overflow="fold", justify="right" if head in ("before", "now", "difference") else "left")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print()
    console.print(table)
