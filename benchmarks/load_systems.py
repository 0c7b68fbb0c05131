"""Systems whose time is known, for load_generation.py: made in the process that is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from xsp.evaluation.scenarios.scenario import System

SPIN_NS = 300_000
"""Sleeping ends late by some 60 µs and more, so the end is waited for."""


def nothing() -> System:
    """Answers at once: what is left is the load generator's."""

    def answer(_: Sequence[int]) -> None:
        pass

    return answer


def constant(service_ns: int, durations: Path | None = None) -> System:
    """Takes `service_ns` for each call, and writes what it really took, int64 ns, to a file."""
    file = None if durations is None else os.open(durations, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def answer(_: Sequence[int]) -> None:
        begin_ns = time.monotonic_ns()
        end_ns = begin_ns + service_ns
        if service_ns > SPIN_NS:
            time.sleep((service_ns - SPIN_NS) / 1e9)
        while time.monotonic_ns() < end_ns:
            pass
        if file is not None:
            os.write(file, (time.monotonic_ns() - begin_ns).to_bytes(8, "little"))

    return answer
