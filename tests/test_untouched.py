"""What of recorded time no payment takes away, and what no cost can be above, on a few events."""

from __future__ import annotations

import numpy as np
import pytest
from timelines import NO_EVENTS, events_at, operations_at, run_of, waits_at

from xsp.analysis.correction.bounds import ceilings
from xsp.analysis.correction.charges import COST_LEVELS, EventKind
from xsp.analysis.correction.untouched import Untouched
from xsp.types import DeviceKind

KERNEL, MEMCPY = DeviceKind.KERNEL, DeviceKind.MEMCPY

# ---- a part of every event ----


def pieces(*spans: tuple[int, int], waits: list[tuple[int, int]] | None = None) -> list[object]:
    """Begin and end of the pieces of a clock with these events."""
    given = waits_at(waits, [-1] * len(waits)) if waits else waits_at([(9_000, 9_001)], [-1])
    found = Untouched.of(run_of(events_at(EventKind.LAYER, *spans), waits=given), 0)
    return [*zip(found.start.tolist(), found.end.tolist(), strict=True)]


def test_the_last_tenth_of_an_event_is_kept() -> None:
    """In whole ns, rounded up; an event without a length has none."""
    assert pieces((100, 200), (300, 311), (400, 401), (500, 500)) == [
        (190, 200),
        (309, 311),
        (400, 401),
    ]


def test_an_event_that_holds_others_keeps_what_these_keep() -> None:
    """Also one that holds nothing but a stamp; one that only touches another is by itself."""
    assert pieces((100, 200), (120, 140)) == [(138, 140)]
    assert pieces((100, 200), (150, 150)) == []
    assert pieces((100, 200), (200, 300)) == [(190, 200), (290, 300)]


def test_events_with_the_same_stamps_keep_one_piece() -> None:
    """A call of the runtime and that of the driver in it, in the same ns."""
    assert pieces((100, 200), (100, 200)) == [(190, 200)]


@pytest.mark.parametrize(
    ("wait", "kept"),
    [
        ((150, 250), False),
        ((50, 101), False),
        ((120, 130), False),
        ((50, 300), False),
        ((200, 250), True),
        ((50, 100), True),
    ],
    ids=["its end", "its begin", "inside", "around", "right after", "right before"],
)
def test_what_is_waited_for_is_not_kept(wait: tuple[int, int], kept: bool) -> None:
    """A wait is as long as the replay finds it: an event that shares time with one keeps nothing,
    one that touches it does.
    """
    assert pieces((100, 200), waits=[wait]) == ([(190, 200)] if kept else [])


def test_events_of_another_clock_keep_theirs() -> None:
    """Each host clock has its own pieces."""
    events = events_at(EventKind.LAYER, (100, 200), (120, 140))
    other = run_of(type(events)(np.array([0, 1]), events.kind, events.start_ns, events.end_ns))
    assert Untouched.of(other, 0).end.tolist() == [200]
    assert Untouched.of(other, 1).start.tolist() == [138]


def test_time_before_and_between_pieces() -> None:
    """Untouched time grows inside a piece only, and is left out of the rest."""
    untouched = Untouched(np.array([10.0, 30.0]), np.array([14.0, 36.0]))
    times = np.array([0.0, 10.0, 12.0, 14.0, 20.0, 33.0, 36.0, 90.0])
    assert untouched.before(times).tolist() == [0, 0, 2, 4, 4, 7, 10, 10]
    assert untouched.left_out(times).tolist() == [0, 10, 10, 10, 16, 26, 26, 80]
    assert Untouched().before(times).tolist() == [0.0] * 8


# ---- what no cost can be above ----

PLACES = list(COST_LEVELS)


def test_a_cost_is_no_more_than_the_time_between_the_stamps() -> None:
    """Three layers one after the other: what each pays before and after itself lies between its
    stamps and the next ones, which the first and the last do not have on one side.
    """
    events = events_at(EventKind.LAYER, (0, 100), (140, 160), (200, 300))
    found = ceilings([run_of(events)])
    # The one in the middle shares 40 ns on both sides with its neighbours.
    assert found[PLACES.index("layer_ns")] == pytest.approx(1.05 * 40)
    others = np.delete(found, PLACES.index("layer_ns"))
    assert np.isinf(others).all()


def operations(gaps: list[int], **changed: list[int]) -> float:
    """The ceiling of the device's cost after a kernel, where kernels of 100 ns follow each other
    with these gaps, all of them launched before.
    """
    starts = np.concatenate([[0], np.cumsum(np.array(gaps) + 100)])
    spans = [(1_000 + int(at), 1_100 + int(at)) for at in starts]
    size = len(spans)
    known: dict[str, list[int]] = {
        "kind": [KERNEL] * size,
        "stream": [3] * size,
        "launch": [0] * size,
        **changed,
    }
    events = events_at(EventKind.LAUNCH, (10, 20), (1_050, 1_100), (1_060, 1_099))
    device = operations_at(known["kind"], known["stream"], spans, known["launch"])
    return float(ceilings([run_of(events, device)])[-1])


def test_the_device_takes_no_more_after_a_kernel_than_the_least_gap() -> None:
    """A low quantile of the gaps after kernels that had a successor waiting: stamps err."""
    assert operations([40, 20, 30]) == pytest.approx(np.quantile([40, 20, 30], 0.05))
    assert operations([0]) == 0
    assert operations([-1, 40]) == 40


@pytest.mark.parametrize(
    "changed",
    [
        {"stream": [3, 4]},
        {"kind": [MEMCPY, KERNEL]},
        {"launch": [0, 1]},
        {"launch": [0, -1]},
    ],
    ids=["another stream", "after a copy", "launched as it ended", "launch not known"],
)
def test_gaps_that_tell_nothing_do_not_count(changed: dict[str, list[int]]) -> None:
    """Only the successor of a kernel on its stream that was launched before the kernel ended."""
    assert np.isinf(operations([40], **changed))
    assert operations([40], kind=[KERNEL, MEMCPY]) == 40
    assert operations([40], launch=[0, 2]) == 40


def test_without_events_nothing_bounds_the_costs() -> None:
    """Of a run in which nothing was traced."""
    assert np.isinf(ceilings([run_of(NO_EVENTS)])).all()
