"""The same work for one run after another, on two cores where there is much of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from xsp.analysis.spans import run_parts

Item = TypeVar("Item")
Found = TypeVar("Found")

THREADS = 2
"""numpy lets another thread work for most of its time. More would each hold a part in memory."""


def one_by_one(
    work: Callable[[Item], Found], items: Iterable[Item], *, spans: int
) -> Iterator[Found]:
    """What `work` gives for each item, in their order: by two threads where all items together
    have more than `run_parts.SPANS_OF_PART` spans, else by the caller's.

    An item is taken when a thread is free for it. The first error is raised, and what has not begun
    by then does not begin.
    """
    if spans <= run_parts.SPANS_OF_PART:
        yield from map(work, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="xsp-analysis") as pool:
        at_work: deque[Future[Found]] = deque(
            pool.submit(work, item) for item in islice(waiting, THREADS)
        )
        while at_work:
            found = at_work.popleft().result()
            at_work.extend(pool.submit(work, item) for item in islice(waiting, 1))
            yield found
