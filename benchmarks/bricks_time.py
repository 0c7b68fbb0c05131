"""How long a model of a pool may take, so that all of them have a share of the time there is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LEAST_S = 1.0
"""For the rounds of a model, however little time there is."""


def rounds_s(left_s: float, groups: int, around_s: float, most_s: float) -> float | None:
    """Seconds for the rounds of the next of `groups`: an equal share of what is left, less what
    goes on around the rounds, and `most_s` at most. None for as long as they take.

    What a group does not use, because its latencies are known sooner, the next ones have.
    """
    share = left_s / groups - around_s
    found = max(min(share, most_s), LEAST_S)
    return None if math.isinf(found) else found


def around_s(measurements: Mapping[str, Mapping[str, Any]]) -> float:
    """How long models took so far besides their rounds: being built and taken apart, warming up.
    Those whose rounds ended before their time tell nothing.
    """
    rows = [each for models in measurements.values() for each in models.values()]
    timed = [each for each in rows if each.get("rounds_s") and "seconds" in each]
    over = [each["seconds"] - each["rounds_s"] for each in timed]
    known = [each for each in over if each > 0]
    return sum(known) / len(known) if known else 0.0
