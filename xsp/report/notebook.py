"""A profile as one piece of HTML: the whole hierarchy to fold and sort, without anything from the
network.

Style and script are scoped to the element they come with, so several profiles can share a page.
Where scripts do not run, the table is simply unfolded.
"""

from __future__ import annotations

import math
import uuid
from html import escape
from typing import TYPE_CHECKING, Any

from xsp.analysis.spans.tree import OWN_LEVEL, parent_rows
from xsp.report.assets import asset
from xsp.report.sentences import DOUBTFUL, Fact, footnote, latency_text, sections
from xsp.summary.ranking import certain_shares
from xsp.summary.summarizing import is_traced, summarize
from xsp.types import Level
from xsp.words import numbers
from xsp.words.fold import Line, fold_rows
from xsp.words.labels import printable, shapes, short_name, shorten

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.summary.values import Summary

ROWS = 2000
"""Rows of the table; beyond, the smallest shares are folded into one row per node: a page must stay
quick.
"""
OPENED = 30
"""Rows unfolded at first."""

_TITLE_AT_MOST = 400
"""Characters of a full name; C++ templates run to thousands, in every row."""

_HEADS = (
    "node",
    "type",
    "calls",
    "host ms",
    "±",
    "device ms",
    "share",
    "kernels",
    "input",
    "output",
)
_NUMERIC = frozenset({"calls", "host ms", "±", "device ms", "kernels"})


def profile_html(prof: ProfileData) -> str:
    """A self-contained `<div>` with summary, table, style and script."""
    # Shown twice, one profile has two elements in the page: the id is the output's, not the
    # profile's.
    name = f"xsp-{uuid.uuid4().hex[:12]}"
    tree = prof.tree()
    records: list[dict[str, Any]] = tree.to_dict("records")  # type: ignore[assignment] # keys are column names
    parents = parent_rows(tree)
    shares = certain_shares(tree).tolist()
    lines = fold_rows(parents, shares, ROWS)
    opened = {parents[line.row] for line in fold_rows(parents, shares, OPENED) if line.row >= 0}
    first = " ".join(str(at) for at, line in enumerate(lines) if line.row in opened)
    summary = summarize(prof)
    return (
        f'<div class="xsp-profile" id="{name}" data-open="{first}">'
        f"<style>{asset('notebook.css')}</style>"
        f"{_header(summary)}{_TOOLS}{_Rows(prof, records, shares).table(lines)}"
        f"{_footer(summary, len(records), len(lines))}"
        f"<script>{asset('notebook.js').replace('XSP_ID', name)}</script></div>"
    )


_TOOLS = (
    '<div class="xsp-tools"><button type="button" data-do="hot">largest shares</button>'
    '<button type="button" data-do="unfold">unfold all</button>'
    '<button type="button" data-do="fold">fold all</button></div>'
)


def _text(text: str) -> str:
    return escape(printable(text))


_BEFORE = ("latency", "bound", "places", "try")
"""Questions that are answered above the table; the others are folded below it."""


def _header(summary: Summary) -> str:
    told = [section for section in sections(summary) if section.key in _BEFORE]
    facts = [fact for section in told for fact in section.facts]
    shown = [fact for fact in facts if fact.heading != "warning"]
    doubts = "".join(f"<p><b>warning</b> {_text(doubt)}</p>" for doubt in summary.doubts)
    latency = f'<span class="xsp-latency">{_text(latency_text(summary.latency))}</span>'
    title = f"<h3>{_text(summary.name)}{latency}</h3>"
    warning = f'<div class="xsp-doubts">{doubts}</div>' if doubts else ""
    return f"{title}{warning}{_list(shown)}"


def _list(facts: list[Fact]) -> str:
    rows = "".join(f"<dt>{_text(head)}</dt><dd>{_text(said)}</dd>" for head, said in facts)
    return f"<dl>{rows}</dl>"


def _footer(summary: Summary, nodes: int, shown: int) -> str:
    note = footnote(summary)
    if shown < nodes:
        note += (
            f" The table shows {shown} of {nodes} nodes, the largest shares; prof.tree() has all."
        )
    rest = [section for section in sections(summary) if section.key not in _BEFORE]
    folded = "".join(
        f"<details><summary>{_text(section.question)}</summary>{_list(section.facts)}</details>"
        for section in rest
    )
    return f'<p class="xsp-foot">{_text(note)}</p>{folded}'


class _Rows:
    def __init__(
        self, prof: ProfileData, records: list[dict[str, Any]], certain: list[float]
    ) -> None:
        self._records, self._certain = records, certain
        self._names = {record["node"]: record["name"] for record in records}
        self._decimals = numbers.column_decimals(prof.latency_ms)
        self._kernels_known = is_traced(prof, Level.KERNEL)

    def table(self, lines: list[Line]) -> str:
        heads = "".join(
            f'<th scope="col" aria-sort="none"{" class=xsp-n" if head in _NUMERIC else ""}>'
            f'<button type="button">{head}</button></th>'
            for head in _HEADS
        )
        rows = "".join(self._row(at, lines) for at in range(len(lines)))
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        return f'<div class="xsp-scroll">{table}</div>'

    def _row(self, at: int, lines: list[Line]) -> str:
        line = lines[at]
        if line.row < 0:
            return self._rest(line)
        record = self._records[line.row]
        has_children = at + 1 < len(lines) and lines[at + 1].depth > line.depth
        doubtful = math.isnan(self._certain[line.row])
        cells = self._name(record, line, has_children) + self._values(record, doubtful)
        return f'<tr class="xsp-{record["level"].lower()}" data-depth="{line.depth}">{cells}</tr>'

    def _name(self, record: dict[str, Any], line: Line, has_children: bool) -> str:
        above = self._names.get(record["parent"], "") if record["depth"] > 1 else ""
        short = _text(short_name(record["level"], record["name"], above))
        fold = (
            '<button type="button" class="xsp-fold" aria-expanded="true" aria-label="fold">'
            "</button>"
        )
        backward = record["phase"] == "backward" and record["level"] == Level.LAYER.name
        tag = '<span class="xsp-tag">backward</span>' if backward else ""
        hidden = f' <span class="xsp-soft">… {line.hidden} more</span>' if line.hidden else ""
        where = f", {record['source']}" if record["source"] else ""
        title = _text(shorten(record["name"], _TITLE_AT_MOST) + where)
        return (
            f'<td class="xsp-name" style="--d:{line.depth}" title="{title}">'
            f"{fold if has_children else _LEAF}{short}{tag}{hidden}</td>"
        )

    def _values(self, record: dict[str, Any], doubtful: bool) -> str:
        calls = float(
            record["kernels"] if record["level"] == Level.KERNEL.name else record["calls"]
        )
        own = record["level"] == OWN_LEVEL
        if own or (record["level"] == "MODULE" and not calls):
            calls = math.nan
        kernels = float(record["kernels"]) if self._kernels_known and not own else math.nan
        return "".join(
            (
                _plain("" if own else record["type"] or record["level"].lower()),
                _number(calls, numbers.count(calls)),
                self._time(record["host_ms"]),
                _number(
                    record["host_ci_ms"], numbers.plus_minus(record["host_ci_ms"], self._decimals)
                ),
                self._time(record["device_ms"]),
                _share(record["share"], doubtful),
                _number(kernels, numbers.count(kernels)),
                _plain(shapes(record["input_shapes"])),
                _plain(shapes(record["output_shapes"])),
            )
        )

    def _time(self, value: float) -> str:
        return _number(value, numbers.milliseconds(value, self._decimals))

    @staticmethod
    def _rest(line: Line) -> str:
        limit = numbers.percent(line.share)
        blank = '<td data-v=""></td>'
        name = (
            f'<td class="xsp-name xsp-soft" style="--d:{line.depth}" data-v="">'
            f"{_LEAF}… {line.hidden} more</td>"
        )
        share = f'<td class="xsp-share xsp-soft" data-v="">at most {escape(limit)} each</td>'
        return f'<tr data-depth="{line.depth}" data-rest>{name}{blank * 5}{share}{blank * 3}</tr>'


_LEAF = '<span class="xsp-leaf"></span>'


def _plain(text: str) -> str:
    return f"<td>{_text(text)}</td>"


def _number(value: float, text: str) -> str:
    known = not math.isnan(value)
    shown = escape(text) if known else numbers.UNKNOWN
    return f'<td class="xsp-n" data-v="{value if known else ""}">{shown}</td>'


def _share(share: float, doubtful: bool) -> str:
    if math.isnan(share):
        return f'<td class="xsp-share" data-v="">{numbers.UNKNOWN}</td>'
    if doubtful:
        shown = escape(numbers.percent(share)) + DOUBTFUL
        return f'<td class="xsp-share xsp-soft" data-v="">{_NO_TRACK}{shown}</td>'
    width = min(max(share, 0.0), 1.0)
    track = (
        f'<span class="xsp-track"><i style="--w:{width:.2%}"></i></span>'
        if share > 0
        else _NO_TRACK
    )
    return f'<td class="xsp-share" data-v="{share}">{track}{escape(numbers.percent(share))}</td>'


_NO_TRACK = '<span class="xsp-track"></span>'
