"""What the page is put together from: tables, figures, the stack, lists of facts."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from xsp.analysis.figures.theme import Figure
from xsp.report.sheet_data import Sheet, safe_in_script, script_json, sheet_data
from xsp.words.labels import printable

if TYPE_CHECKING:
    import pandas as pd

_SMALL = 12
"""Rows of a table that needs no search."""
_LARGE = 2000
"""Characters of JSON from which on it is worth compressing."""


def text(shown: str) -> str:
    """Text of a program inside HTML."""
    return escape(printable(shown))


def data_html(json_text: str) -> str:
    """JSON as an element that the page's script reads, compressed if it is long: half of a page was
    names that repeat.
    """
    if len(json_text) < _LARGE:
        return f'<script type="application/json">{safe_in_script(json_text)}</script>'
    packed = base64.b64encode(gzip.compress(json_text.encode(), mtime=0)).decode()
    return f'<script type="application/gzip">{packed}</script>'


def facts_html(facts: Iterable[tuple[str, str]]) -> str:
    """Headings and sentences as a list; an empty heading goes on with the one before."""
    rows = "".join(
        f"<dt>{text(heading)}</dt><dd>{text(sentence)}</dd>" for heading, sentence in facts
    )
    return f"<dl>{rows}</dl>"


def tiles_html(tiles: Iterable[tuple[str, str]]) -> str:
    """Names and values as tiles."""
    return "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>'
        for name, value in tiles
    )


def sheet_html(sheet: Sheet, frame: pd.DataFrame) -> str:
    """A table that can be sorted and searched."""
    caption = text(sheet.caption)
    if not len(frame):
        return f'<h3>{caption}</h3><p class="note">Nothing was recorded for this table.</p>'
    data = data_html(script_json(sheet_data(sheet, frame)))
    small = " small" if len(frame) <= _SMALL else ""
    return (
        f'<div class="sheet{small}" id="{sheet.key}"><h3>{caption}</h3><div class="tools">'
        f'<input type="search" placeholder="search" aria-label="search {caption}">'
        '<output aria-live="polite"></output></div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table aria-label="{caption}"><thead></thead><tbody></tbody></table></div>'
        f"{data}</div>"
    )


def figure_html(name: str, drawn: Figure) -> str:
    """A figure's place in the page and what to draw there; its title and note are the page's own
    text.
    """
    about: dict[str, Any] = drawn.layout.meta
    head = f"<h3>{text(about['title'])}</h3>" + (
        f'<p class="note">{text(about["note"])}</p>' if about["note"] else ""
    )
    if about.get("empty"):
        return f'<figure class="empty" id="figure-{name}">{head}</figure>'
    drawn.update_layout(
        title=None, template=None, meta=None, height=about["height"], margin={"t": 56}
    )
    return (
        f'<figure id="figure-{name}">{head}'
        f'<div class="plot" role="img" aria-label="{text(about["title"])}" '
        f'style="height:{about["height"]}px"></div>{data_html(drawn.to_json())}</figure>'
    )
