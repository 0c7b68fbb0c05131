"""Latencies of operations and waits, on runs of a few of them whose answers are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from timelines import events_at, operations_at, run_of, waits_at

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.latencies import (
    Latencies,
    Observed,
    OperationLatencies,
    WaitLatencies,
    observe,
    residuals,
)
from xsp.analysis.correction.timeline import WaitKind
from xsp.types import DeviceKind

CLOCK_ERROR_NS = 2_000
"""What clocks of host and device may differ by."""

COSTS = Costs(launch_ns=200, api_ns=60, kernel_ns=50)

KERNEL, MEMCPY, MEMSET = DeviceKind.KERNEL, DeviceKind.MEMCPY, DeviceKind.MEMSET
NEVER = -np.inf

GAP_NS, WAKE_NS = 1_000.0, 10_000.0
"""What is taken where nothing tells: docs/replay.md names it."""


# ---- what is observed ----


def test_an_operation_is_late_after_its_launch_its_predecessor_and_its_events() -> None:
    """From each to its start, less what the tracers take in the launch call and after a kernel;
    without a predecessor on its stream, or an event, there is nothing to be late after.
    """
    launches = events_at(EventKind.LAUNCH, (100, 150), (300, 350), (500, 550), (700, 750))
    operations = operations_at(
        [KERNEL, KERNEL, MEMCPY, KERNEL],
        [4, 4, 7, 7],
        [(1_100, 2_100), (2_250, 3_000), (3_400, 3_500), (3_620, 3_900)],
        [0, 1, 2, 3],
        (2, 0),
        (2, 1),
    )
    seen = observe(run_of(launches, operations), COSTS).ops
    assert seen.launched.tolist() == [100, 300, 500, 700]
    assert seen.launch_ns.tolist() == [900, 1_850, 2_800, 2_820]
    assert seen.gap_ns.tolist() == [np.inf, 100, np.inf, 120]
    assert seen.event_ns.tolist() == [np.inf, np.inf, 350, np.inf]
    assert seen.before_launch.tolist() == [NEVER, 1_800, NEVER, 2_800]
    assert seen.event_before_launch.tolist() == [NEVER, NEVER, 2_500, NEVER]


def test_an_operation_without_a_launch_record_starts_when_it_was_launched() -> None:
    """Nothing is taken out for a call that is not known."""
    operations = operations_at([KERNEL], [0], [(1_100, 2_100)], [-1])
    launches = events_at(EventKind.LAUNCH, (100, 150))
    seen = observe(run_of(launches, operations), COSTS).ops
    assert seen.launched.tolist() == [1_100]
    assert seen.launch_ns.tolist() == [0]


def test_no_more_is_taken_out_than_was_observed() -> None:
    """A kernel 30 ns after its predecessor has a gap of 0, not of less, and one that started
    before its launch call's stamp keeps that.
    """
    launches = events_at(EventKind.LAUNCH, (100, 150), (2_140, 2_200))
    operations = operations_at([KERNEL] * 2, [0] * 2, [(1_100, 2_100), (2_130, 2_200)], [0, 1])
    seen = observe(run_of(launches, operations), COSTS).ops
    assert seen.gap_ns.tolist() == [np.inf, 0]
    assert seen.launch_ns.tolist() == [900, -10]


def test_a_wait_begins_after_what_the_tracer_takes_inside_its_call() -> None:
    """Half of the price lies after its begin, if the call is as long as that; what no tracer saw
    costs nothing.
    """
    calls = events_at(EventKind.API, (100, 400), (600, 620))
    operations = operations_at([KERNEL], [0], [(20, 300)], [-1])
    waits = waits_at([(100, 400), (600, 620), (800, 900)], [0, 1, -1], (0, 0))
    seen = observe(run_of(calls, operations, waits), COSTS).waits
    assert seen.arrival.tolist() == [130, 620, 800]
    assert seen.core_end.tolist() == [400, 620, 900]
    assert seen.wake_ns.tolist() == [50, np.inf, np.inf]
    assert seen.return_ns.tolist() == [270, 0, 100]
    assert seen.from_at.tolist() == [NEVER] * 3


@pytest.mark.parametrize(
    ("kind", "arrival", "core_end"),
    [(EventKind.LAYER, 1_000, 2_000), (EventKind.FUNCTIONAL, 1_030, 2_000)],
)
def test_what_is_paid_before_a_call_and_after_it_leaves_the_wait_whole(
    kind: EventKind, arrival: int, core_end: int
) -> None:
    """Only the share inside the call shortens the wait."""
    costs = Costs(layer_ns=200, functional_ns=200)
    waits = waits_at([(1_000, 2_000)], [0])
    seen = observe(run_of(events_at(kind, (1_000, 2_000)), waits=waits), costs).waits
    assert (seen.arrival.tolist(), seen.core_end.tolist()) == ([arrival], [core_end])


def test_a_wait_follows_the_last_of_what_it_waited_for() -> None:
    """The operation that ended last, or the thread that let go last, without the kernel's cost
    where a thread did.
    """
    operations = operations_at([KERNEL] * 2, [0, 1], [(20, 300), (20, 420)], [-1, -1])
    spans = [(100, 600), (100, 700), (100, 800)]
    waits = waits_at(spans, [-1] * 3, (0, 0), (0, 1), (1, 0), (2, 1), from_ns=(-1, 500, 410))
    seen = observe(run_of(operations=operations, waits=waits), COSTS).waits
    assert seen.wake_ns.tolist() == [130, 200, 330]
    assert seen.from_at.tolist() == [NEVER, 500, 410]


@pytest.mark.parametrize(
    ("early_ns", "wake_ns"),
    [(CLOCK_ERROR_NS, -CLOCK_ERROR_NS), (CLOCK_ERROR_NS + 1, np.inf)],
    ids=["within the clocks' error", "beyond it"],
)
def test_a_wait_that_ended_before_an_operation_did_not_wait_for_it(
    early_ns: float, wake_ns: float
) -> None:
    """A copy call may return as soon as its data is staged; the clocks of host and device differ by
    some, though.
    """
    end = 90_000
    operations = operations_at([MEMCPY], [0], [(20, end + int(early_ns))], [-1])
    waits = waits_at([(40_000, end)], [-1], (0, 0))
    seen = observe(run_of(operations=operations, waits=waits), COSTS).waits
    assert seen.wake_ns.tolist() == [wake_ns]


# ---- what is typical ----


def operations_seen(**columns: list[float]) -> OperationLatencies:
    """Kernels on idle streams, as long after their launch as after all else, where nothing else is
    given.
    """
    size = len(next(iter(columns.values())))
    known: dict[str, Any] = {
        "kind": [KERNEL] * size,
        "launched": [0.0] * size,
        "launch_ns": [100.0] * size,
        "gap_ns": [np.inf] * size,
        "event_ns": [np.inf] * size,
        "before_launch": [NEVER] * size,
        "event_before_launch": [NEVER] * size,
        **columns,
    }
    kind = np.array(known.pop("kind"), dtype=np.int64)
    return OperationLatencies(kind, **{name: np.array(column) for name, column in known.items()})


def waits_seen(**columns: list[float]) -> WaitLatencies:
    """Synchronisations, with what is given."""
    size = len(next(iter(columns.values())))
    known: dict[str, Any] = {
        "kind": [WaitKind.SYNCHRONIZE] * size,
        "arrival": [0.0] * size,
        "core_end": [0.0] * size,
        "from_at": [NEVER] * size,
        "wake_ns": [np.inf] * size,
        "return_ns": [0.0] * size,
        **columns,
    }
    kind = np.array(known.pop("kind"), dtype=np.int64)
    return WaitLatencies(kind, **{name: np.array(column) for name, column in known.items()})


NO_WAITS_SEEN, NO_OPERATIONS_SEEN = waits_seen(wake_ns=[]), operations_seen(launch_ns=[])


def typical_of(*runs: OperationLatencies) -> Latencies:
    """What is typical of runs without waits."""
    return Latencies.typical([Observed(run, NO_WAITS_SEEN) for run in runs])


def typical_of_waits(**columns: list[float]) -> Latencies:
    """What is typical of a run that only waited."""
    return Latencies.typical([Observed(NO_OPERATIONS_SEEN, waits_seen(**columns))])


def test_launches_count_whose_stream_was_idle() -> None:
    """Idle is one whose operations and events were over when the launch was made, at that very ns
    too; the median is of all runs, and kinds that show none have that of all kinds.
    """
    one = operations_seen(
        kind=[KERNEL, KERNEL, KERNEL, MEMCPY],
        launch_ns=[100.0, 300.0, 5_000.0, 800.0],
        before_launch=[NEVER, 0.0, 1.0, -5.0],
        event_before_launch=[NEVER, -3.0, NEVER, 0.0],
    )
    other = operations_seen(launch_ns=[200.0, 7_000.0], event_before_launch=[NEVER, 1.0])
    assert typical_of(one, other).launch_ns == (200.0, 800.0, 250.0)


def test_without_operations_a_launch_takes_no_time() -> None:
    """Nothing is made up for what never ran."""
    assert typical_of(NO_OPERATIONS_SEEN).launch_ns == (0.0,) * 3


def test_gaps_count_where_the_operation_surely_was_queued() -> None:
    """Where its predecessor ended later than twice a launch takes, and later than its events."""
    seen = operations_seen(
        kind=[KERNEL, KERNEL, KERNEL, KERNEL, MEMSET, KERNEL],
        gap_ns=[np.inf, 30.0, 70.0, 40.0, 90.0, 1.0],
        before_launch=[NEVER, 201.0, 200.0, 500.0, 600.0, 700.0],
        event_before_launch=[NEVER, 200.0, NEVER, NEVER, NEVER, 700.0],
    )
    assert typical_of(seen).gap_ns == (35.0, 40.0, 90.0)


def test_without_a_queue_gaps_are_those_of_a_known_machine() -> None:
    """And what follows an event is taken to follow it as a queued kernel its predecessor."""
    latencies = typical_of(operations_seen(launch_ns=[100.0]))
    assert latencies.gap_ns == (GAP_NS,) * 3
    assert latencies.event_ns == GAP_NS


def test_events_count_that_surely_held_the_operation() -> None:
    """Those that let go later than twice a launch takes, and later than the predecessor ended."""
    seen = operations_seen(
        kind=[KERNEL, KERNEL, KERNEL, KERNEL, KERNEL, MEMCPY],
        gap_ns=[np.inf, 33.0, np.inf, np.inf, np.inf, 7.0],
        event_ns=[np.inf, 11.0, 22.0, 24.0, 99.0, 88.0],
        before_launch=[NEVER, 300.0, 200.0, NEVER, NEVER, 500.0],
        event_before_launch=[NEVER, 300.0, 201.0, 900.0, 200.0, 400.0],
    )
    latencies = typical_of(seen)
    assert latencies.event_ns == 23.0
    assert latencies.gap_ns == (7.0,) * 3


def test_without_events_what_follows_one_is_as_late_as_a_queued_kernel() -> None:
    """Not as a copy."""
    seen = operations_seen(
        kind=[KERNEL, KERNEL, MEMCPY],
        gap_ns=[np.inf, 30.0, 60.0],
        before_launch=[NEVER, 300.0, 300.0],
    )
    assert typical_of(seen).event_ns == 30.0


def test_waits_wake_up_where_they_were_well_under_way() -> None:
    """Those of which the wake-up is less than half count; kinds that show none have the median of
    all kinds.
    """
    kinds: list[float] = [WaitKind.SYNCHRONIZE, WaitKind.SYNCHRONIZE, WaitKind.COPY]
    latencies = typical_of_waits(
        kind=kinds, wake_ns=[40.0, 50.0, 20.0], return_ns=[100.0, 100.0, 300.0]
    )
    assert latencies.wake_ns == (40.0, 20.0, 30.0)


def test_without_a_wait_that_had_to_wait_wake_ups_are_those_of_a_known_machine() -> None:
    """And waits that had nothing to wait for tell how long such a one takes, where they began later
    after the device was done than twice a wake-up.
    """
    latencies = typical_of_waits(
        wake_ns=[2 * WAKE_NS + 70, 2 * WAKE_NS + 91], return_ns=[70.0, 90.0]
    )
    assert latencies.wake_ns == (WAKE_NS,) * 3
    assert latencies.return_ns == (90.0,) * 3


def test_without_waits_nothing_is_made_up_for_their_return() -> None:
    """A wait that has nothing to wait for then takes no time."""
    assert typical_of(operations_seen(launch_ns=[100.0])).return_ns == (0.0,) * 3


# ---- what each keeps ----

TYPICAL = Latencies(
    launch_ns=(100.0, 200.0, 300.0),
    gap_ns=(10.0, 20.0, 30.0),
    event_ns=40.0,
    wake_ns=(50.0, 60.0, 70.0),
    return_ns=(5.0, 6.0, 7.0),
)


def test_an_operation_keeps_what_bound_it_and_no_more_than_usual_of_the_rest() -> None:
    """What exceeds the usual least is what it followed from: that is kept, however long; the others
    are as usual for its kind, or as short as they were.
    """
    seen = operations_seen(
        kind=[KERNEL, MEMCPY, MEMSET],
        launched=[1.0, 2.0, 3.0],
        launch_ns=[130.0, 900.0, 290.0],
        gap_ns=[500.0, 60.0, 500.0],
        event_ns=[600.0, 700.0, 35.0],
    )
    kept = residuals(Observed(seen, NO_WAITS_SEEN), TYPICAL)
    assert kept.launched.tolist() == [1.0, 2.0, 3.0]
    assert kept.launch_ns.tolist() == [130.0, 200.0, 290.0]
    assert kept.gap_ns.tolist() == [10.0, 60.0, 30.0]
    assert kept.event_ns.tolist() == [40.0, 40.0, 35.0]


def test_a_wait_keeps_its_wake_up_or_its_return() -> None:
    """By kind; one that waited for nothing has no wake-up to keep."""
    seen = waits_seen(
        kind=[WaitKind.SYNCHRONIZE, WaitKind.COPY, WaitKind.THREAD],
        arrival=[1.0, 2.0, 3.0],
        core_end=[4.0, 5.0, 6.0],
        from_at=[NEVER, NEVER, 9.0],
        wake_ns=[55.0, 800.0, np.inf],
        return_ns=[90.0, 8.0, 40.0],
    )
    kept = residuals(Observed(NO_OPERATIONS_SEEN, seen), TYPICAL)
    assert kept.wake_ns.tolist() == [55.0, 60.0, NEVER]
    assert kept.return_ns.tolist() == [5.0, 8.0, 40.0]
    assert kept.arrival.tolist() == [1.0, 2.0, 3.0]
    assert kept.core_end.tolist() == [4.0, 5.0, 6.0]
    assert kept.from_at.tolist() == [NEVER, NEVER, 9.0]
