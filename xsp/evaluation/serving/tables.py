"""Tables of the page, as Dash's HTML components: React escapes every text in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import dcc, html

from xsp.evaluation.records.answers import json_rows
from xsp.evaluation.records.evaluation import ACCURACY, Evaluation, when
from xsp.evaluation.records.reading import FACTS
from xsp.evaluation.serving.work import DONE, FAILED, OPEN, JobState

SHOWN = 200
"""Evaluations in the table at most, the newest."""
_CHOOSE = (
    "Choose one to see it whole, and several to compare them with the oldest. Numbers are of runs "
    "that nothing traced; what was traced, was in runs of its own."
)
_MEASURES = 6
"""Measures in that table at most; the others are told with an evaluation."""
_FIRST = (
    "latency_p50",
    "latency_p90",
    "latency_p99",
    "throughput",
    "optimal_batch",
    "highest_rate",
    "latency_trimmed_mean",
    "latency_p99.9",
)
"""What is looked for first, in this order. Accuracy follows, by metrics of any name, then these:"""
_LAST = (
    "valid_rate",
    "weights_bytes",
    "model_host_bytes",
    "peak_host_bytes",
    "peak_device_bytes",
    "device_process_bytes",
    "energy_joules",
    "energy_per_input_joules",
    "cost_per_million",
)


def in_order(names: Sequence[str]) -> list[str]:
    """Names of measures, those that are looked for first before the others."""
    places = {name: place - len(_FIRST) for place, name in enumerate(_FIRST)}
    places |= {name: 1 + place for place, name in enumerate(_LAST)}
    return sorted(names, key=lambda name: places.get(name, 0))


def job_table(states: Sequence[JobState]) -> Any:
    """Jobs that were started here, the newest first, below how far they are."""
    if not states:
        return html.P("Nothing was started yet.", className="note")
    heads = ["model", "predictor", "scenario", "state", "agent", ""]
    rows = [_job_row(state) for state in reversed(states[-SHOWN:])]
    return [_progress(states), _table(heads, rows, "jobs-table")]


def _progress(states: Sequence[JobState]) -> Any:
    ended = sum(state.state not in OPEN for state in states)
    failed = sum(state.state == FAILED for state in states)
    told = f"{ended} of {len(states)} ended" + (f", {failed} failed" if failed else "")
    bar = html.Progress(value=str(ended), max=str(len(states)))
    return html.P([bar, " ", html.Span(told, id="progress")])


def _job_row(state: JobState) -> Any:
    texts = [state.model, state.predictor, state.scenario, state.state, state.agent]
    last: Any = state.error
    if state.state == DONE:
        last = f"evaluation {state.evaluation}"
    cells = [html.Td(text) for text in [*texts, last]]
    return html.Tr(cells, className=f"state-{state.state}")


def evaluation_table(
    found: pd.DataFrame, units: Mapping[str, str], count: int, chosen: Sequence[str]
) -> Any:
    """The newest of `count` evaluations, each with a box to choose it; `units` of measures by
    name.
    """
    if found.empty:
        return html.P("The database has no evaluations yet.", className="note")
    names = in_order([name for name in found.columns if name not in FACTS])[:_MEASURES]
    measured = {name: units.get(name, "") for name in names}
    # What was measured stands where a narrow page shows it.
    heads = ["", "model", "predictor", "scenario"]
    heads += [_head(name, unit) for name, unit in measured.items()]
    heads += ["valid", "traced", "device", "system", "when", "id"]
    shown = json_rows(found)
    rows = [_evaluation_row(row, measured, row["id"] in chosen) for row in shown]
    newest = f"The newest {len(found)} of {count}. " if count > len(found) else ""
    return [html.P(newest + _CHOOSE, className="note"), _table(heads, rows, "table")]


def _evaluation_row(row: dict[str, Any], measured: Mapping[str, str], chosen: bool) -> Any:
    box = dcc.Checklist(
        options=[{"label": "", "value": row["id"]}],
        value=[row["id"]] if chosen else [],
        id={"type": "choose", "id": row["id"]},
    )
    what = [
        f"{row['model']} {row['version']}",
        f"{row['predictor']} {row['runtime']}",
        row["scenario"],
    ]
    where = [
        "yes" if row["valid"] else "no",
        f"{row['traced']}, in other runs" if row["traced"] else "no",
        row["device"],
        row["system"],
        when(row["measured_at"]),
        row["id"],
    ]
    values = [number(row[name], _shown(unit)[0]) for name, unit in measured.items()]
    cells = [html.Td(box), *map(html.Td, what)]
    cells += [html.Td(value, className="number") for value in values]
    return html.Tr([*cells, *map(html.Td, where)])


def _head(name: str, unit: str) -> str:
    """A measure's name with its unit."""
    shown = "" if unit == ACCURACY else _shown(unit)[1]
    return f"{name} {shown}".replace("_", " ").strip()


def _shown(unit: str) -> tuple[float, str]:
    """What a unit is multiplied by to be shown, and as what: times are shown in ms."""
    return (1e-6, "ms") if unit == "ns" else (1.0, unit)


def measure_table(found: Evaluation) -> Any:
    """Every measure with its 95 % interval; what is not known is said so."""
    rows = []
    by_name = {each.name: each for each in found.measures}
    for each in map(by_name.__getitem__, in_order(list(by_name))):
        known = each.low is not None and each.high is not None
        factor, unit = _shown(each.unit)
        interval = f"{number(each.low, factor)} to {number(each.high, factor)}" if known else ""
        value = number(each.value, factor)
        texts = [each.name.replace("_", " "), value, unit, interval or each.reason]
        look = "unknown" if each.value is None else ""
        rows.append(html.Tr([html.Td(text) for text in texts], className=look))
    return _table(
        ["measure", "value", "unit", "95 % interval, or why there is none"],
        rows,
        f"measures-{found.id}",
    )


def number(value: float | None, factor: float = 1.0) -> str:
    """Five digits; "unknown" where there is none."""
    return "unknown" if value is None or pd.isna(value) else f"{value * factor:.5g}"


def _table(heads: Sequence[str], rows: Sequence[Any], id: str) -> Any:  # noqa: A002 - Dash's name
    head = html.Thead(html.Tr([html.Th(name) for name in heads]))
    return html.Div(html.Table([head, html.Tbody(list(rows))], id=id), className="scroll")
