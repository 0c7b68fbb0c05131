"""What each device operation was launched by, and what waits wait for, in recordings whose answer
is known by hand: times in ns, operations by stream and start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from xsp.analysis.correction.timeline import ApiKind, Timeline, WaitKind
from xsp.types import (
    API_CALLS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    SYNCHRONIZATIONS,
    Columns,
    Schema,
    empty,
)

LAUNCH, WAIT = ApiKind.LAUNCH, ApiKind.WAIT
EVENT, STREAM_WAIT, STREAM, CONTEXT = 1, 2, 3, 4
"""CUpti_ActivitySynchronizationType."""

Rows = Sequence[dict[str, Any]]


def columns(schema: Schema, rows: Rows) -> Columns:
    made = empty(schema, len(rows))
    for at, row in enumerate(rows):
        for name, value in row.items():
            if name in made:
                made[name][at] = value
    return made


def call(correlation: int, start: int, end: int, kind: ApiKind = LAUNCH) -> dict[str, Any]:
    """An API call of the main thread."""
    return {
        "thread": 7,
        "correlation_id": correlation,
        "start_ns": start,
        "end_ns": end,
        "means": kind,
    }


def operation(correlation: int, stream: int, start: int, end: int, **more: int) -> dict[str, Any]:
    """A kernel of context 1."""
    known = {"correlation_id": correlation, "stream": stream, "start_ns": start, "end_ns": end}
    return {"kind": 0, "context": 1, **known, **more}


def wait(kind: int, correlation: int, **more: int) -> dict[str, Any]:
    """A record of a wait in context 1."""
    return {"kind": kind, "correlation_id": correlation, "context": 1, **more}


def timeline(api: Rows, device: Rows, waits: Rows = (), records: Rows | None = None) -> Timeline:
    """A model call from 0 to 1000."""
    names = ("correlation_id", "context", "stream", "event_id")
    told = {name: np.array([row[name] for row in records or ()], np.int64) for name in names}
    return Timeline.from_columns(
        model_start_ns=0,
        host_end_ns=900,
        sync_end_ns=1000,
        main_thread=7,
        layer_events=empty(LAYER_EVENTS),
        library_events=empty(LIBRARY_EVENTS),
        api_calls=columns(API_CALLS, api),
        device_activity=columns(DEVICE_ACTIVITY, device),
        synchronizations=columns(SYNCHRONIZATIONS, waits),
        api_kind=[row["means"] for row in api],
        event_records=None if records is None else told,
    )


def awaited(made: Timeline) -> list[list[int]]:
    """By wait, the operations that it waits for."""
    return [
        made.waits.on[made.waits.on[:, 0] == number, 1].tolist()
        for number in range(len(made.waits.kind))
    ]


TWO = [call(1, 10, 20), call(2, 30, 40)]
ON_TWO_STREAMS = [operation(1, 1, 50, 200), operation(2, 2, 60, 250)]


def test_a_stream_is_waited_for_alone() -> None:
    """`cudaStreamSynchronize` waits for the last operation launched on its stream; the end of the
    call waits for all.
    """
    api = [*TWO, call(3, 45, 210, WAIT)]
    made = timeline(api, ON_TWO_STREAMS, [wait(STREAM, 3, stream=1)])
    assert awaited(made) == [[0], [0, 1]]
    assert made.waits.end_ns.tolist() == [210, 1000]
    assert made.waits.event.tolist() == [2, -1]


def test_an_empty_stream_is_not_waited_for() -> None:
    """A wait for a stream on which nothing ran, or on which everything came later, has nothing to
    wait for.
    """
    api = [call(3, 5, 8, WAIT), *TWO, call(4, 45, 60, WAIT)]
    waits = [wait(STREAM, 3, stream=1), wait(STREAM, 4, stream=9)]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits)) == [[], [], [0, 1]]


def test_a_context_is_waited_for_on_all_its_streams() -> None:
    """`cudaDeviceSynchronize` waits for each stream of its own context, not for another GPU's."""
    device = [*ON_TWO_STREAMS, operation(5, 1, 55, 300, context=2)]
    api = [*TWO, call(5, 42, 44), call(3, 45, 260, WAIT)]
    made = timeline(api, device, [wait(CONTEXT, 3)])
    assert awaited(made) == [[0, 1], [0, 1, 2]]
    other = timeline(api, device, [wait(CONTEXT, 3, context=2)])
    assert awaited(other) == [[2], [0, 1, 2]]


def test_a_wait_without_a_record_is_for_everything() -> None:
    """What a blocking call waits for is not known without its record: all that was launched."""
    api = [*TWO, call(3, 45, 260, WAIT), call(4, 270, 280)]
    device = [*ON_TWO_STREAMS, operation(4, 2, 290, 400)]
    assert awaited(timeline(api, device)) == [[0, 1], [0, 2]]


def test_what_has_no_launch_counts_from_when_it_runs() -> None:
    """An operation whose launch was not recorded is waited for where it began before the wait."""
    api = [*TWO, call(3, 45, 260, WAIT)]
    later = [*ON_TWO_STREAMS, operation(99, 2, 270, 400)]
    assert awaited(timeline(api, later)) == [[0, 1], [0, 2]]
    earlier = [*ON_TWO_STREAMS, operation(99, 3, 30, 40)]
    assert awaited(timeline(api, earlier)) == [[0, 1, 2], [0, 1, 2]]


RECORDED = [
    *TWO,
    call(3, 41, 43, ApiKind.OTHER),
    call(4, 44, 46, ApiKind.OTHER),
]
RECORDS = [{"correlation_id": 3, "context": 1, "stream": 1, "event_id": 5}]


def test_an_event_is_waited_for_as_it_was_recorded() -> None:
    """With records of events a wait is for the operation before the record. Without them it is
    taken to be for what ended last before the wait did.
    """
    api = [*RECORDED, call(6, 48, 260, WAIT)]
    waits = [wait(EVENT, 6, event_id=5)]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits, RECORDS))[0] == [0]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits))[0] == [1]
    api[-1] = call(6, 48, 249, WAIT)
    assert awaited(timeline(api, ON_TWO_STREAMS, waits))[0] == [0]


def test_the_last_of_a_streams_operations_before_the_wait_is_waited_for() -> None:
    """Of several on the second stream, those that were launched before the wait began."""
    device = [*ON_TWO_STREAMS, operation(3, 2, 251, 260), operation(4, 2, 261, 300)]
    api = [*TWO, call(3, 41, 42), call(5, 45, 280, WAIT), call(4, 285, 290)]
    made = timeline(api, device, [wait(STREAM, 5, stream=2)])
    assert awaited(made) == [[2], [0, 3]]


def test_an_event_that_was_recorded_before_any_work_is_not_waited_for() -> None:
    """Nothing had been launched on its stream: no guess is made of what else it could be."""
    api = [call(3, 5, 8, ApiKind.OTHER), *TWO, call(6, 48, 260, WAIT)]
    waits = [wait(EVENT, 6, event_id=5)]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits, RECORDS))[0] == []


def test_a_wait_that_ended_before_all_work_waited_for_none_of_it() -> None:
    """Without records of events it cannot have been for what was not over."""
    api = [*TWO, call(6, 48, 190, WAIT)]
    assert awaited(timeline(api, ON_TWO_STREAMS, [wait(EVENT, 6, event_id=5)]))[0] == []


@pytest.mark.parametrize("kind", [EVENT, STREAM, CONTEXT])
def test_a_wait_of_the_host_holds_no_operation(kind: int) -> None:
    """What is launched after it waits for its stream's order only."""
    api = [*TWO, call(3, 45, 260, WAIT), call(4, 270, 280)]
    device = [*ON_TWO_STREAMS, operation(4, 1, 290, 400)]
    assert timeline(api, device, [wait(kind, 3, stream=1)]).ops.after.tolist() == []


def test_an_event_that_was_never_recorded_is_not_waited_for() -> None:
    """A wait for another event, or for one of another context, is over at once."""
    api = [*RECORDED, call(6, 48, 60, WAIT), call(7, 61, 70, WAIT)]
    waits = [wait(EVENT, 6, event_id=6), wait(EVENT, 7, event_id=5, context=2)]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits, RECORDS))[:2] == [[], []]


def test_the_last_record_before_the_wait_counts() -> None:
    """An event can be recorded again: a wait is for what it was recorded after last."""
    api = [*RECORDED, call(6, 48, 260, WAIT), call(8, 300, 310, ApiKind.OTHER)]
    again = [
        *RECORDS,
        {"correlation_id": 4, "context": 1, "stream": 2, "event_id": 5},
        {"correlation_id": 8, "context": 1, "stream": 1, "event_id": 5},
    ]
    waits = [wait(EVENT, 6, event_id=5)]
    assert awaited(timeline(api, ON_TWO_STREAMS, waits, again))[0] == [1]


def test_the_next_operation_of_a_stream_waits() -> None:
    """`cudaStreamWaitEvent` holds the first operation that is launched on its stream after it."""
    api = [
        call(1, 10, 20),
        call(2, 21, 25),
        call(3, 30, 32, ApiKind.OTHER),
        call(4, 33, 35, ApiKind.OTHER),
        call(5, 36, 38),
        call(6, 39, 41),
    ]
    device = [
        operation(1, 1, 50, 200),
        operation(2, 2, 40, 60),
        operation(5, 2, 210, 220),
        operation(6, 2, 221, 230),
    ]
    waits = [wait(STREAM_WAIT, 4, stream=2, event_id=5)]
    assert timeline(api, device, waits, RECORDS).ops.after.tolist() == [[2, 0]]
    assert timeline(api, device, waits).ops.after.tolist() == [[2, 0]]
    nothing = [wait(STREAM_WAIT, 4, stream=2, event_id=6)]
    assert timeline(api, device, nothing, RECORDS).ops.after.tolist() == []
    own = [wait(STREAM_WAIT, 4, stream=1, event_id=5)]
    assert timeline(api, device, own, RECORDS).ops.after.tolist() == []


def test_a_launch_is_the_earliest_call_of_its_number() -> None:
    """A runtime call and the driver call inside it have one correlation id; the operation is
    launched by the outer one.
    """
    api = [call(1, 12, 18), call(1, 10, 20), call(2, 30, 40)]
    made = timeline(api, ON_TWO_STREAMS)
    assert made.ops.launch.tolist() == [1, 2]
    assert made.notes == ()
    api[0] = call(1, 5, 8, ApiKind.OTHER)
    assert timeline(api, ON_TWO_STREAMS).ops.launch.tolist() == [1, 2]
    api[0] = call(1, 5, 8, WAIT)
    assert timeline(api, ON_TWO_STREAMS).ops.launch.tolist() == [1, 2]


def test_a_wait_inside_a_wait_is_one() -> None:
    """The driver's call inside the runtime's is no wait of its own, also where both begin in the
    same ns; one after it is.
    """
    last, waits = call(4, 261, 270, WAIT), [wait(CONTEXT, 3), wait(CONTEXT, 4)]
    same = timeline([*TWO, call(3, 45, 259, WAIT), call(3, 45, 260, WAIT), last], [], waits)
    assert same.waits.end_ns.tolist() == [260, 270, 1000]
    api = [*TWO, call(3, 45, 260, WAIT), call(3, 46, 259, WAIT), last]
    made = timeline(api, ON_TWO_STREAMS, waits)
    assert made.waits.start_ns.tolist() == [45, 261, 900]
    assert made.waits.kind.tolist() == [WaitKind.SYNCHRONIZE] * 3


def test_a_blocking_copy_waits_for_itself() -> None:
    """A call that launches and waits is a copy, which waits for its own operation."""
    api = [call(1, 10, 20), call(2, 30, 270, LAUNCH | WAIT)]
    made = timeline(api, ON_TWO_STREAMS)
    assert made.waits.kind.tolist() == [WaitKind.COPY, WaitKind.SYNCHRONIZE]
    assert awaited(made)[0] == [1]


def test_a_wait_that_ends_the_call_is_the_last() -> None:
    """Where the host still waits when the call returns, no other synchronise follows."""
    api = [*TWO, call(3, 45, 950, WAIT)]
    assert len(timeline(api, ON_TWO_STREAMS, [wait(CONTEXT, 3)]).waits.kind) == 1
    api[-1] = call(3, 45, 900, WAIT)
    assert len(timeline(api, ON_TWO_STREAMS, [wait(CONTEXT, 3)]).waits.kind) == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_what_has_no_partner_is_counted(lost: int) -> None:
    """Operations without a launch, and waits without a call, are told with their number."""
    made = timeline(TWO[: 2 - lost], ON_TWO_STREAMS, [wait(CONTEXT, 9)] * lost)
    operations, waits = made.notes
    assert operations.startswith(f"{lost} of 2 device operations have no launch record")
    assert waits.startswith(f"{lost} of {lost} synchronisation records have no API call")
    assert (made.ops.launch == -1).sum() == lost


def test_operations_come_by_stream_and_start() -> None:
    """Streams of two contexts are two, and each operation says which record it came from."""
    device = [
        operation(1, 2, 70, 80),
        operation(2, 1, 50, 60),
        operation(2, 1, 40, 45, context=2),
        operation(2, 1, 10, 20),
    ]
    made = timeline(TWO, device)
    assert made.ops.row.tolist() == [3, 1, 0, 2]
    assert made.ops.stream.tolist() == [0, 0, 1, 2]
    assert made.ops.start_ns.tolist() == [10, 50, 70, 40]
