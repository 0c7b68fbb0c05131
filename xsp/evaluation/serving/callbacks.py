"""What the page does when something is clicked, and once a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, no_update

from xsp.errors import EvaluationError, XspError
from xsp.evaluation.serving.detail import detail
from xsp.evaluation.serving.platform import Platform
from xsp.evaluation.serving.tables import SHOWN, evaluation_table, job_table

_FIELDS = {
    "single_stream": {"queries": "queries"},
    "multi_stream": {"queries": "queries"},
    "server": {"queries": "queries", "rate": "rate_per_s", "bound": "latency_bound_ms"},
    "offline": {"queries": "samples"},
    "batched": {"queries": "iterations"},
    "highest_rate": {"queries": "queries", "bound": "latency_bound_ms"},
}
"""By scenario, which settings the numbers on the page are."""
_NEEDED = {
    "server": {"rate": "a rate per s", "bound": "a latency bound"},
    "highest_rate": {"bound": "a latency bound"},
}
"""By scenario, the numbers that it has no default for."""
_WHOLE = frozenset({"queries", "samples", "iterations"})


def add_callbacks(app: Dash, platform: Platform) -> None:
    """Connect the page's parts to the platform."""
    _add_start(app, platform)
    _add_stop(app, platform)
    _add_news(app, platform)
    _add_choice(app, platform)


def _add_start(app: Dash, platform: Platform) -> None:
    @app.callback(
        Output("said", "children"),
        Input("start", "n_clicks"),
        State("manifests", "value"),
        State("predictors", "value"),
        State("scenarios", "value"),
        State("queries", "value"),
        State("rate", "value"),
        State("bound", "value"),
        State("system", "value"),
        State("trace", "value"),
        prevent_initial_call=True,
    )
    def start(
        _clicks: int,
        manifests: list[str],
        predictors: list[str],
        kinds: list[str],
        queries: float | None,
        rate: float | None,
        bound: float | None,
        system: str | None,
        trace: str,
    ) -> str:
        numbers = {"queries": queries, "rate": rate, "bound": bound}
        try:
            scenarios = [scenario(kind, numbers) for kind in kinds]
            run = platform.start(manifests, predictors, scenarios, trace, labels(system or ""))
        except XspError as error:
            return str(error)
        return f"Started as run {run}."


def _add_stop(app: Dash, platform: Platform) -> None:
    @app.callback(
        Output("said", "children", allow_duplicate=True),
        Input("stop", "n_clicks"),
        prevent_initial_call=True,
    )
    def stop(_clicks: int) -> str:
        for run in {state.run for state in platform.work.states()}:
            platform.work.stop(run)
        return "Nothing more is started; what is running ends."


def _add_news(app: Dash, platform: Platform) -> None:
    @app.callback(
        Output("jobs", "children"),
        Output("evaluations", "children"),
        Output("known", "data"),
        Input("tick", "n_intervals"),
        State("known", "data"),
        State({"type": "choose", "id": ALL}, "value"),
    )
    def news(_ticks: int, known: str | None, boxes: list[list[str]]) -> tuple[Any, Any, Any]:
        jobs = job_table(platform.work.states())
        count, newest_at = platform.count()
        state = f"{count} {newest_at}"
        # A table that is drawn anew would lose a click on a box that is under way.
        if state == known:
            return jobs, no_update, no_update
        found = platform.evaluations(SHOWN)
        units = platform.units(found["id"].tolist())
        return jobs, evaluation_table(found, units, count, _chosen(boxes)), state


def _add_choice(app: Dash, platform: Platform) -> None:
    @app.callback(
        Output("detail", "children"),
        Input({"type": "choose", "id": ALL}, "value"),
    )
    def choose(boxes: list[list[str]]) -> Any:
        return detail(platform, _chosen(boxes))


def _chosen(boxes: Sequence[Sequence[str] | None]) -> list[str]:
    return [each for box in boxes for each in box or ()]


def scenario(kind: str, numbers: dict[str, float | None]) -> dict[str, Any]:
    """Settings of a scenario: the numbers that it has, where they were given. Raises
    EvaluationError where one is missing.
    """
    missing = [told for name, told in _NEEDED.get(kind, {}).items() if numbers[name] is None]
    if missing:
        raise EvaluationError(
            f"the scenario {kind} needs {' and '.join(missing)}; fill in the numbers below the "
            "scenarios"
        )
    given: dict[str, Any] = {"kind": kind}
    for name, setting in _FIELDS[kind].items():
        value = numbers[name]
        if value is not None:
            given[setting] = int(value) if setting in _WHOLE else value
    return given


def labels(text: str) -> dict[str, str]:
    """Labels of agents as `name=value`, separated by commas. Raises EvaluationError."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise EvaluationError(f"{part!r} is not a label; write NAME=VALUE, such as host=node-7")
        found[name.strip()] = value.strip()
    return found
