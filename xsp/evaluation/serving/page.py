"""The web page: what can be started, what is running, what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dash import Dash, dcc, html
from fastapi import FastAPI

from xsp.evaluation.predictors.registry import predictor_names
from xsp.evaluation.serving.callbacks import add_callbacks
from xsp.evaluation.serving.catalogue import Entry
from xsp.evaluation.serving.platform import Platform
from xsp.evaluation.tracing import LEVELS

_TICK_MS = 1000
"""How often the page asks for news: also while something is measured on this machine."""
_NO_CODE = (
    "Grey ones run Python that their manifests name, which this server does not: read it, then "
    "start xsp serve with --allow-code."
)
_BY_MANIFEST = "Where none is chosen: as the manifest says."
_TRACED = {
    "NONE": "nothing",
    "MODEL": "whole calls",
    "FRAMEWORK": "calls and layers",
    "SYSTEM": "calls, layers and kernels",
    "FULL": "calls, layers, library calls and kernels",
}
"""What a level of LEVELS traces, in words."""
SCENARIOS = ("single_stream", "multi_stream", "server", "offline", "batched", "highest_rate")


def add_page(server: FastAPI, platform: Platform) -> Dash:
    """Serve the page at `/` of the server. Routes that were added before come first."""
    # Dash takes applications of FastAPI, but its types do not say so yet.
    backend: Any = server
    app = Dash(
        __name__,
        server=backend,
        title="xsp evaluations",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
    )
    app.layout = lambda: _layout(platform)
    add_callbacks(app, platform)
    return app


def _layout(platform: Platform) -> Any:
    """Made anew for every visit: manifests may have been added."""
    return html.Main(
        [
            html.H1("Evaluations"),
            html.P(f"Database: {platform.store.place}", className="note"),
            dcc.Interval(id="tick", interval=_TICK_MS),
            dcc.Store(id="known"),
            html.Section([html.H2("Start"), *_start(platform)], id="start-section"),
            html.Section([html.H2("Running"), html.Div(id="jobs")]),
            html.Section([html.H2("Found"), html.Div(id="evaluations")]),
            html.Section(html.Div(id="detail")),
        ]
    )


def _start(platform: Platform) -> list[Any]:
    entries = platform.catalogue.entries()
    good = [each for each in entries if each.manifest is not None]
    allowed = platform.places.allow_code
    models = [_model(each, allowed=allowed) for each in good]
    grey = not allowed and any(each.runs_code for each in good)
    faults = [html.Pre(each.fault) for each in entries if each.manifest is None]
    return [
        html.Div(
            [
                _group(
                    "Models",
                    dcc.Checklist(models, [], id="manifests"),
                    *([html.P(_NO_CODE, className="note", id="no-code")] if grey else []),
                    *([] if good else [html.P(_no_manifest(platform), className="note")]),
                ),
                _group(
                    "Predictors",
                    dcc.Checklist(predictor_names(), [], id="predictors"),
                    html.P(_BY_MANIFEST, className="note"),
                ),
                _group(
                    "Scenarios",
                    dcc.Checklist(list(SCENARIOS), [], id="scenarios"),
                    html.P(_BY_MANIFEST, className="note"),
                    html.Div(_settings(), className="numbers"),
                ),
                _group(
                    "System",
                    dcc.Input(id="system", placeholder="any agent, or host=NAME", debounce=False),
                    html.P("Trace, in a run of its own"),
                    dcc.RadioItems(_levels(), "NONE", id="trace"),
                ),
            ],
            className="groups",
        ),
        html.Button("Start", id="start"),
        html.Button("Stop after what is running", id="stop"),
        html.P("", id="said", role="status"),
        *([html.H3("Files that are no manifests"), *faults] if faults else []),
    ]


def _model(entry: Entry, *, allowed: bool) -> dict[str, Any]:
    """A box for a manifest: its model, its file, and what it says of runtime and load."""
    manifest = entry.manifest
    assert manifest is not None  # noqa: S101 - only those are offered
    told = f"{manifest.runtime.predictor}, {manifest.scenario.kind}"
    return {
        "label": f"{manifest.model.name} ({entry.file}: {told})",
        "value": entry.file,
        "disabled": entry.runs_code and not allowed,
    }


def _no_manifest(platform: Platform) -> str:
    return (
        f"{platform.catalogue.folder} has no manifests: put YAML files there, or name another "
        "folder when you start xsp serve."
    )


def _levels() -> list[dict[str, str]]:
    return [{"label": f"{level}: {_TRACED[level]}", "value": level} for level in LEVELS]


def _settings() -> list[Any]:
    """Numbers for the scenarios chosen, where they have them."""
    return [
        _number("queries", "queries or samples"),
        _number("rate", "rate per s (server)"),
        _number("bound", "latency bound ms (server, highest rate)"),
    ]


def _number(id: str, told: str) -> Any:  # noqa: A002 - Dash's name
    return html.Label([dcc.Input(id=id, type="number", min=0), html.Span(told)])


def _group(name: str, *children: Any) -> Any:
    return html.Fieldset([html.Legend(name), *children])
