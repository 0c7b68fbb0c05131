"""The history of performance tests as lines for a terminal, as JSON, and as a page of plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from xsp.analysis.figures.theme import figure
from xsp.words.labels import printable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DIGEST = 9
"""Characters of a commit's name that are shown."""
_UNKNOWN = "–"


def history_lines(found: pd.DataFrame) -> Iterator[str]:
    """A heading for each test and machine, and a line for each version of its baseline."""
    for test, machine, rows in _by_test(found):
        yield f"{printable(test)}  ({printable(machine)})"
        before: Mapping[str, int] = {}
        for row in rows.to_dict("records"):
            yield f"  {_line(row, before)}".rstrip()
            before = row["counts"]
        yield ""


def history_json(found: pd.DataFrame) -> str:
    """The rows as JSON; what is not known is null."""
    rows = [
        {name: None if _is_unknown(value) else value for name, value in row.items()}
        for row in found.to_dict("records")
    ]
    data = {"format": "xsp-history", "version": 1, "rows": rows}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def history_figures(found: pd.DataFrame) -> list[Figure]:
    """A plot for each test and machine: latency with its 95 % interval over the commits."""
    return [_figure(test, machine, rows) for test, machine, rows in _by_test(found)]


def history_html(found: pd.DataFrame) -> str:
    """A page of the plots, which loads nothing from elsewhere."""
    plots = [
        drawn.to_html(full_html=False, include_plotlyjs=place == 0)
        for place, drawn in enumerate(history_figures(found))
    ]
    title = "Performance tests over the commits"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
        f"<body><h1>{title}</h1>{''.join(plots)}</body></html>\n"
    )


def _figure(test: str, machine: str, rows: pd.DataFrame) -> Figure:
    drawn = figure(test, machine, height=320)
    named = [f"{place} {_short(each)}" for place, each in enumerate(rows["commit"], start=1)]
    hover = [
        f"{escape(printable(str(row.subject)))}<br>{row.date}"
        for row in rows.itertuples(index=False)
    ]
    drawn.add_scatter(
        x=named,
        y=rows["latency_ms"],
        error_y={"type": "data", "array": rows["latency_ci_ms"]},
        mode="lines+markers",
        text=hover,
        hovertemplate="%{y:.4g} ms<br>%{text}<extra></extra>",
    )
    drawn.update_yaxes(title="latency ms", rangemode="tozero")
    return drawn.update_xaxes(type="category")


def _by_test(found: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (test, machine), rows in found.groupby(["test", "machine"], sort=False):
        yield str(test), str(machine), rows


def _line(row: Mapping[Any, Any], before: Mapping[str, int]) -> str:
    half = "" if _is_unknown(row["latency_ci_ms"]) else f" ±{row['latency_ci_ms']:.3f}"
    time = _UNKNOWN if _is_unknown(row["latency_ms"]) else f"{row['latency_ms']:.3f}{half} ms"
    change = "" if _is_unknown(row["ratio"]) else f"{row['ratio'] - 1:+.1%}"
    counts = ", ".join(
        f"{name} {before[name]:,} → {number:,}"
        for name, number in row["counts"].items()
        if name in before and before[name] != number
    )
    day = str(row["date"])[:10]
    said = printable(str(row["subject"]))
    return f"{_short(row['commit']):{_DIGEST}}  {day}  {time:>20}  {change:>7}  {said}  {counts}"


def _short(commit: str) -> str:
    return commit[:_DIGEST] if " " not in commit else commit


def _is_unknown(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
