"""A comparison as one page without scripts, to attach to a CI job: sentences, counts, and every
node that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from xsp.capture.writing import writable, write_file
from xsp.comparing import phrases
from xsp.comparing.differential import STYLE, differential_html
from xsp.comparing.text import HEADS, NODE_LEVELS, node_rows, verdict_word
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.comparing.result import ComparisonData

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
main { margin: 0 auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 12px 3px 0; text-align: left; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
ol { max-width: 125ch; } li { margin: 3px 0; } li:first-child { font-weight: 650; }
"""
_ROWS = 500


def write_comparison(comparison: ComparisonData, path: Path) -> Path:
    """Write the page; an existing file is replaced only once the new one is complete.

    Raises WriteError where it cannot be written.
    """
    return write_file(writable(path), comparison_html(comparison).encode())


def comparison_html(comparison: ComparisonData) -> str:
    """The whole page."""
    title = _text(comparison.candidate)
    looks = (
        resources.files("xsp.report").joinpath("report.css").read_text(encoding="utf-8")
        + _STYLE
        + STYLE
    )
    said = "".join(f"<li>{_text(sentence)}</li>" for sentence in comparison.sentences)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title} – xsp compare</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{looks}</style></head><body><main><header><h1>{title}: "
        f"{_text(verdict_word(comparison))}</h1>"
        f"{_tiles(comparison)}</header><section><h2>What changed</h2><ol>{said}</ol></section>"
        f"{''.join(_sections(comparison))}</main></body></html>\n"
    )


def _tiles(comparison: ComparisonData) -> str:
    if comparison.refusal:
        return ""
    both = [("before", comparison.a_ms), ("now", comparison.b_ms)]
    tiles = [(phrases.milliseconds(value), name) for name, value in both]
    tiles.append((phrases.percent(comparison.verdict.ratio), "difference"))
    return "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span></div>'
        for value, name in tiles
    )


def _sections(comparison: ComparisonData) -> Iterator[str]:
    if drawn := differential_html(comparison):
        yield _section("Where the time went", drawn)
    counts = [[str(cell) for cell in row] for row in comparison.counts.itertuples(index=False)]
    yield _section("Counts of one run", _table(("count", "before", "now"), counts))
    for level, heading in NODE_LEVELS.items():
        if rows := node_rows(comparison, level, _ROWS, alone=_ROWS):
            yield _section(heading, _table((level.lower(), *HEADS[1:]), rows))


def _section(heading: str, content: str) -> str:
    return f'<section><h2>{heading}</h2><div class="scroll">{content}</div></section>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(text: str) -> str:
    return escape(printable(text))
