"""Which threads work beside each other, so that what tracing costs one of them is not the other's
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsp.analysis.correction.charges import Bools, Ints
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.sums import distinct
from xsp.types import Columns

Intervals = tuple[Ints, Ints]
"""Starts, in order, and ends."""


def beside(
    main: int,
    handed: Sequence[int],
    layers: Columns,
    library: Columns,
    api: Columns,
    working: Bools,
) -> list[int]:
    """Threads that need a clock of their own: those `handed` something, and each that works beside
    the main thread or beside another thread that shares the main thread's clock, as one does that
    the main thread only waits for.

    Two threads work beside each other if library calls or API calls (those `working`, which do not
    wait) of both run at the same time, or if calls of any kind overlap without one being inside the
    other: a call that waits for another thread begins before that thread's calls and ends after
    them.
    """
    calls = _by_thread([library, {name: column[working] for name, column in api.items()}])
    every = _by_thread([layers, library, {name: column[working] for name, column in api.items()}])
    sharing, own = [main], sorted({int(thread) for thread in handed} - {main})
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    for thread in sorted(every.keys() - {main, *own}):
        if any(
            _at_once(calls.get(other, nothing), calls.get(thread, nothing))
            or _crossing(every.get(other, nothing), every[thread])
            or _crossing(every[thread], every.get(other, nothing))
            for other in sharing
        ):
            own.append(thread)
        else:
            sharing.append(thread)
    return sorted(own)


def _by_thread(tables: Sequence[Columns]) -> dict[int, Intervals]:
    thread, start, end = (
        np.concatenate([table[name] for table in tables]).astype(np.int64)
        for name in ("thread", "start_ns", "end_ns")
    )
    order = np.lexsort((end, start, thread))
    ranked = thread[order]
    names = distinct(ranked)
    first = np.searchsorted(ranked, names)
    cuts = zip(np.split(start[order], first[1:]), np.split(end[order], first[1:]), strict=True)
    return dict(zip(names.tolist(), cuts, strict=False))


def _at_once(one: Intervals, other: Intervals) -> bool:
    """Whether an interval of one overlaps an interval of the other."""
    (one_start, one_end), (start, end) = one, other
    # It does iff those of `one` begun before its end have not all ended before its start.
    begun = np.searchsorted(one_start, end, "left")
    reach = np.append(np.maximum.accumulate(one_end), np.iinfo(np.int64).min)[begun - 1]
    return bool(((begun > 0) & (reach > start)).any())


def _crossing(one: Intervals, other: Intervals) -> bool:
    """Whether an interval of `other` begins inside one of `one` and ends after it."""
    (one_start, one_end), (start, end) = one, other
    one_group, group = np.zeros(len(one_start), np.int64), np.zeros(len(start), np.int64)
    around = innermost(one_group, one_start, one_end, group, start, start)
    end_around = np.append(one_end, 0)[around]
    begins_inside = (around >= 0) & (start < end_around)
    return bool((begins_inside & (end_around < end)).any())
