"""Which threads have a clock of their own: those that work beside the main thread, not those that
it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from xsp.analysis.correction.concurrency import beside

MAIN, OTHER, THIRD = 1, 2, 3

Call = tuple[int, int, int]
"""Thread, start and end of a call."""


def columns(calls: Sequence[Call]) -> dict[str, np.ndarray]:
    made = np.array(calls, dtype=np.int64).reshape(-1, 3)
    return dict(zip(("thread", "start_ns", "end_ns"), made.T, strict=True))


def found(
    layers: Sequence[Call] = (),
    api: Sequence[Call] = (),
    library: Sequence[Call] = (),
    handed: Sequence[int] = (),
    waiting: Sequence[int] = (),
) -> list[int]:
    """Threads beside the main one; of the API calls with these numbers it is known that they
    wait.
    """
    working = ~np.isin(np.arange(len(api)), waiting)
    return beside(MAIN, handed, columns(layers), columns(library), columns(api), working)


@pytest.mark.parametrize(
    ("start", "end", "is_beside"),
    [
        (0, 10, False),
        (0, 11, True),
        (12, 15, True),
        (10, 20, True),
        (5, 25, True),
        (19, 30, True),
        (20, 30, False),
    ],
)
def test_calls_that_work_at_the_same_time_are_beside_each_other(
    start: int, end: int, is_beside: bool
) -> None:
    """However they lie to each other; calls that only touch follow each other."""
    expected = [OTHER] if is_beside else []
    calls = [(MAIN, 10, 20), (OTHER, start, end)]
    assert found(api=calls) == expected
    assert found(library=calls) == expected
    assert found(library=calls[:1], api=calls[1:]) == expected
    assert found(api=calls, waiting=[0]) == []


@pytest.mark.parametrize(
    ("start", "end", "is_beside"),
    [
        (0, 10, False),
        (5, 12, True),
        (5, 20, False),
        (5, 25, False),
        (12, 15, False),
        (12, 20, False),
        (12, 21, True),
        (20, 25, False),
    ],
)
def test_layers_that_end_inside_another_can_be_what_it_waits_for(
    start: int, end: int, is_beside: bool
) -> None:
    """Only layers of which neither is within the other show that both threads work."""
    calls = [(MAIN, 10, 20), (OTHER, start, end)]
    assert found(layers=calls) == ([OTHER] if is_beside else [])


def test_threads_that_the_main_one_waits_for_can_be_beside_each_other() -> None:
    """The first shares the main thread's clock, one that works beside it does not, and a third that
    comes after it does.
    """
    waiting = (MAIN, 0, 100)
    assert found([waiting], [(OTHER, 10, 20), (THIRD, 15, 30)]) == [THIRD]
    assert found([waiting], [(OTHER, 10, 20), (THIRD, 20, 30)]) == []
    three = [(OTHER, 10, 20), (THIRD, 15, 30), (4, 20, 25), (5, 40, 50)]
    assert found([waiting], three) == [THIRD]


def test_a_long_call_is_seen_behind_short_ones() -> None:
    """Of the calls that began before, not the last alone can still go on."""
    calls = [(MAIN, 0, 100), (MAIN, 10, 20), (OTHER, 50, 60)]
    assert found(api=calls) == [OTHER]


def test_threads_that_are_handed_something_have_a_clock() -> None:
    """Each once, in order, the main thread never, whatever they did."""
    assert found(handed=[7, OTHER, 7, MAIN]) == [OTHER, 7]
    assert found(api=[(OTHER, 10, 20), (THIRD, 10, 20)], handed=[OTHER]) == [OTHER]
    assert found() == []


@pytest.mark.parametrize(
    ("calls", "is_beside"),
    [
        ([(MAIN, 10, 20), (MAIN, 40, 60), (OTHER, 50, 55)], True),
        ([(MAIN, 50, 55), (OTHER, 10, 20), (OTHER, 40, 60)], True),
        ([(MAIN, 10, 90), (MAIN, 20, 30), (OTHER, 50, 55)], True),
        ([(MAIN, 10, 20), (MAIN, 40, 60), (OTHER, 20, 40), (OTHER, 60, 70)], False),
    ],
    ids=["the second call", "of the other thread", "in a long call", "in turns"],
)
def test_every_call_of_a_thread_is_looked_at(calls: list[Call], is_beside: bool) -> None:
    """Not its first one alone, and a call that outlasts later ones counts as long as it lasts."""
    assert found(api=calls) == ([OTHER] if is_beside else [])
