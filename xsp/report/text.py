"""A profile as plain text: what `print(prof)` shows."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

from xsp.report import summary
from xsp.report.table import BACKWARD, ROWS, Table, laid_out
from xsp.report.try_ import suggestions
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

NARROW, WIDE = 80, 120
_HEADING = 10


def profile_text(
    prof: ProfileData, *, width: int | None = None, rows: int = ROWS, depth: int | None = None
) -> str:
    """Header, the top of the hierarchy as the model runs, and where its numbers come from.

    Args:
        prof: what to show.
        width: characters per line; by default the terminal's, at least 80 and at most 120.
        rows: lines of the table at most; subtrees with the smallest shares are folded.
        depth: deepest level of nesting shown, the model's being 0.

    """
    size = terminal_width() if width is None else width
    table = laid_out(prof, size, rows, depth)
    lines = [
        *header_lines(prof, size),
        "",
        table.header.text,
        *(line.text for line in table.lines),
        "",
    ]
    return "\n".join([*lines, *footer_lines(prof, table, size), *try_lines(prof, size)])


def terminal_width() -> int:
    """The terminal's width within what the table is made for."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, NARROW), WIDE)


def header_lines(prof: ProfileData, width: int) -> list[str]:
    """The model's name, then a heading and a sentence per fact, wrapped to `width`."""
    lines = [printable(prof.name)]
    facts = [*summary.facts(prof), *(("warning", doubt) for doubt in summary.doubts(prof))]
    for heading, sentence in facts:
        lines += _wrapped(printable(sentence), heading.ljust(_HEADING), " " * _HEADING, width)
    return lines


def footer_lines(prof: ProfileData, table: Table, width: int) -> list[str]:
    """How to read the table, wrapped to `width`."""
    marked = any(line.backward for line in table.lines)
    note = summary.footnote(prof) + (f" {BACKWARD}: the layer's backward pass." if marked else "")
    return _wrapped(note, "", "", width)


def try_lines(prof: ProfileData, width: int) -> list[str]:
    """An empty line, then at most five things to try, wrapped to `width`; none where nothing
    promises anything.
    """
    lines = [""]
    for place, each in enumerate(suggestions(prof)):
        heading = "try" if place == 0 else ""
        sentence = printable(each.sentence)
        lines += _wrapped(sentence, heading.ljust(_HEADING), " " * _HEADING, width)
    return lines if len(lines) > 1 else []


def _wrapped(text: str, first: str, later: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    ) or [first]
