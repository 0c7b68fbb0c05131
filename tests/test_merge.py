"""Captures of a job's ranks, merged: who waits, for whom, how long, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from captures import ROUNDS, gpu_capture
from typer.testing import CliRunner

import xsp
from xsp.capture.file import Capture
from xsp.cli.application import app
from xsp.errors import CaptureError
from xsp.types import Level

COUNT = 1_000_000
BYTES = 4 * COUNT
MOVING_NS = 80_000
RING = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"

LAYER, LIBRARY_CALL, KERNEL = 2, 1, 3
"""Rows of the layer, call and kernel that become an all-reduce: 520, 560 and 700 µs after the start
of the call."""


def rank_capture(rank: int, late_ns: int, latest_ns: int, **place: Any) -> Capture:
    """The bundled four-level capture as one rank of three, whose all-reduce begins `late_ns` after
    its usual time and ends 80 µs after `latest_ns`, when the last rank has come. What makes it late
    is the ReLU before it.
    """
    capture = gpu_capture(
        rank={"rank": rank, "size": 3, "host": "a", "boot": "boot-a", **place},
    )
    tables = {name: table.copy() for name, table in capture.tables.items()}
    tables["layers"].loc[LAYER, ["name", "type", "kind"]] = [
        "0::all_reduce",
        "all_reduce",
        "function",
    ]
    tables["layers"].loc[LAYER, ["input_shapes", "input_dtypes"]] = [f"[[{COUNT}]]", '["float32"]']
    tables["kernels"].loc[KERNEL, "name"] = RING
    call = {"count": COUNT, "type": "ncclFloat32"}
    tables["library_calls"].loc[LIBRARY_CALL, "arguments"] = json.dumps(call)
    spans = tables["spans"]
    for level, row in ((Level.LAYER, LAYER), (Level.KERNEL, KERNEL)):
        mine = (spans["level"] == level) & (spans["detail"] == row)
        spans.loc[mine, "start_ns"] += late_ns
        spans.loc[mine, "duration_ns"] = latest_ns - late_ns + MOVING_NS
    before = (spans["level"] == Level.LAYER) & (spans["detail"] == 1)
    spans.loc[before, "duration_ns"] += late_ns
    return Capture(capture.meta, tables)


def without_kernels(capture: Capture) -> Capture:
    """As a CPU gives it: no kernels."""
    kernels = capture.tables["kernels"].assign(name="void gemm(float*)")
    return Capture(capture.meta, {**capture.tables, "kernels": kernels})


def of_rounds(capture: Capture, numbers: Sequence[int]) -> Capture:
    """As a rank saves it that kept the rounds of these numbers."""
    runs = capture.tables["runs"]
    runs = runs.assign(round=runs["round"].map(dict(enumerate(numbers))))
    return Capture(capture.meta, {**capture.tables, "runs": runs})


def saved(folder: Path, captures: list[Capture]) -> list[Path]:
    paths = [folder / f"rank{number}.xsp" for number in range(len(captures))]
    for path, capture in zip(paths, captures, strict=True):
        capture.save(path)
    return paths


LATE_NS = (0, 300_000, 100_000)


@pytest.fixture
def ranks() -> list[Capture]:
    """Rank 1 comes 300 µs late, rank 2 100 µs."""
    return [rank_capture(rank, late, max(LATE_NS)) for rank, late in enumerate(LATE_NS)]


@pytest.mark.parametrize("on", ["device", "host"])
def test_waiting_and_moving_are_told_apart(tmp_path: Path, ranks: list[Capture], on: str) -> None:
    """Each rank waits until the last has come; the rest is moving. By kernels where NCCL's were
    recorded, else by the calls.
    """
    captures = ranks if on == "device" else [without_kernels(each) for each in ranks]
    job = xsp.merge(saved(tmp_path, captures))
    events = job.events
    assert len(events) == 3 * ROUNDS
    assert (events["moving_ns"] == MOVING_NS).all()
    waiting = events.set_index(["rank", "round"])["waiting_ns"].unstack()
    assert (waiting.to_numpy() == np.array([[300_000], [0], [200_000]])).all()
    assert set(events.loc[events["last"], "rank"]) == {1}
    assert set(events["name"]) == {RING if on == "device" else "0::all_reduce"}


def test_bus_bandwidth_is_that_of_nccl_tests(tmp_path: Path, ranks: list[Capture]) -> None:
    """An all-reduce over three ranks moves 2 (3 - 1) / 3 of its size over each link, in the time
    without waiting.
    """
    [row] = xsp.merge(saved(tmp_path, ranks)).collectives().to_dict("records")
    assert row["bytes"] == BYTES
    assert row["moving_ms"] == pytest.approx(MOVING_NS / 1e6)
    assert row["waiting_ms"] == pytest.approx(0.5)
    assert row["bus_gb_per_s"] == pytest.approx(BYTES * 4 / 3 / MOVING_NS)
    assert (row["last_rank"], row["last_share"]) == (1, 1.0)


OTHER = 0
"""Row of another layer."""


def sending(capture: Capture, *facts: dict[str, Any], layer: int = LAYER, **said: Any) -> Capture:
    """With what the structure run saw in a layer."""
    layers = capture.tables["layers"].copy()
    if "arguments" not in layers:
        layers["arguments"] = "{}"
    layers.loc[layer, "arguments"] = json.dumps({"communications": facts, **said})
    return Capture(capture.meta, {**capture.tables, "layers": layers})


def sent(ranks: Sequence[int] | None, name: str, operation: str = "all_reduce") -> dict[str, Any]:
    """One operation of a process group, as the structure run writes it down."""
    fact = {"operation": operation, "bytes": BYTES, "dtype": "float32"}
    return {**fact, "ranks": ranks, "group": name}


def test_kernels_are_of_the_group_that_their_layer_used(tmp_path: Path) -> None:
    """NCCL's kernels carry no group: they are matched within that of the operation that the
    structure run saw in their layer, and what a rank's part is of the whole goes by its size.
    """
    pairs = {0: [0, 1], 1: [0, 1], 2: [2, 3], 3: [2, 3]}
    captures = []
    for rank, pair in pairs.items():
        kind = "reduce_scatter" if rank > 1 else "all_reduce"
        capture = rank_capture(rank, 100_000 * rank, 300_000, size=4)
        if kind == "reduce_scatter":
            kernels = capture.tables["kernels"].copy()
            kernels.loc[KERNEL, "name"] = RING.replace("AllReduce", "ReduceScatter")
            capture = Capture(capture.meta, {**capture.tables, "kernels": kernels})
        captures.append(sending(capture, sent(pair, str(pair[0]), kind)))
    table = xsp.merge(saved(tmp_path, captures)).collectives()
    assert table["group"].tolist() == ["0,1", "2,3"]
    assert table["type"].tolist() == ["all_reduce", "reduce_scatter"]
    assert table["bytes"].tolist() == [BYTES, 2 * BYTES]
    assert table["dtype"].tolist() == ["float32", "float32"]
    assert table["waiting_ms"].tolist() == pytest.approx([0.1, 0.1])


def test_kernels_of_gradients_are_of_the_reducers_group(tmp_path: Path) -> None:
    """DistributedDataParallel launches its kernels outside of calls of collectives: where all that
    it sends goes through one group they are of that one, else of all ranks, as it is not known.
    """
    captures = [rank_capture(rank, 0, 100_000, size=3) for rank in range(2)]
    for name, facts in {
        "one": [sent([0, 1], "3")] * 2,
        "two": [sent([0, 1], "3"), sent([0, 1], "4")],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        reducing = [sending(each, *facts, layer=OTHER) for each in captures]
        for each in reducing:
            each.tables["layers"].loc[OTHER, ["name", "kind"]] = [
                "(gradient synchronization)",
                "autograd",
            ]
        [group] = xsp.merge(saved(folder, reducing)).collectives()["group"]
        assert group == ("0,1" if name == "one" else "")


def test_what_is_done_before_a_wait_is_overlapped(tmp_path: Path, ranks: list[Capture]) -> None:
    """A call that does not block holds its rank up while it lasts and in the wait for it; what lies
    between is overlapped, and the bandwidth is that of the whole time.
    """
    begun, waited_ns, after_ns = 1000, 400_000, 50_000
    captures = []
    for capture in map(without_kernels, ranks):
        capture = sending(capture, sent(None, "0"), ticket=7)
        capture = sending(capture, layer=OTHER, awaited=7)
        spans = capture.tables["spans"].copy()
        is_layer = spans["level"] == Level.LAYER
        call, wait = (is_layer & (spans["detail"] == row) for row in (LAYER, OTHER))
        start = spans.loc[call, "start_ns"].to_numpy()
        spans.loc[call, "duration_ns"] = begun
        spans.loc[wait, "start_ns"] = start + waited_ns
        spans.loc[wait, "duration_ns"] = after_ns
        captures.append(Capture(capture.meta, {**capture.tables, "spans": spans}))
    job = xsp.merge(saved(tmp_path, captures))
    events = job.events.groupby("rank").first()
    assert set(job.events["overlapped_ns"]) == {waited_ns - begun}
    assert events["waiting_ns"].tolist() == [begun, 0, begun]
    assert events["moving_ns"].tolist() == [after_ns, begun + after_ns, after_ns]
    [row] = job.collectives().to_dict("records")
    quickest_ns = waited_ns + after_ns - max(LATE_NS)
    assert row["bus_gb_per_s"] == pytest.approx(BYTES * 4 / 3 / quickest_ns)
    assert row["overlapped_ms"] == pytest.approx((waited_ns - begun) / 1e6)


def test_the_slow_rank_and_its_layer_are_named(tmp_path: Path, ranks: list[Capture]) -> None:
    """Rank 1 holds the others up for 235 µs each on average; what takes it longer than the median
    rank is the layer before the collective, on the host.
    """
    job = xsp.merge(saved(tmp_path, ranks))
    table = job.ranks().set_index("rank")
    # Of 0.3 and 0.2 ms of waiting the GPU needs 20 and 10 us for what it runs anyway.
    assert table["held_up_ms"].tolist() == pytest.approx([0, 0.235, 0])
    assert table["waiting_ms"].tolist() == pytest.approx([0.3, 0, 0.2])
    slow = job.stragglers()
    first = slow.iloc[0]
    assert (first["rank"], first["where"], first["phase"]) == (1, "host", "forward")
    assert first["excess_ms"] == pytest.approx(0.2)
    said = str(job)
    assert "3 of 3 ranks on 1 host, 1 collective of all ranks a step, 3 rounds" in said
    assert "rank 1 holds the others up for 0.235 ms a step" in said
    assert "rank 1 takes longer than the others in: block." in said


def test_other_machines_are_aligned_by_the_ends_of_collectives(
    tmp_path: Path, ranks: list[Capture]
) -> None:
    """A rank whose clock shows other times comes out as on the same machine, and how well that is
    known is said.
    """
    shift_ns = 123_456_789_000
    far = Capture(
        {**ranks[2].meta, "rank": {**ranks[2].meta["rank"], "host": "b", "boot": "boot-b"}},
        {
            **ranks[2].tables,
            "spans": ranks[2]
            .tables["spans"]
            .assign(start_ns=ranks[2].tables["spans"]["start_ns"] + shift_ns),
        },
    )
    job = xsp.merge(saved(tmp_path, [ranks[0], ranks[1], far]))
    row = job.clocks.set_index("rank").loc[2]
    assert row["offset_ns"] == -shift_ns
    assert row["error_ns"] == 0
    assert row["how"] == f"ends of {ROUNDS} collectives"
    waiting = job.events.groupby("rank")["waiting_ns"].mean()
    assert waiting.tolist() == [300_000, 0, 200_000]


def test_a_clock_is_aligned_through_another_rank(tmp_path: Path, ranks: list[Capture]) -> None:
    """A rank of another machine that shares no collective with the first one is aligned with one
    that does, here by a call in both groups.
    """
    shift_ns = 5_000_000_000
    first, last = sent([0, 1], "1"), sent([1, 2], "2")
    facts = [[first], [first, last], [last]]
    captures = [
        sending(without_kernels(each), *made) for each, made in zip(ranks, facts, strict=True)
    ]
    for number in (1, 2):
        capture = captures[number]
        place = {**capture.meta["rank"], "boot": f"boot-{number}"}
        spans = capture.tables["spans"]
        spans = spans.assign(start_ns=spans["start_ns"] + number * shift_ns)
        meta = {**capture.meta, "rank": place}
        captures[number] = Capture(meta, {**capture.tables, "spans": spans})
    job = xsp.merge(saved(tmp_path, captures))
    assert job.clocks["offset_ns"].tolist() == [0, -shift_ns, -2 * shift_ns]
    assert job.clocks["how"].tolist()[-1] == f"ends of {ROUNDS} collectives with rank 1"
    waiting = job.events.groupby(["group", "rank"])["waiting_ns"].mean().to_dict()
    assert waiting == {
        ("0,1", 0): 300_000,
        ("0,1", 1): 0,
        ("1,2", 1): 0,
        ("1,2", 2): 200_000,
    }
    assert job.ranks()["waiting_ms"].tolist() == pytest.approx([0.3, 0, 0.2])


def test_missing_ranks_are_said(tmp_path: Path, ranks: list[Capture]) -> None:
    """A job of which one rank's capture is missing is merged, and says what cannot be known."""
    paths = saved(tmp_path, ranks)
    job = xsp.merge([paths[2], paths[0]])
    assert [part.rank for part in job.parts] == [0, 2]
    assert job.missing == [1]
    assert "there is no capture of rank 1: a wait for it is shown as moving data" in str(job)


def test_rounds_that_a_rank_left_out_are_left_out_of_all(
    tmp_path: Path, ranks: list[Capture]
) -> None:
    """A rank that left rounds out, as throttled ones are, is compared in the rounds that all have,
    and which are left out is said; without a round in common the captures are refused.
    """
    kept = [(0, 2, 3), (1, 2, 4), (0, 1, 2)]
    job = xsp.merge(saved(tmp_path, [of_rounds(*each) for each in zip(ranks, kept, strict=True)]))
    assert job.events[["round", "rank"]].to_numpy().tolist() == [[2, 0], [2, 1], [2, 2]]
    assert job.rounds_left_out == (0, 1, 3, 4)
    assert "4 rounds (0, 1, 3, 4) are left out" in str(job)
    assert all(set(part.work["round"]) == {2} for part in job.parts)
    apart = [(0, 2, 3), (1, 4, 5), (0, 1, 2)]
    with pytest.raises(CaptureError, match="no round is in the captures"):
        xsp.merge(saved(tmp_path, [of_rounds(*each) for each in zip(ranks, apart, strict=True)]))


def test_what_is_no_job_is_refused(tmp_path: Path, ranks: list[Capture]) -> None:
    """No capture, one of a process alone, of another job, a rank twice, and ranks with other
    collectives: one sentence each, with the file or the first difference.
    """
    paths = saved(tmp_path, ranks)
    with pytest.raises(xsp.CaptureError, match="there is no capture to merge"):
        xsp.merge([])
    gpu_capture().save(tmp_path / "alone.xsp")
    with pytest.raises(xsp.CaptureError, match=r"alone\.xsp was not recorded by several ranks"):
        xsp.merge([paths[0], tmp_path / "alone.xsp"])
    with pytest.raises(xsp.CaptureError, match=r"are both of rank 0: name each rank once"):
        xsp.merge([paths[0], paths[0]])
    trace = {**ranks[1].meta["trace"], "trace_id": "2" * 32}
    Capture({**ranks[1].meta, "trace": trace}, ranks[1].tables).save(tmp_path / "other.xsp")
    with pytest.raises(xsp.CaptureError, match="are of different jobs"):
        xsp.merge([paths[0], tmp_path / "other.xsp"])
    kernels = ranks[1].tables["kernels"].copy()
    kernels.loc[KERNEL, "name"] = RING.replace("AllReduce", "AllGather")
    Capture(ranks[1].meta, {**ranks[1].tables, "kernels": kernels}).save(tmp_path / "gather.xsp")
    different = (
        "rank 1 has all_gather as number 0 of round 0 where rank 0 has all_reduce as number 0"
    )
    with pytest.raises(xsp.CaptureError, match=different):
        xsp.merge([paths[0], tmp_path / "gather.xsp"])


def test_a_job_without_collectives_says_so(tmp_path: Path) -> None:
    """Ranks that only profile together have tables without collectives, and nobody is called slow
    whom no one waits for.
    """
    place = {"size": 2, "host": "a", "boot": "boot-a"}
    captures = [gpu_capture(rank={"rank": rank, **place}) for rank in range(2)]
    spans = captures[0].tables["spans"]
    slower = (spans["level"] == Level.LAYER) & (spans["detail"] == 1)
    spans.loc[slower, "duration_ns"] += 10_000
    job = xsp.merge(saved(tmp_path, captures))
    assert job.collectives().empty
    assert job.ranks()["waiting_ms"].isna().all()
    assert "no collective of all ranks was recorded" in str(job)
    assert "takes longer" not in str(job)


def test_the_command_prints_and_writes_the_tables(tmp_path: Path, ranks: list[Capture]) -> None:
    """`xsp merge` says the sentences, shows the tables and writes them as JSON."""
    paths = saved(tmp_path, ranks)
    out = tmp_path / "job.json"
    done = CliRunner().invoke(app, ["merge", *map(str, paths), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "rank 1 holds the others up" in done.output
    found = json.loads(out.read_text())
    printed = CliRunner().invoke(app, ["merge", *map(str, paths), "--json"]).stdout
    assert json.loads(printed) == found
    assert [row["rank"] for row in found["ranks"]] == [0, 1, 2]
    assert found["collectives"][0]["bus_gb_per_s"] == pytest.approx(BYTES * 4 / 3 / MOVING_NS)
    table = pd.DataFrame(found["stragglers"])
    assert (table["excess_ms"] > table["excess_ci_ms"]).all()
