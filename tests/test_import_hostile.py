"""Traces as people publish them: steps that overlap, are empty or cut short, stamps that are not
known, lists of tensors, and threads with long ids.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

import xsp
from xsp import analysis
from xsp.export.otel.spans import epoch_offset_ns

STEP_US = 1000.0


def event(category: str, name: str, ts: float, dur: float, **more: Any) -> dict[str, Any]:
    """A complete event as Kineto writes it, on thread 9 of process 9."""
    place = {"pid": more.pop("pid", 9), "tid": more.pop("tid", 9)}
    found = {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur}
    return found | place | {"args": more}


def launch(correlation: int, ts: float, kernel_ts: float, dur: float) -> list[dict[str, Any]]:
    """An API call of 2 us and the kernel that it launches."""
    call = event("cuda_runtime", "cudaLaunchKernel", ts, 2, correlation=correlation)
    known = {"correlation": correlation, "stream": 7, "context": 1, "device": 0}
    kernel = event("kernel", "gemm", kernel_ts, dur, pid=0, tid=7, **known)
    return [call, kernel]


def step(number: int, start: float, *, kernel_at: float, dur: float = 900) -> list[dict[str, Any]]:
    """A step of 1 ms with two operators, of which the first launches a kernel."""
    return [
        event("user_annotation", f"ProfilerStep#{number}", start, STEP_US),
        event("cpu_op", "aten::mm", start + 10, 50),
        *launch(number + 1, start + 20, kernel_at, dur),
        event("cpu_op", "aten::add", start + 100, 50),
    ]


def steps(count: int, first: float = 5000.0) -> list[dict[str, Any]]:
    """Steps one after another, each with its kernel inside."""
    starts = [first + STEP_US * number for number in range(count)]
    found = [step(at, start, kernel_at=start + 50) for at, start in enumerate(starts)]
    return [one for each in found for one in each]


def imported(path: Path, events: list[dict[str, Any]], **document: Any) -> xsp.Profile:
    """The profile of a trace of these events."""
    path.write_text(json.dumps({"traceEvents": events} | document))
    return xsp.from_kineto(path)


def warned(prof: xsp.Profile, slug: str) -> str:
    """The warning with this slug."""
    [found] = [warning for warning in prof.warnings if f"[{slug}]" in warning]
    return found


# ---- lists of tensors ----


def test_every_view_of_a_trace_with_lists_of_tensors_works(tmp_path: Path) -> None:
    """Operators on lists have one shape for each tensor, and analyses, the page and the comparison
    take them.
    """
    path = tmp_path / "lists.json"
    a = torch.ones(2, 3)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorder:
        torch.cat([a, a])
        torch._foreach_add([a, a[:1]], 1.0)
        torch.nn.LSTM(4, 5)(torch.ones(3, 2, 4))
        a + torch.tensor(1.0)
    recorder.export_chrome_trace(str(path))
    prof = xsp.from_kineto(path)
    layers = prof.table("layers").drop_duplicates("type").set_index("type")
    described = layers[["input_shapes", "input_dtypes"]].map(json.loads)
    assert list(described.loc["aten::cat"]) == [[[2, 3], [2, 3]], ["", ""]]
    assert described.loc["aten::_foreach_add", "input_shapes"] == [[2, 3], [1, 3]]
    assert list(described.loc["aten::add"]) == [[[2, 3], []], ["float32", "float32"]]
    assert described["input_shapes"].map(len)["aten::lstm"] == 1 + 2 + 4
    for name in analysis.__all__:
        if name != "compare":
            assert isinstance(getattr(analysis, name)(prof), pd.DataFrame), name
    assert prof.to_html(tmp_path / "x.html").stat().st_size > 0
    assert xsp.compare(prof, prof).nodes is not None


@pytest.mark.parametrize(
    "dims",
    [[[[[2, 3]], [4]]], [None, [2]], "no list", [[["x"]]], [{"a": 1}], [[2, -1], [2.5]], 7],
    ids=str,
)
def test_shapes_of_any_form_are_read_or_left_out(dims: Any, tmp_path: Path) -> None:
    """What is no list of sizes is no shape, and every analysis still answers."""
    arguments = {"Input Dims": dims, "Input type": ["float", 3]}
    prof = imported(tmp_path / "x.json", [event("cpu_op", "aten::mm", 5, 5, **arguments)])
    shapes = json.loads(prof.table("layers")["input_shapes"].iloc[0])
    assert all(isinstance(size, int) for shape in shapes for size in shape)
    assert len(analysis.layer_metrics(prof)) == 1


# ---- steps ----


def test_an_empty_or_partial_last_step_is_no_run(tmp_path: Path) -> None:
    """The latency is that of whole steps: a last one without events, or with a part of what each
    other has, is left out, and a warning says so.
    """
    whole = imported(tmp_path / "whole.json", steps(3))
    assert whole.latency_ms == pytest.approx(1.0)
    at = 5000 + 3 * STEP_US
    empty = event("user_annotation", "ProfilerStep#3", at, 3)
    prof = imported(tmp_path / "empty.json", [*steps(3), empty])
    assert len(prof.runs) == 3
    assert prof.latency_ms == pytest.approx(1.0)
    assert "1 runs of the trace hold nothing" in warned(prof, "empty-runs")
    part = [
        event("user_annotation", "ProfilerStep#3", at, 40),
        event("cpu_op", "aten::mm", at + 5, 20),
    ]
    prof = imported(tmp_path / "part.json", [*steps(3), *part])
    assert len(prof.runs) == 3
    assert prof.latency_ms == pytest.approx(1.0)
    assert "in the middle of its last run" in warned(prof, "partial-run")


def test_a_short_last_run_of_the_program_stays(tmp_path: Path) -> None:
    """What the program itself calls a run has ended, however little it did; only the profiler's own
    steps are cut short.
    """
    events = [
        event("user_annotation", "request 0", 100, 50),
        event("cpu_op", "aten::mm", 110, 5),
        event("cpu_op", "aten::add", 120, 5),
        event("user_annotation", "request 1", 200, 10),
        event("cpu_op", "aten::mm", 201, 5),
    ]
    (tmp_path / "x.json").write_text(json.dumps(events))
    prof = xsp.from_kineto(tmp_path / "x.json", runs="request")
    assert prof.runs["latency_ns"].tolist() == [50_000, 10_000]


def test_steps_of_torch_profiler_without_an_end_are_whole(tmp_path: Path) -> None:
    """A loop that stops right after `step()` has as many runs as it has iterations."""
    path = tmp_path / "x.json"
    a = torch.ones(8, 8)
    plan = schedule(wait=0, warmup=0, active=10)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan) as recorder:
        for _ in range(3):
            (a @ a).relu()
            recorder.step()
    recorder.export_chrome_trace(str(path))
    prof = xsp.from_kineto(path)
    assert len(prof.runs) == 3
    assert warned(prof, "empty-runs")


def test_steps_that_overlap_on_the_device_say_what_they_really_take(tmp_path: Path) -> None:
    """Where the device works for the step before, latencies hold its time: a warning gives the time
    from end to end and the device's share of it.
    """
    starts = [5000 + STEP_US * number for number in range(6)]
    events = [
        one
        for number, start in enumerate(starts)
        # Each kernel runs 0.98 ms, and begins 1.5 ms after its step.
        for one in step(number, start, kernel_at=start + 1500, dur=980)
    ]
    prof = imported(tmp_path / "x.json", events)
    sentence = warned(prof, "overlapping-on-device")
    assert "when 5 of the 6 runs begin" in sentence
    assert "it takes 1.00 ms, for 98% of which the GPU is busy" in sentence.replace(" %", "%")
    apart = imported(tmp_path / "apart.json", steps(3))
    assert not any("overlapping" in warning for warning in apart.warnings)


def test_runs_of_several_threads_keep_their_own_events(tmp_path: Path) -> None:
    """Runs that overlap on the host have what their own thread does; the overlap is said."""
    events = []
    for number, thread in enumerate((9, 10)):
        start = 1000 + 100.0 * number
        events += [
            event("user_annotation", f"request {number}", start, 1000, tid=thread),
            event("cpu_op", "aten::mm", start + 300, 50, tid=thread),
            event("cpu_op", "aten::add", start + 850, 50, tid=thread),
        ]
    (tmp_path / "x.json").write_text(json.dumps(events))
    prof = xsp.from_kineto(tmp_path / "x.json", runs="request")
    spans = prof.spans[prof.spans["level"] == "LAYER"]
    assert spans.groupby("run")["thread"].unique().map(list).tolist() == [[9], [10]]
    assert spans.groupby("run").size().tolist() == [2, 2]
    assert "1 runs of the trace begin before" in warned(prof, "overlapping-runs")


def test_an_operator_over_a_boundary_keeps_its_launches(tmp_path: Path) -> None:
    """What an operator launches after its step has ended is still under it, in the same run."""
    end = 5000 + STEP_US
    events = [
        *steps(2),
        event("cpu_op", "aten::bmm", end - 100, 200, tid=10),
        event("cuda_runtime", "cudaLaunchKernel", end - 50, 2, tid=10, correlation=100),
        event("cuda_runtime", "cudaLaunchKernel", end + 50, 2, tid=10, correlation=101),
        *[launch(100 + one, 0, end + 100 + 10 * one, 5)[1] for one in range(2)],
    ]
    prof = imported(tmp_path / "x.json", events)
    spans = prof.spans
    [operator] = spans.loc[spans["name"] == "::bmm", "span_id"]
    below = spans[spans["parent_id"] == operator]
    assert len(below) == 2
    assert set(below["run"]) == {0}
    assert prof.lost == 0


# ---- stamps ----


def test_stamps_below_zero_are_moved(tmp_path: Path) -> None:
    """A trace whose clock runs through zero is exported and keeps its durations and its time."""
    base = 1_700_000_000_000_000_000
    moved = imported(tmp_path / "x.json", steps(2, first=-1500.0), baseTimeNanoseconds=base)
    straight = imported(tmp_path / "y.json", steps(2), baseTimeNanoseconds=base)
    assert moved.spans["start_ns"].min() == 0
    assert moved.epoch_offset_ns == base - 1_500_000
    assert moved.spans["duration_ns"].tolist() == straight.spans["duration_ns"].tolist()
    assert moved.to_perfetto(tmp_path / "x.pftrace").stat().st_size > 0
    assert moved.to_chrome(tmp_path / "x.chrome.json").stat().st_size > 0


@pytest.mark.parametrize("base", [0, 1_700_000_000_000_000_000])
def test_events_without_a_start_make_nothing_last_a_second(base: int, tmp_path: Path) -> None:
    """A stamp of 0 far from all others is not known: operators, launches and kernels that have it
    are left out and counted.
    """
    first = 1_000_000.0
    zero = -base / 1000
    unknown = [
        event("cpu_op", "aten::bmm", zero, first + 50 - zero),
        event("cuda_runtime", "cudaLaunchKernel", zero, 2, correlation=77),
        launch(1, 0, zero, 4)[1],
    ]
    prof = imported(tmp_path / "x.json", [*steps(2, first), *unknown], baseTimeNanoseconds=base)
    assert prof.latency_ms == pytest.approx(1.0)
    layers = prof.tree().query("level == 'LAYER'")
    assert layers["host_ms"].max() < 1
    assert "::bmm" not in set(layers["name"])
    assert "3 events of the trace have no start" in warned(prof, "unknown-stamps")


def test_a_clock_that_begins_at_zero_is_believed(tmp_path: Path) -> None:
    """The first event of a trace can be at 0."""
    prof = imported(tmp_path / "x.json", steps(2, first=0.0))
    assert prof.runs["start_ns"].tolist() == [0, 1_000_000]
    assert not any("unknown-stamps" in warning for warning in prof.warnings)


UNIX_US = 1_620_000_000_000_000.0


@pytest.mark.parametrize(
    ("first_us", "base_ns", "recorded_ns"),
    [
        (5000.0, 1_700_000_000_000_000_000, 1_700_000_000_005_000_000),
        (UNIX_US, 0, 1_620_000_000_000_000_000),
        (UNIX_US, None, 1_620_000_000_000_000_000),
        (5000.0, None, None),
    ],
    ids=["base", "Unix time, base 0", "Unix time, no base", "nothing tells"],
)
def test_the_time_of_recording_is_kept(
    first_us: float, base_ns: int | None, recorded_ns: int | None, tmp_path: Path
) -> None:
    """Spans that are sent on have the time at which the trace was recorded, where it tells that."""
    known = {} if base_ns is None else {"baseTimeNanoseconds": base_ns}
    prof = imported(tmp_path / "x.json", steps(2, first_us), **known)
    again = xsp.load(prof.save(tmp_path / "x.xsp"))
    offset = again.epoch_offset_ns
    start = int(again.runs["start_ns"].min())
    if recorded_ns is None:
        assert offset is None
        assert warned(prof, "recording-time")
    else:
        assert offset is not None
        assert start + offset == start + epoch_offset_ns(again) == recorded_ns


def test_exports_of_nsys_keep_the_time_of_recording(tmp_path: Path) -> None:
    """Stamps count from the start of the session, whose time the export has."""
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(
            "CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT,"
            " globalTid INTEGER);"
            "INSERT INTO NVTX_EVENTS VALUES (5000000, 6000000, 59, 'forward', 77);"
            "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT);"
            "INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (1700000000000000000, '');"
        )
    assert xsp.from_nsys(path).epoch_offset_ns == 1_700_000_000_000_000_000


# ---- threads ----


@pytest.mark.parametrize("other", [(1 << 32) + 9, (0x7F00 << 32) + 9, 1 << 65, "9", -(1 << 32) + 9])
def test_threads_are_told_apart_by_their_whole_id(other: int | str, tmp_path: Path) -> None:
    """Two threads whose ids end in the same 32 bits do not run inside each other."""
    events = [
        event("cpu_op", "aten::mm", 100, 100, tid=9),
        event("cpu_op", "aten::add", 120, 20, tid=other),
        event("cuda_runtime", "cudaLaunchKernel", 130, 2, tid=other, correlation=1),
        launch(1, 0, 140, 20)[1],
    ]
    prof = imported(tmp_path / "x.json", events)
    spans = prof.spans.set_index("name")
    assert spans.loc["::mm", "thread"] == 9
    assert spans.loc["::add", "thread"] != 9
    kernel = prof.spans[prof.spans["level"] == "KERNEL"].iloc[0]
    assert kernel["parent_id"] == spans.loc["::add", "span_id"]
    tree = prof.tree().set_index("name")
    # Each instant counts once: while both run, for the one that began later.
    assert tree.loc["::mm", "host_ms"] == pytest.approx(0.08)
    assert tree.loc["::add", "host_ms"] == pytest.approx(0.02)
