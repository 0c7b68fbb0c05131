"""What one test asks for: how to measure, what to compare, which budgets to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from xsp.errors import BudgetError
from xsp.regression.budgets import UNITS, parse_budgets

COMPARING = ("max_slowdown", "metric", "patience_s", "name")
METRICS = ("latency", "device")

_NOT_IN_TESTS = ("progress", "nvtx", "accept_changed", "restore", "captured_from")
"""Options of `xsp.measure` that make no sense in a test."""

_OF_TIME = ("latency_ms", "gpu_idle_share")
"""Budgets that one run says nothing of."""

BUDGET_S = 10.0
PATIENCE_S = 60.0


def measuring_options() -> tuple[str, ...]:
    """Names of the options that go to `xsp.measure`."""
    from xsp.measuring.options import names

    return tuple(name for name in names() if name not in _NOT_IN_TESTS)


def known_options() -> tuple[str, ...]:
    """Names of everything that the marker and the fixture take."""
    return (*measuring_options(), *COMPARING, *UNITS)


@dataclass(frozen=True)
class Plan:
    """How one measurement is made and judged.

    Args:
        measuring: options of `xsp.measure`.
        budgets: limits by name.
        max_slowdown: ratio to the baseline that is still accepted; None for the run's default.
        metric: "latency", the unprofiled one of the model, or "device", the time in which the GPU
            is busy.
        patience_s: seconds for measuring again while noise leaves the verdict open.
        name: sets this measurement apart from others of the same test.

    """

    measuring: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, float] = field(default_factory=dict)
    max_slowdown: float | None = None
    metric: str = "latency"
    patience_s: float = PATIENCE_S
    name: str = ""

    @property
    def needs_times(self) -> bool:
        """Whether the test says how long to measure, or has a budget of time."""
        asked = any(name in self.measuring for name in ("iterations", "stop"))
        return asked or any(name in self.budgets for name in _OF_TIME)

    @classmethod
    def of(cls, *given: Mapping[str, Any]) -> Plan:
        """A plan from options, later ones over earlier ones. Raises BudgetError for what
        cannot be.
        """
        options = {key: value for one in given for key, value in one.items()}
        known = known_options()
        if unknown := [key for key in options if key not in known]:
            raise BudgetError(
                f"option {unknown[0]!r} is unknown; the options are {', '.join(known)}"
            )
        slowdown = options.get("max_slowdown")
        if slowdown is not None and not _number(slowdown, 1.0):
            raise BudgetError(
                f"max_slowdown must be a ratio > 1, such as 1.05 for 5 %, not {slowdown!r}"
            )
        patience = options.get("patience_s", PATIENCE_S)
        if patience != 0 and not _number(patience, 0.0):
            raise BudgetError(f"patience_s must be a number of seconds >= 0, not {patience!r}")
        metric, name = options.get("metric", "latency"), options.get("name", "")
        if metric not in METRICS:
            raise BudgetError(f"metric must be {' or '.join(METRICS)}, not {metric!r}")
        if not isinstance(name, str):
            raise BudgetError(
                "name must be a string that distinguishes this measurement from the test's "
                f"others, not {name!r}"
            )
        measuring = {key: options[key] for key in measuring_options() if key in options}
        _checked(measuring)
        return cls(
            measuring if "iterations" in measuring else {"budget_s": BUDGET_S} | measuring,
            parse_budgets({key: value for key, value in options.items() if key in UNITS}),
            slowdown,
            metric,
            float(patience),
            name,
        )


def _checked(measuring: Mapping[str, Any]) -> None:
    from xsp.measuring.options import Options

    Options.of(**measuring)


def _number(value: Any, over: float) -> bool:
    return (
        isinstance(value, Real) and not isinstance(value, bool) and over < float(value) < math.inf
    )
