"""How long each of several algorithms takes: all are looked at, those in the lead for longer.

A library offers dozens of algorithms for a layer, most of them far slower than the best. What is
clearly slower is not timed again; its few samples stay, with their interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from xsp.analysis.spans.statistics import trimmed
from xsp.bounds.torch_calls import Call
from xsp.measuring.stopping import MAXIMUM_ROUNDS, MINIMUM_ROUNDS, TARGET

WARM_UP = 3
"""Calls before any that counts."""
FAR_BEHIND = 2.0
"""At so many times the best, one sample is enough."""
BATCH = 10
"""Calls between two looks at the intervals."""
BUDGET_S = 0.5
"""Seconds for one algorithm in one state of the caches."""

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed, the flags that choose its algorithm, and whether it is
    timed to the end however slow it is.
    """

    call: Call
    under: Callable[[], AbstractContextManager[Any]] = nullcontext
    to_the_end: bool = False


class Timer(Protocol):
    """Takes samples of the time that calls take on a device, in ns. `method` says how."""

    method: str

    def samples(
        self, calls: Sequence[Prepared], caches: str, count: int
    ) -> list[Samples | Exception]:
        """`count` samples of each call, with cold or warm caches, or what it raised."""


@dataclass(frozen=True)
class Timed:
    """Trimmed mean of the samples and half of its 95 % interval, in ns; NaN for one sample."""

    time_ns: float
    half_width_ns: float
    rounds: int


@dataclass
class _Racer:
    prepared: Prepared
    samples: Samples = field(default_factory=lambda: np.zeros(0))
    steady: int = 0
    failure: Exception | None = None

    def add(self, found: Samples | Exception, target: float) -> None:
        if isinstance(found, Exception):
            self.failure = found
            return
        self.samples = np.concatenate([self.samples, found])
        self.steady = self.steady + 1 if self.half_ns <= target * self.mean_ns else 0

    @property
    def mean_ns(self) -> float:
        return float(trimmed(self.samples)[0])

    @property
    def half_ns(self) -> float:
        return float(trimmed(self.samples)[1])

    @property
    def is_done(self) -> bool:
        return self.failure is not None or self.steady >= 2 or len(self.samples) >= MAXIMUM_ROUNDS

    def is_behind(self, best: _Racer) -> bool:
        """Whether it cannot be the fastest: its interval and each of its samples are above."""
        if self.prepared.to_the_end:
            return False
        least = min(self.mean_ns - self.half_ns, float(self.samples.min()))
        return least > best.mean_ns + best.half_ns


def raced(
    timer: Timer,
    calls: Sequence[Prepared],
    caches: str,
    budget_s: float = BUDGET_S,
    target: float = TARGET,
) -> list[Timed | Exception]:
    """The time of each call, or what it raised.

    What takes more than twice as long as another at the first sample is left with that one. Any
    other call is timed until half of its interval is at most `target` of the mean at two looks in
    a row, after MINIMUM_ROUNDS, at most MAXIMUM_ROUNDS, as `xsp.measure` does; until it is behind
    the fastest, or until `budget_s` for each call is spent.
    """
    begin = time.perf_counter()
    racers = [_Racer(each) for each in calls]
    for racer in racers:
        racer.failure = _called(racer.prepared, 1)
    _look(timer, racers, caches, 1, target)
    close = _close_ones(racers)
    for racer in close:
        racer.failure = _called(racer.prepared, WARM_UP - 1)
        racer.samples = np.zeros(0)
    _look(timer, close, caches, MINIMUM_ROUNDS, target)
    while left := _still_running(close):
        if time.perf_counter() - begin > budget_s * len(calls):
            break
        _look(timer, left, caches, _batch(left, budget_s), target)
    return [_result(racer) for racer in racers]


def _called(prepared: Prepared, times: int) -> Exception | None:
    # The first calls of an algorithm can run trials, build plans and allocate workspaces.
    try:
        with prepared.under(), torch.inference_mode():
            for _ in range(times):
                prepared.call()
    except Exception as error:  # a library says in many ways that it cannot compute something
        return error
    return None


def _look(timer: Timer, racers: Sequence[_Racer], caches: str, count: int, target: float) -> None:
    running = [racer for racer in racers if not racer.is_done]
    found = timer.samples([racer.prepared for racer in running], caches, count)
    for racer, samples in zip(running, found, strict=True):
        racer.add(samples, target)


def _close_ones(racers: Sequence[_Racer]) -> list[_Racer]:
    there = [racer for racer in racers if racer.failure is None]
    limit = FAR_BEHIND * min((racer.mean_ns for racer in there), default=0.0)
    return [racer for racer in there if racer.prepared.to_the_end or racer.mean_ns <= limit]


def _still_running(racers: Sequence[_Racer]) -> list[_Racer]:
    there = [racer for racer in racers if racer.failure is None]
    if not there:
        return []
    best = min(there, key=lambda racer: racer.mean_ns)
    return [racer for racer in there if not racer.is_done and not racer.is_behind(best)]


def _batch(racers: Sequence[_Racer], budget_s: float) -> int:
    """Of calls that take long, fewer at a time, so that the budget is kept."""
    longest = max(racer.mean_ns for racer in racers)
    return max(2, min(BATCH, int(budget_s * 1e9 / 2 / max(longest, 1.0))))


def _result(racer: _Racer) -> Timed | Exception:
    if racer.failure is not None:
        return racer.failure
    return Timed(racer.mean_ns, racer.half_ns, len(racer.samples))
