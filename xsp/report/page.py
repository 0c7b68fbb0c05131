"""The HTML report: one page that holds everything it shows, to keep, to send and to open without a
network.

The page's own policy forbids the browser to load anything. plotly.js comes from the installed
plotly package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsp.analysis import figures
from xsp.analysis.figures.theme import Figure, template
from xsp.capture.writing import writable, write_file
from xsp.extras import require
from xsp.report.assets import asset
from xsp.report.notebook import profile_html
from xsp.report.sentences import (
    Fact,
    check_text,
    conditions,
    gain_text,
    latency_text,
    of_the_profiler,
    what_bounds,
    where,
)
from xsp.report.sheet_data import Sheet, safe_in_script, script_json, sheet_data
from xsp.report.sheets import SHEETS
from xsp.summary.summarizing import summarize
from xsp.words import numbers
from xsp.words.labels import printable

if TYPE_CHECKING:
    import pandas as pd

    from xsp.analysis.profile_data import ProfileData
    from xsp.summary.values import Summary

_TOP = 5
"""Costs of a kind in the summary."""
_SMALL = 12
"""Rows of a table that needs no search."""
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

_SECTIONS: tuple[tuple[str, str, tuple[Callable[[ProfileData], Figure], ...]], ...] = (
    (
        "layers",
        "Layers",
        (
            figures.layer_latency,
            figures.layer_memory,
            figures.layer_latency_by_type,
            figures.layer_memory_by_type,
            figures.layer_type_distribution,
        ),
    ),
    ("kernels", "Kernels", (figures.kernel_roofline, figures.kernels_by_name)),
    (
        "both",
        "Layers and their kernels",
        (figures.gpu_vs_nongpu, figures.layer_roofline, figures.layer_metrics),
    ),
    ("library", "Library calls", ()),
)
"""Key, heading and figures of the sections that analyses fill; their tables are in `SHEETS`."""


Section = tuple[str, str, str]
"""Key, heading and content (HTML) of a section."""


def write_html(
    prof: ProfileData, path: str | os.PathLike[str], more: Iterable[Section] = ()
) -> Path:
    """Write the report, with `more` sections behind its own; an existing file is replaced only once
    the new one is complete.

    Raises WriteError where it cannot be written, which is asked before the page is made.
    """
    return write_file(writable(path), report_html(prof, more).encode())


def report_html(prof: ProfileData, more: Iterable[Section] = ()) -> str:
    """The whole page of a profile."""
    summary = summarize(prof, _TOP)
    return page_html(prof.name, _tiles(summary), [*_sections(prof, summary), *more])


def page_html(name: str, tiles: str, sections: Iterable[Section]) -> str:
    """A page with a title, tiles (HTML) below it and sections."""
    require("plotly")
    from plotly.offline import get_plotlyjs

    title, sections = _text(name), list(sections)
    links = "".join(f'<a href="#{key}">{_text(heading)}</a>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{_text(heading)}</h2>{content}</section>'
        for key, heading, content in sections
    )
    # A string in plotly.js must not end the element that holds it.
    plotly = get_plotlyjs().replace("</script", "<\\/script")
    looks = script_json(
        {"light": template(transparent=True), "dark": template(dark=True, transparent=True)}
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} – xsp</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{asset('report.css')}</style></head><body>"
        f"<nav>{links}</nav><main><header><h1>{title}</h1>{tiles}</header>{body}</main>"
        f'<script type="application/json" id="xsp-looks">{looks}</script>'
        f"<script>{plotly}</script><script>{asset('report.js')}</script></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _sections(prof: ProfileData, summary: Summary) -> Iterator[Section]:
    """Key, heading and content of each section, in the order of a reader's questions."""
    yield "summary", "What bounds it", _doubts(summary) + _facts(what_bounds(summary))
    stack = figure_html("hierarchy", figures.hierarchy(prof))
    yield "places", "Where the time goes", _facts(where(summary)) + stack
    if summary.tries:
        yield "try", "What to try", _suggested(summary)
    for key, heading, drawn in _SECTIONS:
        made = "".join(figure_html(each.__name__, each(prof)) for each in drawn)
        tables = "".join(sheet_html(sheet, sheet.rows(prof)) for sheet in SHEETS[key])
        yield key, heading, f'<div class="figures">{made}</div>{tables}' if made else tables
    yield "hierarchy", "Hierarchy", profile_html(prof, header=False)
    yield "tracing", "How much of this is the profiler", _tracing(prof, summary)
    yield "measurement", "What was measured", _measurement(prof, summary)


def _suggested(summary: Summary) -> str:
    """A list by predicted gain, each with its evidence and the call that checks it."""
    items = "".join(
        f"<li><b>{_text(gain_text(each, summary.latency.ms))}</b> {_text(each.advice)}<br>"
        f"{_text(each.evidence)}<br><code>{_text(check_text(each, place))}</code></li>"
        for place, each in enumerate(summary.tries)
    )
    return f"<ol>{items}</ol>"


def _tiles(summary: Summary) -> str:
    """The few numbers that everything else is a share of."""
    tiles = [("unprofiled latency", latency_text(summary.latency))]
    counts = summary.counts
    if counts.kernels is not None:
        busy = numbers.percent(summary.bound.busy_ms / summary.latency.ms)
        tiles += [("GPU busy", busy), ("kernels per run", str(counts.kernels))]
    if counts.library_calls is not None:
        tiles.append(("library calls per run", str(counts.library_calls)))
    if counts.layers is not None:
        tiles.append(("layers", str(counts.layers)))
    return tiles_html(tiles)


def tiles_html(tiles: Iterable[tuple[str, str]]) -> str:
    """Names and values as tiles."""
    return "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span></div>'
        for name, value in tiles
    )


def _doubts(summary: Summary) -> str:
    doubts = "".join(f"<p>{_text(doubt)}</p>" for doubt in summary.doubts)
    return f'<div class="doubts" role="note"><b>Warnings</b>{doubts}</div>' if doubts else ""


def _facts(facts: Iterable[Fact]) -> str:
    rows = "".join(
        f"<dt>{_text(heading)}</dt><dd>{_text(sentence)}</dd>" for heading, sentence in facts
    )
    return f"<dl>{rows}</dl>"


def _tracing(prof: ProfileData, summary: Summary) -> str:
    tables = "".join(sheet_html(sheet, sheet.rows(prof)) for sheet in SHEETS["tracing"])
    return _facts(of_the_profiler(summary)) + tables


def _measurement(prof: ProfileData, summary: Summary) -> str:
    environment = [
        Fact(name.replace("_", " "), _value(value))
        for name, value in prof.environment.items()
        if value is not None
    ]
    return f"{_facts(conditions(summary))}<h3>Environment</h3>{_facts(environment)}"


def _value(value: Any) -> str:
    """A fact of the environment in words, lists and named numbers too."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {_value(each)}" for name, each in value.items()
        )
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)


def sheet_html(sheet: Sheet, frame: pd.DataFrame) -> str:
    """A table that can be sorted and searched."""
    caption = _text(sheet.caption)
    if not len(frame):
        return f'<h3>{caption}</h3><p class="note">Nothing was recorded for this table.</p>'
    data = script_json(sheet_data(sheet, frame))
    small = " small" if len(frame) <= _SMALL else ""
    return (
        f'<div class="sheet{small}" id="{sheet.key}"><h3>{caption}</h3><div class="tools">'
        f'<input type="search" placeholder="search" aria-label="search {caption}">'
        "<output></output></div>"
        '<div class="scroll" tabindex="0"><table><thead></thead><tbody></tbody></table></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def figure_html(name: str, drawn: Figure) -> str:
    """A figure's place in the page and what to draw there; its title and note are the page's own
    text.
    """
    about: dict[str, Any] = drawn.layout.meta
    head = f"<h3>{_text(about['title'])}</h3>" + (
        f'<p class="note">{_text(about["note"])}</p>' if about["note"] else ""
    )
    if about.get("empty"):
        return f'<figure class="empty" id="figure-{name}">{head}</figure>'
    drawn.update_layout(
        title=None, template=None, meta=None, height=about["height"], margin={"t": 56}
    )
    return (
        f'<figure id="figure-{name}">{head}'
        f'<div class="plot" style="height:{about["height"]}px"></div>'
        f'<script type="application/json">{safe_in_script(drawn.to_json())}</script></figure>'
    )
