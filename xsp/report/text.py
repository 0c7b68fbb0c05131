"""A profile as plain text: what `print(prof)` shows."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xsp.report.sentences import (
    Fact,
    conditions,
    footnote,
    how_long,
    of_the_profiler,
    what_bounds,
    what_to_try,
    where,
)
from xsp.report.table import BACKWARD, ROWS, Table, laid_out
from xsp.summary.summarizing import summarize
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.summary.values import Summary

NARROW, WIDE = 80, 120
_HEADING = 10


def profile_text(
    prof: ProfileData, *, width: int | None = None, rows: int = ROWS, depth: int | None = None
) -> str:
    """The reader's questions in order: how long, what bounds it, where the time goes with the top
    of the hierarchy as the model runs, what to try, and how much of this is the profiler.

    Args:
        prof: what to show.
        width: characters per line; by default the terminal's, at least 80 and at most 120.
        rows: lines of the table at most; subtrees with the smallest shares are folded.
        depth: deepest level of nesting shown, the model's being 0.

    """
    size = terminal_width() if width is None else width
    table, summary = laid_out(prof, size, rows, depth), summarize(prof)
    lines = [*header_lines(summary, size), "", table.header.text]
    lines += [line.text for line in table.lines]
    lines += ["", *footer_lines(summary, table, size), *last_lines(summary, size)]
    return "\n".join(lines)


def terminal_width() -> int:
    """The terminal's width within what the table is made for."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, NARROW), WIDE)


def header_lines(summary: Summary, width: int) -> list[str]:
    """The model's name, then what is read before the table, wrapped to `width`."""
    facts = [*how_long(summary), *what_bounds(summary), *where(summary)]
    return [printable(summary.name), *_facts(facts, width)]


def footer_lines(summary: Summary, table: Table, width: int) -> list[str]:
    """How to read the table, wrapped to `width`."""
    marked = any(line.backward for line in table.lines)
    note = footnote(summary) + (f" {BACKWARD}: the layer's backward pass." if marked else "")
    return _wrapped(note, "", "", width)


def last_lines(summary: Summary, width: int) -> list[str]:
    """What to try, what of this is the profiler, and what it ran on, each behind an empty line."""
    lines = []
    for facts in (what_to_try(summary), [*of_the_profiler(summary), *conditions(summary)]):
        if facts:
            lines += ["", *_facts(facts, width)]
    return lines


def _facts(facts: Iterable[Fact], width: int) -> list[str]:
    lines = []
    for heading, sentence in facts:
        lines += _wrapped(printable(sentence), heading.ljust(_HEADING), " " * _HEADING, width)
    return lines


def _wrapped(text: str, first: str, later: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    ) or [first]
