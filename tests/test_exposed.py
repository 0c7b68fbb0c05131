"""What of a job's collectives is exposed: nothing else runs on the rank's GPU meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_merge import LATE_NS, MOVING_NS, rank_capture, saved

import xsp
from xsp.capture.file import Capture
from xsp.distributed.exposure import PAUSE_NS, exposed, idle_from, kept_busy
from xsp.types import Level

MEMSET = 4
"""Row of what the GPU runs beside the all-reduce."""

BEGIN_NS = 700_000
"""When the first rank comes to the all-reduce, after the start of the call."""

LATEST_NS = BEGIN_NS + max(LATE_NS)


def computing_beside(capture: Capture, launched: int, start: int, end: int) -> Capture:
    """With something else on the GPU from start to end, launched by a call of its own: µs after the
    start of the model's call.
    """
    tables = {name: table.copy() for name, table in capture.tables.items()}
    spans, api = tables["spans"], tables["api_calls"]
    runs = spans[spans["level"] == Level.MODEL].set_index("run")["start_ns"]
    mine = (spans["level"] == Level.KERNEL) & (spans["detail"] == MEMSET)
    origin = spans.loc[mine, "run"].map(runs)
    spans.loc[mine, "start_ns"] = origin + start * 1000
    spans.loc[mine, "duration_ns"] = (end - start) * 1000
    number = api["correlation_id"].max() + 1
    spans.loc[mine, "correlation_id"] = number
    calls = api.groupby("run").last().loc[spans.loc[mine, "run"]].reset_index()
    calls = calls.assign(correlation_id=number, start_ns=origin.to_numpy() + launched * 1000)
    tables["api_calls"] = pd.concat([api, calls[api.columns]], ignore_index=True)
    return Capture(capture.meta, tables)


@pytest.mark.parametrize(
    ("launched", "start", "end", "exposed_ns"),
    [
        pytest.param(600, 750, 850, 300_000 - 10_000 - 100_000, id="it waited for something"),
        pytest.param(745, 750, 850, 150_000, id="the host came so late"),
        pytest.param(720, 750, 850, 300_000 - 30_000 - 100_000, id="late, and it waited"),
        pytest.param(600, 750, 1040, 300_000 - 10_000 - 250_000, id="longer than the wait"),
        pytest.param(1090, 1100, 1200, 300_000, id="nothing before the end"),
    ],
)
def test_waiting_is_exposed_where_the_gpu_has_nothing_else_to_do(
    tmp_path: Path, launched: int, start: int, end: int, exposed_ns: int
) -> None:
    """Of rank 0's 300 µs of waiting what it computes meanwhile is not exposed, nor is what it could
    not compute because the host had not launched it; rank 1, for which it waits, holds it up by the
    rest.
    """
    captures = [
        computing_beside(rank_capture(rank, late, max(LATE_NS)), launched, start, end)
        for rank, late in enumerate((0, 300_000, 300_000))
    ]
    job = xsp.merge(saved(tmp_path, captures))
    first = job.events[job.events["rank"] == 0]
    assert set(first["waiting_ns"]) == {300_000}
    assert set(first["exposed_waiting_ns"]) == {exposed_ns}
    ranks = job.ranks().set_index("rank")
    assert ranks["exposed_waiting_ms"].tolist() == pytest.approx([exposed_ns / 1e6, 0, 0])
    assert ranks["held_up_ms"].max() == pytest.approx(exposed_ns / 2e6)
    hidden = f"; for {(300_000 - exposed_ns) / 1e6:.3g} ms more it waits while it computes"
    assert (hidden in str(job)) == (exposed_ns < 300_000)


def test_moving_data_is_exposed_where_nothing_is_computed(tmp_path: Path) -> None:
    """Data moves for 80 µs, of which the GPU computes in the last 30."""
    captures = [
        computing_beside(rank_capture(rank, 0, 0), 600, 750, 790) for rank in range(len(LATE_NS))
    ]
    ranks = xsp.merge(saved(tmp_path, captures)).ranks()
    assert ranks["moving_ms"].tolist() == pytest.approx([MOVING_NS / 1e6] * 3)
    assert ranks["exposed_moving_ms"].tolist() == pytest.approx([0.04] * 3)


@st.composite
def devices(draw: st.DrawFn) -> tuple[pd.DataFrame, int, int, int]:
    """What a GPU computes, in ms of 0.01, and the begin, the last rank's coming and the end of a
    collective.
    """
    bounds = draw(st.lists(st.integers(0, 60), min_size=2, max_size=12, unique=True).map(sorted))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    ages = draw(st.lists(st.integers(0, 9), min_size=len(pairs), max_size=len(pairs)))
    begin, latest, end = draw(
        st.lists(st.integers(0, 60), min_size=3, max_size=3, unique=True).map(sorted)
    )
    busy = pd.DataFrame(
        {
            "round": 0,
            "start_ns": np.array([start for start, _ in pairs]) * PAUSE_NS,
            "end_ns": np.array([stop for _, stop in pairs]) * PAUSE_NS,
            "launch_ns": np.array(
                [start - age for (start, _), age in zip(pairs, ages, strict=True)]
            )
            * PAUSE_NS,
        }
    )
    return busy, begin, latest, end


def by_instant(busy: pd.DataFrame, begin: int, latest: int, end: int) -> int:
    """Units of the wait in which the GPU neither runs anything nor lacks a launch of the host."""
    rows = (busy[["start_ns", "end_ns", "launch_ns"]] // PAUSE_NS).to_numpy().tolist()
    count = 0
    for instant in range(begin, latest):
        runs = any(start <= instant < stop for start, stop, _ in rows)
        before = [stop for _, stop, _ in rows if stop <= instant]
        later = [(start, launch) for start, _, launch in rows if start > instant]
        lacks = False
        if before and later and later[0][1] < end:
            could = max(before[-1], later[0][1]) + 1
            lacks = instant < min(could, later[0][0])
        count += not (runs or lacks)
    return count


@given(devices())
def test_exposed_waiting_is_what_is_left_instant_by_instant(
    drawn: tuple[pd.DataFrame, int, int, int],
) -> None:
    """The sums over intervals are those of a count over instants."""
    busy, begin, latest, end = drawn
    stamps = {"start_ns": begin, "call_ns": end, "wait_ns": end, "end_ns": end}
    events = pd.DataFrame(
        {"round": [0]} | {name: [PAUSE_NS * value] for name, value in stamps.items()}
    )
    events["idle_ns"] = idle_from(events, busy)
    [found] = exposed(events, pd.Series([PAUSE_NS * latest]), kept_busy(busy))["exposed_waiting_ns"]
    assert found == PAUSE_NS * by_instant(busy, begin, latest, end)


def test_an_instant_of_several_collectives_counts_once() -> None:
    """Two collectives that wait side by side, in groups of their own, cost what one does."""
    stamps = {"start_ns": [0, 20], "call_ns": [100, 140], "wait_ns": [100, 140]}
    events = pd.DataFrame({"round": 0, **stamps, "end_ns": [100, 140], "idle_ns": [0, 20]})
    busy = pd.DataFrame({"round": [0], "start_ns": [200], "end_ns": [300]})
    found = exposed(events, pd.Series([100, 140]), busy)
    assert found["exposed_waiting_ns"].tolist() == [100, 40]
