"""Options of runtimes: read strictly, so that a misspelt one is not silently without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xsp.errors import EvaluationError

Allowed = Mapping[str, tuple[object, ...] | range | type]
"""By option, the values that it can have, or their type."""
THREADS = range(1, 1025)
"""Of a pool. OpenMP ends the process where it can start no more."""
BATCH = range(1, 1_000_001)
"""Samples."""


def read(predictor: str, given: Mapping[str, Any], allowed: Allowed) -> dict[str, Any]:
    """The options, checked. Raises EvaluationError."""
    for name, value in given.items():
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise EvaluationError(
                f"the predictor {predictor!r} has no option {name!r}; known are {known}"
            )
        rule = allowed[name]
        if not _fits(value, rule):
            raise EvaluationError(
                f"the option {name!r} of {predictor!r} must be {_told(rule)}, not {value!r}"
            )
    return dict(given)


def _fits(value: Any, rule: tuple[object, ...] | range | type) -> bool:
    if isinstance(rule, type):
        return type(value) is rule
    return value in rule and not (isinstance(rule, range) and type(value) is not int)


def _told(rule: tuple[object, ...] | range | type) -> str:
    if isinstance(rule, type):
        return rule.__name__
    if isinstance(rule, range):
        return f"a whole number from {rule[0]} to {rule[-1]}"
    return " or ".join(map(repr, rule))
