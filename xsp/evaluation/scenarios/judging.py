"""Whether a test is valid, and what makes its numbers doubtful, from its columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from xsp.evaluation.scenarios.scenario import Columns, Marks
from xsp.evaluation.scenarios.settings import MultiStream, Offline, Replay, Server, SingleStream
from xsp.evaluation.scenarios.task import Report
from xsp.evaluation.scenarios.validity import beyond_bound, too_few

LATE = 0.1
"""Issued this share of the latency bound later than scheduled, a query tells of the generator."""


def reasons_against(
    scenario: Any, scheduled: Columns, completed: Columns, answered: Marks, report: Report
) -> list[str]:
    """Why a test is not valid; empty if it is."""
    said = []
    if report.errors:
        said.append(
            f"{report.errors} of {len(answered)} queries ended in an error; the first: "
            f"{report.first_error}"
        )
    if not answered.any():
        return said or ["no query was answered"]
    latency = (completed - scheduled)[answered]
    said += _against_settings(scenario, latency, len(scheduled), scheduled)
    if report.loadgen_valid is False and not said:
        said.append("loadgen says INVALID: " + ("; ".join(report.said) or "without a reason"))
    return said


def _against_settings(
    scenario: Any, latency: Columns, queries: int, scheduled: Columns
) -> list[str]:
    said: list[str] = []
    if isinstance(scenario, SingleStream | MultiStream | Server):
        if queries < scenario.queries:
            said.append(f"{queries} queries, fewer than the {scenario.queries} asked for")
        lasted_s = float(scheduled[-1] - scheduled[0]) / 1e9
        if lasted_s < scenario.min_duration_s:
            said.append(f"queries came for {lasted_s:.3f} s, not {scenario.min_duration_s:g} s")
    if isinstance(scenario, SingleStream | MultiStream):
        refused = too_few(len(latency), scenario.percentile / 100, over=1)
        said += [refused] if refused else []
    bound_ms = getattr(scenario, "latency_bound_ms", None)
    if isinstance(scenario, Server | Replay) and bound_ms is not None:
        said += beyond_bound(latency, scenario.percentile / 100, round(1e6 * bound_ms))
    if isinstance(scenario, Offline) and queries == 0:
        said.append("no batch was answered")
    return said


def lag_ns(scheduled: Columns, issued: Columns) -> dict[str, float]:
    """How much later than scheduled queries reached the system: median, p99 and most, in ns."""
    if not len(issued):
        return {}
    lag = issued - scheduled
    return {
        "median": float(np.median(lag)),
        "p99": float(np.quantile(lag, 0.99)),
        "most": float(lag.max()),
    }


def late_generator(scenario: Any, lag: dict[str, float]) -> str | None:
    """A sentence if the generator, not the system, may be what was measured."""
    bound_ms = getattr(scenario, "latency_bound_ms", None)
    if not lag or bound_ms is None or lag["p99"] <= LATE * 1e6 * bound_ms:
        return None
    return (
        f"queries reached the system late (p99 {lag['p99'] / 1e6:.3f} ms after their scheduled "
        f"time, beside a bound of {bound_ms:g} ms): a busy machine, or a rate beyond what the load "
        "generator reaches here"
    )
