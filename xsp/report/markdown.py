"""A summary as Markdown: the same sentences as everywhere, costs as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xsp.report.sentences import Section, sections
from xsp.summary.values import Cost, Ranking, Summary
from xsp.words import numbers
from xsp.words.distinct import distinct_names
from xsp.words.labels import escape_markdown, markdown_sentence, shorten

_NAME = 60
_HEADS = ("name", "type", "calls", "ms", "±", "busy ms", "waiting ms", "share")


def summary_markdown(summary: Summary) -> str:
    """The whole summary, for a document, an issue or a comment."""
    lines = [f"# {escape_markdown(summary.name)}"]
    for section in sections(summary):
        lines += ["", f"## {section.question}", ""]
        lines += _places(summary) if section.key == "places" else _listed(section)
    return "\n".join(lines) + "\n"


def _listed(section: Section) -> Iterator[str]:
    for heading, sentence in section.facts:
        head = f"**{heading}**: " if heading and heading != "try" else ""
        yield f"- {head}{markdown_sentence(sentence)}"


def _places(summary: Summary) -> Iterator[str]:
    """A table for each kind of cost."""
    places, decimals = summary.places, numbers.column_decimals(summary.latency.ms)
    named = (
        ("Layers", places.layers),
        ("Types of layers", places.types),
        ("Library functions (GPU busy)", places.library),
        ("Kernels (GPU busy)", places.kernels),
    )
    for heading, ranking in named:
        if ranking.of:
            yield from _table(heading, ranking, decimals)
    if not math.isnan(places.in_no_layer):
        yield f"In no layer: {numbers.percent(places.in_no_layer)} of the latency."


def _table(heading: str, ranking: Ranking, decimals: int) -> Iterator[str]:
    yield f"{heading}, the largest of {ranking.of}:"
    yield ""
    yield f"| {' | '.join(_HEADS)} |"
    yield "|---|---|" + "---:|" * (len(_HEADS) - 2)
    names = distinct_names([cost.name for cost in ranking.costs])
    for cost in ranking.costs:
        name = shorten(names[cost.name], _NAME)
        yield f"| {' | '.join(_cells(cost, name, decimals))} |"
    yield ""
    if ranking.not_known:
        yield f"{ranking.not_known} are not ranked: their intervals are wider than they are."
        yield ""


def _cells(cost: Cost, name: str, decimals: int) -> list[str]:
    return [
        escape_markdown(f"{name} (bwd)" if cost.backward else name),
        escape_markdown(cost.kind),
        str(cost.calls),
        numbers.milliseconds(cost.ms, decimals),
        numbers.plus_minus(cost.half_width_ms, decimals).removeprefix("±"),
        numbers.milliseconds(cost.busy_ms, decimals),
        numbers.milliseconds(cost.waiting_ms, decimals),
        numbers.percent(cost.share),
    ]
