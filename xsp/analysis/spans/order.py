"""Which event of one run repeats which event of another, by order.

A program that does the same work again makes the same library calls and launches the same kernels
in the same order on each of its threads. So events of a run that traced one level alone belong to
what the same events belonged to in a run that traced all levels. Nothing is guessed: unless every
event has its counterpart, no event has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsp.types import IntArray

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class InOrder:
    """Events of one kind in one run.

    `thread` made them, in the order of the columns of `order` (n, i), the first column first. `key`
    (n, j) is what must be equal in an event and its counterpart. `lane` is where an event ran, such
    as a stream: lanes have other numbers in other runs, so they are told apart by when each thread
    first used them.
    """

    thread: IntArray
    order: IntArray
    key: IntArray
    lane: IntArray

    def threads(self) -> list[Ints]:
        """The rows of each thread in order, the thread with the first event first."""
        columns = self.order.T[::-1]
        rows = np.lexsort((*columns, self.thread)).astype(np.int64)
        thread = self.thread[rows].astype(np.int64)
        cuts = np.flatnonzero(np.diff(thread)) + 1
        parts = [part for part in np.split(rows, cuts) if len(part)]
        return sorted(parts, key=lambda part: tuple(self.order[part[0]].tolist()))

    def content(self, rows: Ints) -> Ints:
        """What must be equal of these events of one thread, a row each."""
        lanes = _by_first_use(self.lane[rows])
        return np.column_stack([self.key[rows].astype(np.int64), lanes])


@dataclass(frozen=True)
class Difference:
    """Where a run first differs from its reference: the place on the thread, from 0, and the rows
    of the reference and of the run there; -1 where one of them has no more events. `alike` is True
    where two threads of a run did the same, so that no order tells which of them was which.
    """

    place: int
    reference: int
    run: int
    alike: bool = False


def find_repeated(run: InOrder, reference: InOrder) -> Ints | Difference:
    """For every event of `run` the row of the event of `reference` that it repeats.

    Threads have other numbers in other runs, too: they are paired by what they did, which has to be
    the same to the last event. Without that for every thread, the first difference.
    """
    mine, theirs = run.threads(), reference.threads()
    known = {reference.content(rows).tobytes(): rows for rows in theirs}
    found = np.full(len(run.thread), -1, dtype=np.int64)
    missing, paired = [], set()
    for rows in mine:
        content = run.content(rows).tobytes()
        if content in paired:
            return Difference(0, int(known[content][0]), int(rows[0]), alike=True)
        if content in known:
            paired.add(content)
            found[rows] = known[content]
        else:
            missing.append(rows)
    unpaired = [rows for rows in theirs if reference.content(rows).tobytes() not in paired]
    if missing or unpaired:
        return _first_difference(run, missing, reference, unpaired)
    if len(known) < len(theirs):
        return Difference(0, int(theirs[0][0]), int(mine[0][0]), alike=True)
    return found


def _first_difference(
    run: InOrder, mine: list[Ints], reference: InOrder, theirs: list[Ints]
) -> Difference:
    """Between the first threads of each that have no counterpart."""
    nothing = np.zeros(0, dtype=np.int64)
    ours = mine[0] if mine else nothing
    others = theirs[0] if theirs else nothing
    shared = min(len(ours), len(others))
    same = run.content(ours)[:shared] == reference.content(others)[:shared]
    differing = np.flatnonzero(~same.all(axis=1))
    place = int(differing[0]) if len(differing) else shared
    expected, seen = (int(rows[place]) if place < len(rows) else -1 for rows in (others, ours))
    return Difference(place, expected, seen)


def _by_first_use(lanes: IntArray) -> Ints:
    """Numbers in the order in which each value first occurs: `[7, 3, 7]` gives `[0, 1, 0]`."""
    _, first, place = np.unique(lanes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[place]
