"""The memory of a program and of all that it starts, wherever they are in the tree of processes.

They are told by a variable of the environment, which each process gives to those that it starts,
and by their parents.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "XSP_BENCHMARK_MARK"
"""Variable of the environment that a program has to be started with."""

EVERY_S = 0.25


class MemoryOfMany:
    """The most that all processes with `mark` took together at one time, by their proportional set
    sizes: a page that n processes map counts 1/n in each, so that the sum counts it once.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._most: dict[str, int] = {}
        self._samples = 0
        self._over = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask during the block, about four times a second."""
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def found(self) -> dict[str, Any]:
        """Bytes at most, by kind of process too, and how often was asked."""
        return {
            "pss_bytes": sum(self._most.values()),
            "by_name": dict(sorted(self._most.items(), key=lambda each: -each[1])),
            "samples": self._samples,
        }

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            now = memory_by_name(self.mark)
            self._samples += 1
            if sum(now.values()) > sum(self._most.values()):
                self._most = now


def memory_by_name(mark: str) -> dict[str, int]:
    """Bytes of the processes that have this mark now, and of what they have started, by their
    names; several of one name in one sum.
    """
    found: dict[str, int] = {}
    for process in _with_children(mark):
        try:
            name = (process / "comm").read_text().strip()
            rollup = (process / "smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        found[name] = found.get(name, 0) + _pss(rollup)
    return found


def _with_children(mark: str) -> list[Path]:
    """A process that gives itself another title can write over its environment: it is then known
    by its parent.
    """
    parents: dict[str, str] = {}
    known: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[process.name] = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                known.add(process.name)
        except OSError:  # it has ended, or is another user's
            continue
    while more := {each for each, of in parents.items() if of in known} - known:
        known |= more
    return [Path("/proc") / each for each in sorted(known)]


def _pss(rollup: str) -> int:
    lines = (line.split() for line in rollup.splitlines())
    return sum(int(line[1]) * 1024 for line in lines if line[0] == "Pss:")
