"""The HTML report: one page that holds everything it shows, to keep, to send and to open without a
network.

The page's own policy forbids the browser to load anything. plotly.js and the reader of its
compressed data are those that come with xsp (`xsp.report.vendor`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsp.analysis import figures
from xsp.analysis.figures.palette import FAMILIES, IDLE, OTHER, OUTER
from xsp.analysis.figures.theme import Figure, template
from xsp.capture.writing import writable, write_file
from xsp.extras import require
from xsp.report.assets import asset
from xsp.report.elements import data_html, facts_html, figure_html, sheet_html, text, tiles_html
from xsp.report.sentences import (
    Fact,
    check_text,
    conditions,
    footnote,
    gain_text,
    latency_text,
    of_the_profiler,
    what_bounds,
    where,
)
from xsp.report.sheet_data import script_json
from xsp.report.sheets import SHEETS
from xsp.report.tree_data import tree_data
from xsp.summary.summarizing import summarize
from xsp.words import numbers

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.summary.values import Summary

_TOP = 5
"""Costs of a kind in the summary."""
_LIBRARIES = ("plotly-cartesian.min.js", "pako_inflate.min.js")
"""What the page's script calls, as their makers publish it."""
_SCRIPTS = ("rows.js", "stack.js", "report.js")
"""Parts of the page's script, in order."""
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
    return page_html(
        prof.name, _tiles(summary) + _doubts(summary), [*_sections(prof, summary), *more]
    )


def page_html(name: str, tiles: str, sections: Iterable[Section]) -> str:
    """A page with a title, tiles (HTML) below it and sections. Its list of sections comes last, so
    that the keyboard reaches the content first.
    """
    require("plotly")
    title, sections = text(name), list(sections)
    links = "".join(f'<a href="#{key}">{text(heading)}</a>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="head-{key}"><h2 id="head-{key}">{text(heading)}</h2>'
        f"{content}</section>"
        for key, heading, content in sections
    )
    looks = script_json(
        {"light": template(transparent=True), "dark": template(dark=True, transparent=True)}
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} – xsp</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{asset('report.css')}</style></head><body>"
        f"<main><header><h1>{title}</h1>{tiles}</header>{body}</main>"
        f'<nav aria-label="Sections">{links}</nav>'
        f'<script type="application/json" id="xsp-looks">{looks}</script>'
        f"{_libraries()}<script>{_script()}</script></body></html>\n"
    )


def _libraries() -> str:
    # A string in a library must not end the element that holds it.
    texts = (asset(f"vendor/{name}").replace("</script", "<\\/script") for name in _LIBRARIES)
    return "".join(f"<script>{each}</script>" for each in texts)


def _script() -> str:
    parts = "".join(asset(name) for name in _SCRIPTS)
    return f'(function () {{\n"use strict";\n{parts}}})();'


def _sections(prof: ProfileData, summary: Summary) -> Iterator[Section]:
    """Key, heading and content of each section, in the order of a reader's questions."""
    yield "summary", "What bounds it", facts_html(what_bounds(summary))
    yield "places", "Where the time goes", _places(prof, summary)
    if summary.tries:
        yield "try", "What to try", _suggested(summary)
    for key, heading, drawn in _SECTIONS:
        made = "".join(figure_html(each.__name__, each(prof)) for each in drawn)
        tables = "".join(sheet_html(sheet, sheet.rows(prof)) for sheet in SHEETS[key])
        yield key, heading, f'<div class="figures">{made}</div>{tables}' if made else tables
    if len(prof.compiled()):
        tables = "".join(sheet_html(sheet, sheet.rows(prof)) for sheet in SHEETS["compiled"])
        yield "compiled", "Compiled code by source layer", tables
    yield "hierarchy", "Hierarchy", _hierarchy(summary)
    yield "tracing", "How much of this is the profiler", _tracing(prof, summary)
    yield "measurement", "What was measured", _measurement(prof, summary)


def _places(prof: ProfileData, summary: Summary) -> str:
    """The largest costs, and the stack drawn: everything is as wide as what it costs."""
    costs = figure_html("layers_by_cost", figures.layers_by_cost(prof))
    looks = [*((each.name, each.colour) for each in (*FAMILIES, OTHER)), ("no layer", OUTER)]
    swatches = "".join(
        f'<li><i class="swatch" style="background-color:{colour}"></i>{text(name)}</li>'
        for name, colour in looks
    )
    idle = f'<li><i class="swatch idle" style="background-color:{IDLE}"></i>{_IDLE}</li>'
    on_gpu = summary.counts.kernels is not None
    width = (
        "Width: what a node costs the latency, the GPU busy for it and idle because of it."
        if on_gpu
        else "Width: the host's time; no kernels were traced."
    )
    return (
        f"{facts_html(where(summary))}{costs}"
        f'<div class="stack" id="stack"><h3>{_STACK}</h3><p class="note">{width} A click, or '
        "Enter, opens a node; a click on a bar above it, or Escape, goes back. Arrows walk.</p>"
        f'<div class="stack-nodes" role="tree" tabindex="0" aria-label="{_STACK}"></div>'
        f'<output aria-live="polite"></output>'
        f'<ul class="legend">{swatches}{idle if on_gpu else ""}</ul>'
        f"{data_html(script_json(tree_data(prof)))}</div>"
    )


_IDLE = "GPU idle because of it"
_STACK = "The stack: model, modules, layers, library calls, kernels"
_TOOLS = (("hot", "largest shares"), ("unfold", "unfold all"), ("fold", "fold all"))


def _hierarchy(summary: Summary) -> str:
    """The same tree as a table that folds."""
    buttons = "".join(
        f'<button type="button" data-do="{key}">{name}</button>' for key, name in _TOOLS
    )
    return (
        f'<div class="sheet tree"><div class="tools">{buttons}</div><div class="scroll" '
        'role="region" aria-label="Table of the hierarchy" tabindex="0"><table '
        'aria-label="Hierarchy"><thead></thead><tbody></tbody></table></div></div>'
        f'<p class="note">{text(footnote(summary))}</p>'
    )


def _suggested(summary: Summary) -> str:
    """A list by predicted gain, each with its evidence and the call that checks it."""
    items = "".join(
        f"<li><b>{text(gain_text(each, summary.latency.ms))}</b> {text(each.advice)}<br>"
        f"{text(each.evidence)}<br><code>{text(check_text(each, place))}</code></li>"
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


def _doubts(summary: Summary) -> str:
    doubts = "".join(f"<p>{text(doubt)}</p>" for doubt in summary.doubts)
    return f'<div class="doubts" role="note"><b>Warnings</b>{doubts}</div>' if doubts else ""


def _tracing(prof: ProfileData, summary: Summary) -> str:
    tables = "".join(sheet_html(sheet, sheet.rows(prof)) for sheet in SHEETS["tracing"])
    return facts_html(of_the_profiler(summary)) + tables


def _measurement(prof: ProfileData, summary: Summary) -> str:
    environment = [
        Fact(name.replace("_", " "), _value(value))
        for name, value in prof.environment.items()
        if value is not None
    ]
    return f"{facts_html(conditions(summary))}<h3>Environment</h3>{facts_html(environment)}"


def _value(value: Any) -> str:
    """A fact of the environment in words, lists and named numbers too."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {_value(each)}" for name, each in value.items()
        )
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)
