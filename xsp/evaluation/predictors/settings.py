"""Options of runtimes: read strictly, so that a misspelt one is not silently without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xsp.errors import EvaluationError

Allowed = Mapping[str, tuple[object, ...] | type]
"""By option, the values that it can have, or their type."""


def read(predictor: str, given: Mapping[str, Any], allowed: Allowed) -> dict[str, Any]:
    """The options, checked. Raises EvaluationError."""
    for name, value in given.items():
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise EvaluationError(
                f"the predictor {predictor!r} has no option {name!r}; known are {known}"
            )
        rule = allowed[name]
        fits = type(value) is rule if isinstance(rule, type) else value in rule
        if not fits:
            wanted = rule.__name__ if isinstance(rule, type) else " or ".join(map(repr, rule))
            raise EvaluationError(
                f"the option {name!r} of {predictor!r} must be {wanted}, not {value!r}"
            )
    return dict(given)
