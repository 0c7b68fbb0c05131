"""Chosen evaluations: what was measured of each, how their latencies are distributed, the verdict
on two, and the way to their profiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from xsp.analysis.figures.theme import template
from xsp.errors import XspError
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.serving.platform import CAPTURE, Platform
from xsp.evaluation.serving.tables import measure_table

_POINTS = 1000
"""Points of a curve at most: quantiles at equal distances."""


def detail(platform: Platform, chosen: Sequence[str]) -> Any:
    """Everything about the chosen evaluations; later ones are compared with the first."""
    if not chosen:
        return None
    try:
        found = sorted(map(platform.evaluation, chosen), key=lambda one: one.measured_at)
        parts = [*_comparisons(platform, found), _latencies(found), *map(_one, found)]
    except XspError as error:
        return html.P(str(error), className="fault")
    return parts


def _comparisons(platform: Platform, found: Sequence[Evaluation]) -> Iterator[Any]:
    for other in found[1:]:
        compared = platform.compared(found[0].id, other.id)
        head = html.H2(f"{_name(other)} compared with {_name(found[0])}")
        sentences = [html.Li(sentence) for sentence in compared.sentences()]
        yield html.Div([head, html.Ul(sentences)], className="comparison")


def _one(found: Evaluation) -> Any:
    model = found.manifest.model
    said = [
        *(f"Not valid: {reason}" for reason in found.outcome.reasons),
        *(f"Doubt: {doubt}" for doubt in found.doubts),
    ]
    return html.Div(
        [
            html.H2(_name(found)),
            html.P(
                f"{model.name} {model.version} on {found.predictor} {found.runtime} "
                f"({found.manifest.runtime.device}), {len(found.outcome.samples)} queries, "
                f"{found.outcome.errors} of them not answered."
            ),
            html.Ul([html.Li(each) for each in said]),
            html.P("Measured in runs that nothing traced:", className="note"),
            measure_table(found),
            _profile(found),
        ],
        className="evaluation",
        id=f"evaluation-{found.id}",
    )


def _profile(found: Evaluation) -> Any:
    """The link to the report, or why there is none."""
    captures = [trace for trace in found.traces if trace.kind == CAPTURE]
    if not captures:
        return html.P("It was not traced.", className="note")
    return html.P(
        [
            html.A(
                "Open its profile, down to layers and kernels",
                href=f"/api/evaluations/{found.id}/report",
                className="profile",
            ),
            f" (level {captures[0].level}, {captures[0].spans} spans). It was traced in runs of "
            "its own: no number above comes from them.",
        ]
    )


def _latencies(found: Sequence[Evaluation]) -> Any:
    """The share of queries that were answered within a time, a curve for each evaluation."""
    curves = [_curve(each) for each in found]
    layout = {
        "template": template(transparent=True),
        "xaxis": {"title": {"text": "latency (ms)"}},
        "yaxis": {"title": {"text": "share of queries"}, "range": [0, 1]},
        "margin": {"l": 56, "r": 16, "t": 8, "b": 48},
        "showlegend": True,
        # Below the axis: beside it, names would take a narrow page's whole width.
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
    }
    return html.Div(
        [
            html.H2("Share of queries answered within a time, from when each should arrive"),
            dcc.Graph(
                figure={"data": curves, "layout": layout},
                id="latencies",
                config={"displaylogo": False, "displayModeBar": False, "responsive": True},
            ),
        ]
    )


def _curve(found: Evaluation) -> dict[str, Any]:
    outcome = found.outcome
    taken = outcome.latency_ns[outcome.answered] / 1e6
    shares = np.linspace(0, 1, min(_POINTS, max(len(taken), 2)))
    quantiles = np.quantile(taken, shares) if len(taken) else np.array([])
    return {
        "x": quantiles.tolist(),
        "y": shares[: len(quantiles)].tolist(),
        "type": "scatter",
        "mode": "lines",
        "name": f"{found.manifest.model.name}, {found.predictor}<br>{found.id}",
    }


def _name(found: Evaluation) -> str:
    return f"{found.manifest.model.name}, {found.predictor}, {found.outcome.scenario} ({found.id})"
