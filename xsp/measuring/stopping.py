"""When enough rounds have been run. A stopping rule is a function, so that callers can pass their
own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.statistics import trimmed
from xsp.capture.run import Run
from xsp.doubts import Stopped, StopReason
from xsp.measuring.deadline import Deadline
from xsp.measuring.options import BUDGET_S, Options, Stop
from xsp.types import LAYER_EVENTS, Level

MINIMUM_ROUNDS = 5
FEWEST_ROUNDS = 2
"""Where the time is over before there are MINIMUM_ROUNDS: fewer have no interval."""
MAXIMUM_ROUNDS = 100
TARGET = 0.01
"""Half width of the 95 % intervals, relative to the model latency, that the default rule
asks for.
"""
STEADY_ROUNDS = 5
"""Rounds in a row after which the intervals must be narrow enough. A rule that stops at the first
narrow interval picks the rounds that happen to agree: simulated, such 95 % intervals hold the truth
in 88 of 100, after five in a row in 93."""
TOP_LAYERS = 10
"""Layers, by host time, whose intervals the default rule also looks at."""


def rule_for(options: Options, deadline: Deadline) -> Stop:
    """The rule given, else as many rounds as asked for, else until precise or the deadline."""
    if options.stop is not None:
        return options.stop
    if options.iterations is not None:
        return after_rounds(options.iterations)
    return until_precise(deadline=deadline)


def after_rounds(rounds: int) -> Stop:
    """Stop after a fixed number of rounds."""

    def stop(runs: Sequence[Run]) -> Stopped | None:
        done = runs[-1].round + 1
        return Stopped(StopReason.ASKED, done) if done >= rounds else None

    return stop


def relative_half_width(runs: Sequence[Run]) -> float:
    """Half width of the interval of the unprofiled model latency over that latency; infinite when
    unknown.
    """
    mean, half = trimmed([run.latency_ns for run in runs if run.spec.deepest is Level.MODEL])
    return _finite(float(half) / float(mean))


class TopLayers:
    """Host time of each layer in every run at the rung whose deepest level is LAYER, kept from
    round to round.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._by_run: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []

    def half_width_ns(self, runs: Sequence[Run]) -> float:
        """Widest half width of the intervals of the `TOP_LAYERS` longest layers, 0 where layers
        were not traced.
        """
        new, self._seen = runs[self._seen :], len(runs)
        self._by_run += [_by_layer(run) for run in new if run.spec.deepest is Level.LAYER]
        if not self._by_run:
            return 0.0
        codes = np.unique(np.concatenate([code for code, _ in self._by_run]))
        sums = np.zeros((len(self._by_run), len(codes)))
        for row, (code, total) in zip(sums, self._by_run, strict=True):
            row[np.searchsorted(codes, code)] = total
        mean, half = trimmed(sums)
        widths = half[np.argsort(mean)[-TOP_LAYERS:]]
        return _finite(float(widths.max(initial=0.0)))


def _by_layer(run: Run) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Codes of the layers of a run and the summed host time of each, in ns."""
    events = run.table("layer_events", LAYER_EVENTS)
    code, place = np.unique(events["code"], return_inverse=True)
    return code, np.bincount(
        place, weights=events["end_ns"] - events["start_ns"], minlength=len(code)
    )


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def until_precise(
    target: float = TARGET,
    budget_s: float = BUDGET_S,
    max_rounds: int = MAXIMUM_ROUNDS,
    deadline: Deadline | None = None,
) -> Stop:
    """Stop when the model latency, and each top layer, is known to within `target` of the model
    latency after each of `STEADY_ROUNDS` rounds, or when a further round would end nearer to the
    end of the time behind it than before, or `max_rounds` are reached, and say which.

    The time is `budget_s` from now, or that of `deadline`, and has to suffice for evaluating the
    rounds too.
    """
    spent_after = _Spent(deadline or Deadline(budget_s))
    layers = TopLayers()
    steady = 0

    def stop(runs: Sequence[Run]) -> Stopped | None:
        nonlocal steady
        rounds = runs[-1].round + 1
        spent = spent_after(runs)
        if rounds < (FEWEST_ROUNDS if spent else MINIMUM_ROUNDS):
            return None
        width = relative_half_width(runs)
        of_layers = _relative_to_model(layers.half_width_ns(runs), runs)
        last = spent or rounds >= max_rounds
        steady = steady + 1 if max(width, of_layers) <= target else 0
        if steady >= (1 if last else STEADY_ROUNDS):
            reason = StopReason.PRECISE
        elif last:
            reason = StopReason.BUDGET if spent else StopReason.MOST_ROUNDS
        else:
            return None
        return Stopped(reason, rounds, width, of_layers, target)

    return stop


class _Spent:
    """Whether the time for rounds is over, from how long they have taken so far."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._begin = time.perf_counter()
        self._seen = self._events = 0

    def __call__(self, runs: Sequence[Run]) -> bool:
        new = runs[self._seen :]
        self._seen = len(runs)
        self._events += sum(run.events for run in new)
        rounds = runs[-1].round + 1
        round_s = (time.perf_counter() - self._begin) / rounds
        return self._deadline.left_for_rounds_s(self._events) < round_s / 2


def _relative_to_model(half_width_ns: float, runs: Sequence[Run]) -> float:
    return half_width_ns / float(
        trimmed([run.latency_ns for run in runs if run.spec.deepest is Level.MODEL])[0]
    )
