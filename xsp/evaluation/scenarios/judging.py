"""Whether a test is valid, and what makes its numbers doubtful, from its columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from xsp.evaluation.scenarios.recording import UNKNOWN
from xsp.evaluation.scenarios.scenario import Columns, Marks
from xsp.evaluation.scenarios.settings import MultiStream, Offline, Replay, Server, SingleStream
from xsp.evaluation.scenarios.task import Report
from xsp.evaluation.scenarios.validity import beyond_bound, too_few

LATE = 0.1
"""Issued this share of the latency bound later than scheduled, a query tells of the generator."""
TOLERATED = 0.05
"""Between two queries xsp may take this share of what the system takes for one."""


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


def own_ns(
    scheduled: Columns, issued: Columns, begun: Columns, completed: Columns
) -> dict[str, dict[str, float]]:
    """What xsp itself and the load generator take for a query, in ns, each with its median, p99 and
    the calls that tell it; `system` is the system's own time for one. Empty where nobody stamped
    when calls began.

    `between` is from the end of a call to the beginning of the next one, whose query waited then;
    `at_idle` from when a query should arrive to when the system, which was free then, was called.
    """
    called = np.flatnonzero(np.diff(begun, prepend=UNKNOWN) > 0)
    if not len(called):
        return {}
    scheduled, issued, begun, completed = (
        each[called] for each in (scheduled, issued, begun, completed)
    )
    free = np.concatenate([[0], completed[:-1]])
    return {
        "between": _spread((begun - free)[issued < free]),
        "at_idle": _spread((begun - scheduled)[scheduled >= free]),
        "system": _spread(completed - begun),
    }


def _spread(times: Columns) -> dict[str, float]:
    if not len(times):
        return {"calls": 0}
    median, p99 = np.quantile(times, [0.5, 0.99])
    return {"median": float(median), "p99": float(p99), "calls": len(times)}


def short_service(scenario: Any, own: dict[str, dict[str, float]]) -> str | None:
    """A sentence if a queue is longer by the time that passes between two queries."""
    if not isinstance(scenario, Server | Replay) or "median" not in own.get("between", {}):
        return None
    between, system = own["between"]["median"], own["system"]["median"]
    if between <= TOLERATED * system:
        return None
    return (
        f"between two queries {between / 1e3:.0f} µs pass (median) of telling the load generator "
        f"and of Python, beside the {system / 1e3:.0f} µs that the system takes for one: those "
        "that wait are measured on a system that is slower by that"
    )
