"""When enough rounds have been run. A stopping rule is a function, so that callers can pass their own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from xsp.analysis.statistics import trimmed
from xsp.driver import Stop
from xsp.run import Run
from xsp.types import Level

MINIMUM_ROUNDS = 5
MAXIMUM_ROUNDS = 100
TARGET = 0.01
"""Half width of the model latency's 95 % interval, relative to the latency, that the default rule asks for."""
BUDGET_S = 30.0


def after_rounds(rounds: int) -> Stop:
    """Stop after a fixed number of rounds."""

    def stop(runs: Sequence[Run]) -> str | None:
        done = runs[-1].round + 1
        return f"{done} rounds as asked for" if done >= rounds else None

    return stop


def relative_half_width(runs: Sequence[Run]) -> float:
    """Half width of the interval of the unprofiled model latency over that latency; infinite when unknown."""
    latencies = [run.latency_ns for run in runs if run.spec.deepest is Level.MODEL]
    mean, half = trimmed(latencies)
    ratio = float(half) / float(mean)
    return ratio if np.isfinite(ratio) else float("inf")


def until_precise(target: float = TARGET, budget_s: float = BUDGET_S) -> Stop:
    """Stop when the model latency is known to within `target`, or when the time budget is spent, and say which."""
    begin = time.perf_counter()

    def stop(runs: Sequence[Run]) -> str | None:
        rounds = runs[-1].round + 1
        if rounds < MINIMUM_ROUNDS:
            return None
        width = relative_half_width(runs)
        if width <= target:
            return f"model latency known to ±{width:.1%} after {rounds} rounds"
        spent = time.perf_counter() - begin > budget_s
        if spent or rounds >= MAXIMUM_ROUNDS:
            why = "time budget spent" if spent else "greatest number of rounds reached"
            return f"{why} after {rounds} rounds; model latency known to ±{width:.1%} only, not ±{target:.1%}"
        return None

    return stop
