"""A clock that only sleeping moves, for facts about slow programs on a machine that is never quiet.

Neither how busy the machine is nor how long xsp itself takes can be seen on it: a program that
sleeps for ten milliseconds lasts ten milliseconds and the noise that is drawn here.
"""

from __future__ import annotations

import random
import threading
import time

import pytest

from xsp.levels.layer import hotpath

READING_NS = 1_000
"""What reading the clock takes on it, so that nothing lasts no time at all."""

NOISE = 0.01
"""Standard deviation of a sleep, as a share of its length."""


class VirtualClock:
    """Time for `time.perf_counter`, `time.monotonic` and `time.sleep`, seeded."""

    def __init__(self) -> None:
        self._now_ns = time.monotonic_ns()
        self._random = random.Random(0)
        self._lock = threading.Lock()

    def read_ns(self) -> int:
        """Now, in nanoseconds."""
        return self._advanced(READING_NS)

    def read(self) -> float:
        """Now, in seconds."""
        return self.read_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        """Let time pass without waiting for it."""
        self._advanced(seconds * 1e9 * max(0.0, self._random.gauss(1, NOISE)))

    def _advanced(self, by_ns: float) -> int:
        with self._lock:
            self._now_ns += round(by_ns)
            return self._now_ns

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything in this process that asks for the time asks this clock. The layer tracer's
        twin in C, which asks the system, is not used.
        """
        monkeypatch.setattr(hotpath, "extension", lambda: None)
        for name in ("perf_counter_ns", "monotonic_ns"):
            monkeypatch.setattr(time, name, self.read_ns)
        for name in ("perf_counter", "monotonic"):
            monkeypatch.setattr(time, name, self.read)
        monkeypatch.setattr(time, "sleep", self.sleep)
