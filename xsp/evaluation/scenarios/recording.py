"""Columns of a test on disk, written while it runs: what was recorded survives the process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FILE = "queries.npy"
CAPACITY = 2**22
"""Queries that have room. The file is sparse: only what is written takes space."""
SCHEDULED, ISSUED, COMPLETED, SAMPLES, QUERY, FAILED, BEGUN = range(7)
WIDTH = 7
UNKNOWN = 0
"""A time that is not known: the monotonic clock is past it."""


class Query(NamedTuple):
    """A query that waits: its row, the samples it asks for, and what to tell when it is done."""

    row: int
    indices: list[int]
    ids: list[int]


class Recording:
    """Rows in the order of issue: scheduled_ns, issued_ns, completed_ns, samples, number of the
    query, 1 where it failed, and when the system was called for it. One thread may issue while
    another completes.
    """

    def __init__(self, folder: Path, capacity: int = CAPACITY) -> None:
        self._rows = np.lib.format.open_memmap(
            folder / FILE, mode="w+", dtype=np.int64, shape=(capacity, WIDTH)
        )
        # Writing through a flat memoryview costs a fifth of what indexing an array does.
        self._cells = self._rows.reshape(-1).data
        self._capacity = capacity
        self.count = 0

    def issued(self, now_ns: int, samples: int, query: int, scheduled_ns: int = UNKNOWN) -> int:
        """Begin a row and return its number. Rows beyond the capacity are counted only."""
        row = self.count
        self.count += 1
        if row < self._capacity:
            at = row * WIDTH
            cells = self._cells
            cells[at + SCHEDULED] = scheduled_ns
            cells[at + SAMPLES] = samples
            cells[at + QUERY] = query
            cells[at + ISSUED] = now_ns
        return row

    def completed(self, row: int, now_ns: int, failed: bool, begun_ns: int = UNKNOWN) -> None:
        """End a row."""
        if row < self._capacity:
            at = row * WIDTH
            cells = self._cells
            cells[at + BEGUN] = begun_ns
            cells[at + FAILED] = failed
            cells[at + COMPLETED] = now_ns


def recorded(folder: Path) -> npt.NDArray[np.int64]:
    """The rows of a test, int64 [queries, 7], also of one whose process is gone. Empty where
    nothing was recorded.
    """
    path = folder / FILE
    if not path.is_file():
        return np.empty((0, WIDTH), dtype=np.int64)
    rows = np.load(path, mmap_mode="r")
    return np.array(rows[: _begun(rows)])


def _begun(rows: npt.NDArray[np.int64]) -> int:
    """The number of rows that were begun, by bisection: looking at each would fill memory with
    the file's holes.
    """
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if rows[middle, ISSUED] == UNKNOWN:
            high = middle
        else:
            low = middle + 1
    return low


def keep_only(folder: Path, rows: npt.NDArray[np.int64]) -> None:
    """Put these rows in place of the sparse file."""
    staged = folder / f"{FILE}.new.npy"
    np.save(staged, rows)
    staged.replace(folder / FILE)
