"""Systems whose time is known, for load_generation.py: made in the process that is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsp.evaluation.scenarios.scenario import System

SPIN_NS = 300_000
"""Sleeping ends late by some 60 µs and more, so the end is waited for."""


def nothing() -> System:
    """Answers at once: what is left is the load generator's."""

    def answer(_: Sequence[int]) -> None:
        pass

    return answer


def constant(service_ns: int, stamps: Path | None = None, calls: int = 0) -> System:
    """Takes `service_ns` for each call. When it began and ended, monotonic ns, is written to a file
    of int64 [calls, 2] in memory: a call to the system would take time between two queries.
    """
    cells = None
    if stamps is not None:
        shape = (calls, 2)
        rows = np.lib.format.open_memmap(stamps, mode="w+", dtype=np.int64, shape=shape)
        cells = rows.reshape(-1).data
    call = 0

    def answer(_: Sequence[int]) -> None:
        nonlocal call
        begin_ns = time.monotonic_ns()
        end_ns = begin_ns + service_ns
        if service_ns > SPIN_NS:
            time.sleep((service_ns - SPIN_NS) / 1e9)
        while time.monotonic_ns() < end_ns:
            pass
        if cells is not None:
            cells[2 * call] = begin_ns
            cells[2 * call + 1] = time.monotonic_ns()
            call += 1

    return answer
