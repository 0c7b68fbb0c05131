"""The latency of a program of operations: by one maximum, as by its definition and by a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import (
    DeviceOps,
    HostEvents,
    HostWaits,
    Timeline,
    WaitKind,
)
from xsp.brickwork.composing import latency_ns
from xsp.types import DeviceKind

TYPICAL = {"launch_ns": 4_000.0, "gap_ns": 1_000.0, "wake_ns": 8_000.0}

Floats = npt.NDArray[np.float64]
PROGRAMS = st.lists(
    st.tuples(st.integers(0, 30_000), st.integers(1, 60_000)), min_size=1, max_size=40
)
"""By operation, how long after the launch before it is launched, and how long it takes, in ns."""


def columns_of(program: list[tuple[int, int]], least_apart: int = 0) -> tuple[Floats, Floats]:
    apart, lengths = np.array(program, dtype=np.float64).T
    return np.cumsum(apart + least_apart), lengths


@settings(max_examples=200, deadline=None)
@given(PROGRAMS, st.integers(0, 50_000))
def test_each_operation_waits_for_its_launch_and_the_one_before_it(
    program: list[tuple[int, int]], afterwards: int
) -> None:
    """The definition, one operation after the other."""
    launches, lengths = columns_of(program)
    host_end = launches[-1] + afterwards
    end = -np.inf
    for launch, length in zip(launches, lengths, strict=True):
        end = max(launch + TYPICAL["launch_ns"], end + TYPICAL["gap_ns"]) + length
    expected = max(host_end, end + TYPICAL["wake_ns"])
    assert latency_ns(host_end, launches, lengths, TYPICAL) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(PROGRAMS, st.integers(0, 50_000))
def test_the_replay_of_such_a_program_takes_as_long(
    program: list[tuple[int, int]], afterwards: int
) -> None:
    """The program as a recording whose operations take no time, replayed with their lengths. The
    launches are a gap apart at least, since a replay keeps gaps that it has seen to be shorter.
    """
    launches, lengths = columns_of(program, least_apart=2_000)
    host_end = launches[-1] + afterwards
    recording = recorded(launches.astype(np.int64), int(host_end), TYPICAL)
    ends = recording.ops.start_ns + lengths.astype(np.int64)
    with_lengths = replace(recording, ops=replace(recording.ops, end_ns=ends))
    played = replay(recording, Costs(), usual(TYPICAL), as_if=with_lengths)
    found = latency_ns(host_end, launches, lengths, TYPICAL)
    assert found == pytest.approx(float(played.latency_ns), abs=5)


def test_many_programs_at_once_are_each_their_own() -> None:
    """Rows of launches and lengths give the latencies that they have alone."""
    generator = np.random.default_rng(0)
    launches = np.cumsum(generator.exponential(9_000.0, (7, 30)), axis=1)
    lengths = generator.exponential(9_000.0, (7, 30))
    host_end = launches[:, -1] + 500.0
    together = latency_ns(host_end, launches, lengths, TYPICAL)
    alone = [latency_ns(*each, TYPICAL) for each in zip(host_end, launches, lengths, strict=True)]
    assert together == pytest.approx(np.array(alone))


def recorded(
    launch: npt.NDArray[np.int64], host_end: int, typical: Mapping[str, float]
) -> Timeline:
    """Operations that take 1 ns: each starts as soon as its launch arrives."""
    count = len(launch)
    zeros, places = np.zeros(count, dtype=np.int64), np.arange(count)
    one = np.zeros(1, dtype=np.int64)
    start = launch + round(typical["launch_ns"])
    woke = max(int(start[-1]) + 1 + round(typical["wake_ns"]), host_end)
    return Timeline(
        start_ns=0,
        host_end_ns=host_end,
        end_ns=woke,
        clocks={0: 0},
        events=HostEvents(zeros, np.full(count, int(EventKind.LAUNCH)), launch, launch + 1),
        ops=DeviceOps(
            kind=np.full(count, int(DeviceKind.KERNEL)),
            stream=zeros,
            start_ns=start,
            end_ns=start + 1,
            launch=places,
            row=places,
            after=np.zeros((0, 2), dtype=np.int64),
        ),
        waits=HostWaits(
            clock=one,
            kind=np.full(1, int(WaitKind.SYNCHRONIZE)),
            start_ns=np.full(1, host_end),
            end_ns=np.full(1, woke),
            event=one - 1,
            from_clock=one - 1,
            from_ns=one - 1,
            on=np.array([[0, count - 1]]),
        ),
        notes=(),
    )


def usual(typical: Mapping[str, float]) -> Latencies:
    launch, gap, wake = (float(typical[name]) for name in ("launch_ns", "gap_ns", "wake_ns"))
    return Latencies(
        launch_ns=(launch, launch, launch),
        gap_ns=(gap, gap, gap),
        event_ns=gap,
        wake_ns=(wake, wake, wake),
        return_ns=(0.0, 0.0, 0.0),
    )
