"""Traces of other tools become profiles that hold what the trace holds, and say what it
does not.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from typer.testing import CliRunner

import xsp
import xsp.analysis
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.cli.application import app

EXAMPLES = Path(__file__).parent.parent / "examples"
CAPTURES = EXAMPLES / "captures"
NAMES = ("resnet50", "transformer", "train_step")


class Net(nn.Module):
    """A block of two layers and a functional call, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.block(x) + x)
        return output


def recorded(path: Path, work: Callable[[], object], **options: Any) -> xsp.Profile:
    """What torch.profiler records of `work` on the CPU, imported."""
    with profile(activities=[ProfilerActivity.CPU], **options) as prof:
        work()
    prof.export_chrome_trace(str(path))
    return xsp.from_kineto(path)


def layers(prof: xsp.Profile) -> pd.DataFrame:
    """Layers of the tree by name and phase."""
    tree = prof.tree()
    return tree[tree["level"] == "LAYER"].set_index(["name", "phase"])


@pytest.fixture
def model() -> tuple[nn.Module, torch.Tensor]:
    """A model and its input, called once before."""
    net, x = Net(), torch.randn(2, 8)
    net(x).sum().backward()
    return net, x


def test_modules_of_a_trace_with_stacks_are_layers(
    model: tuple[nn.Module, torch.Tensor], tmp_path: Path
) -> None:
    """With Python functions recorded, leaf modules are layers below their modules, and so is an
    operator between.
    """
    net, x = model
    with torch.no_grad():
        prof = recorded(tmp_path / "x.json", lambda: net(x), with_stack=True)
    assert prof.name == "Net_0"
    assert layers(prof)["type"].droplevel("phase").to_dict() == {
        "Sequential_0.Linear_0": "Linear",
        "Sequential_0.ReLU_0": "ReLU",
        "::add": "aten::add",
        "Linear_1": "Linear",
    }
    assert prof.tree().query("level == 'MODULE'")["name"].tolist() == ["Sequential_0"]


def test_backward_work_is_led_to_its_layer(
    model: tuple[nn.Module, torch.Tensor], tmp_path: Path
) -> None:
    """The arrows between forward and backward operators give backward work the name of the layer
    that caused it.
    """
    net, x = model
    prof = recorded(tmp_path / "x.json", lambda: net(x).sum().backward(), with_stack=True)
    backward = layers(prof).xs("backward", level="phase")
    assert {"Net_0.Sequential_0.Linear_0", "Net_0.Sequential_0.ReLU_0", "Net_0.Linear_1"} <= set(
        backward.index
    )
    assert "::AccumulateGrad" in backward.index


def test_operators_are_layers_where_there_are_no_modules(tmp_path: Path) -> None:
    """Without stacks, operators in no other operator are layers, with the program's annotations
    around them.
    """

    def work() -> None:
        with record_function("front"):
            x = torch.ones(4, 4) + 1
        with record_function("back.end: 1"):
            torch.mm(x, x).relu()

    prof = recorded(tmp_path / "x.json", work, record_shapes=True)
    found = layers(prof)
    names = {"front::ones", "front::add", "back:end: 1::mm", "back:end: 1::relu"}
    assert names == set(found.index.get_level_values("name"))
    assert found.loc[("back:end: 1::mm", "forward"), "input_shapes"] == "[[4, 4], [4, 4]]"
    assert set(prof.tree().query("level == 'MODULE'")["name"]) == {"front", "back:end: 1"}


def test_times_are_those_of_the_trace(tmp_path: Path) -> None:
    """A layer's host time is the operator's duration in the trace, to the ns."""
    x = torch.ones(64, 64)
    path = tmp_path / "x.json"
    prof = recorded(path, lambda: torch.mm(x, x))
    text = json.loads(path.read_text(), parse_float=str)
    durations = {e["name"]: e["dur"] for e in text["traceEvents"] if e.get("cat") == "cpu_op"}
    assert layers(prof)["host_ms"].tolist() == [
        pytest.approx(float(durations["aten::mm"]) / 1e3, rel=1e-12)
    ]


def test_profiler_steps_are_runs(model: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    """Each ProfilerStep is a run; a layer of all of them is one layer with an interval over the
    runs.
    """
    net, x = model
    path = tmp_path / "x.json"
    plan = schedule(wait=1, warmup=1, active=4, repeat=1)
    with profile(
        schedule=plan, on_trace_ready=lambda p: p.export_chrome_trace(str(path))
    ) as recorder:
        for _ in range(6):
            net(x)
            recorder.step()
    prof = xsp.from_kineto(path)
    assert len(prof.runs) == 4
    assert prof.runs["latency_ns"].min() <= prof.latency_ms * 1e6 <= prof.runs["latency_ns"].max()
    assert prof.latency_ci_ms > 0
    found = layers(prof)
    assert found.loc[("::linear", "forward"), "calls"] == 1
    assert found["host_ci_ms"][("::linear", "forward")] > 0


def test_any_annotation_can_mark_the_runs(tmp_path: Path) -> None:
    """`runs` names the annotations that are runs; what lies outside of them is said to be
    left out.
    """

    def work() -> None:
        for number in range(3):
            with record_function(f"request {number}"):
                torch.ones(4).add(1)
        torch.ones(4).mul(2)

    path = tmp_path / "x.json"
    recorded(path, work)
    prof = xsp.from_kineto(path, runs="request ")
    assert len(prof.runs) == 3
    assert {"::ones", "::add"} == set(layers(prof).index.get_level_values("name"))
    assert any("outside the 3 runs" in warning for warning in prof.warnings)


def test_missing_levels_have_a_reason(tmp_path: Path) -> None:
    """What the trace does not hold is unavailable, with what would bring it."""
    prof = recorded(tmp_path / "x.json", lambda: torch.ones(4).add(1))
    status = prof.levels.set_index("level")
    assert status["status"].to_dict() == {
        "MODEL": "traced",
        "LAYER": "traced",
        "LIBRARY": "unavailable",
        "KERNEL": "unavailable",
    }
    assert "ProfilerActivity.CUDA" in status["reason"]["KERNEL"]
    assert "as traced" in repr(prof)
    assert any("includes the cost of its tracing" in warning for warning in prof.warnings)


def test_an_import_is_a_capture(tmp_path: Path) -> None:
    """An imported profile is saved, opened and shown like any other, and has no overhead or
    correction to show.
    """
    prof = recorded(tmp_path / "x.json", lambda: torch.ones(4).add(1))
    again = xsp.load(prof.save(tmp_path / "x.xsp"))
    pd.testing.assert_frame_equal(again.tree(), prof.tree())
    assert again.overhead().empty
    assert again.corrected is None


def last_deepest(prof: xsp.Profile) -> pd.DataFrame:
    """Spans of the run that is exported by default."""
    run = prof.runs.loc[prof.runs["rung"] == "M/L/Lib/K", "run"].iloc[-1]
    result: pd.DataFrame = prof.spans[prof.spans["run"] == run]
    return result


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[xsp.Profile, xsp.Profile]]:
    """Each bundled capture, and what comes back of its Kineto trace."""
    folder = tmp_path_factory.mktemp("kineto")
    found = {}
    for name in NAMES:
        prof = xsp.load(CAPTURES / f"h100_{name}.xsp")
        found[name] = prof, xsp.from_kineto(prof.to_chrome(folder / f"{name}.json.gz"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_trace_comes_back_whole(
    name: str, pairs: dict[str, tuple[xsp.Profile, xsp.Profile]]
) -> None:
    """Every span of an H100 run, exported as a Kineto trace and imported, has its name, times,
    stream and parent.
    """
    original, imported = pairs[name]
    tables = []
    for spans in (last_deepest(original), imported.spans):
        names = spans.set_index("span_id")["name"].astype(str)
        shown = spans[["level", "name", "start_ns", "end_ns", "stream", "correlation_id"]].astype(
            {"level": str, "name": str}
        )
        shown["parent"] = names.reindex(spans["parent_id"]).to_numpy()
        tables.append(
            shown.sort_values(["start_ns", "end_ns", "name"], kind="stable", ignore_index=True)
        )
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert imported.lost == 0


@pytest.mark.parametrize("name", NAMES)
def test_kernels_and_their_times_are_equal(
    name: str, pairs: dict[str, tuple[xsp.Profile, xsp.Profile]]
) -> None:
    """Kernel totals by name are equal, and so is each kernel's launch configuration."""
    original, imported = pairs[name]
    totals, shapes = [], []
    launch = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
    for prof, spans in ((original, last_deepest(original)), (imported, imported.spans)):
        kernels = spans[spans["level"] == "KERNEL"]
        totals.append(
            kernels.groupby(kernels["name"].astype(str))["duration_ns"].agg(["sum", "count"])
        )
        table = prof.table("kernels").loc[
            kernels["detail"], ["name", "registers_per_thread", *launch]
        ]
        only = table[(prof.table("kernels").loc[kernels["detail"], "kind"] == "kernel").to_numpy()]
        shapes.append(only.sort_values(only.columns.tolist()).reset_index(drop=True))
    pd.testing.assert_frame_equal(totals[0], totals[1])
    pd.testing.assert_frame_equal(shapes[0], shapes[1], check_dtype=False)


def nodes(prof: xsp.Profile) -> pd.DataFrame:
    """The tree with a row per layer, without the rows for own time."""
    tree = prof.tree(pooled=True)
    return tree[tree["level"] != "OWN"]


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_has_the_same_nodes(
    name: str, pairs: dict[str, tuple[xsp.Profile, xsp.Profile]]
) -> None:
    """Modules, layers, backward work, library calls and kernels stand at the same places of the
    hierarchy.
    """
    original, imported = (nodes(prof).set_index(["path", "phase"]) for prof in pairs[name])
    assert set(imported.index) == set(original.index)
    assert imported.loc[original.index, "kernels"].tolist() == original["kernels"].tolist()


def test_analyses_work_on_an_import(pairs: dict[str, tuple[xsp.Profile, xsp.Profile]]) -> None:
    """Layer latencies add up to the run's latency, and kernels by name to its GPU time."""
    _, imported = pairs["resnet50"]
    timeline = imported.device_timeline()
    total = timeline["busy_ms"].sum() + timeline["idle_before_ms"].sum()
    assert total == pytest.approx(imported.latency_ms, rel=1e-6)
    by_name = xsp.analysis.kernels_by_name(imported)
    kernels = imported.spans[imported.spans["level"] == "KERNEL"]
    is_kernel = (imported.table("kernels")["kind"] == "kernel").to_numpy()[kernels["detail"]]
    assert by_name["latency_ms"].sum() == pytest.approx(
        kernels.loc[is_kernel, "duration_ns"].sum() / 1e6
    )


def test_a_gpu_trace_of_torch_profiler_equals_a_profile_of_the_same_model() -> None:
    """Both saw an H100 run the same kernels in the same order, under as many convolutions, within 2
    % of the time.
    """
    theirs = xsp.from_kineto(EXAMPLES / "traces" / "h100_resnet50.torch_profiler.json.gz")
    ours = xsp.load(CAPTURES / "h100_resnet50.xsp")
    sequences = [kernel_sequence(prof._capture.tables) for prof in (theirs, ours)]
    names = [sequence["name"].astype(str).tolist() for sequence in sequences]
    assert names[0] == names[1]
    assert len(names[0]) == 347
    times = [prof.tree()["device_ms"].iloc[0] for prof in (theirs, ours)]
    assert times[0] == pytest.approx(times[1], rel=0.02)
    for fact in ("gpu", "cuda", "compute_capability", "multiprocessors"):
        assert theirs.environment[fact] == ours.environment[fact]
    types = [
        xsp.analysis.layer_type_distribution(prof).set_index("type")["count"]
        for prof in (theirs, ours)
    ]
    assert types[0]["aten::conv2d"] == types[1]["Conv2d"] == 53


def kernel_event(correlation: int, ts: float = 20.0, **arguments: Any) -> dict[str, Any]:
    """A kernel as Kineto writes it."""
    known = {
        "device": 0,
        "context": 1,
        "stream": 7,
        "correlation": correlation,
        "grid": [1, 1, 1],
        "block": [32, 1, 1],
    }
    place = {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": ts, "dur": 5.0}
    return place | {"args": known | arguments}


def host_event(category: str, name: str, ts: float, dur: float, **arguments: Any) -> dict[str, Any]:
    """A host event as Kineto writes it."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 9,
        "tid": 9,
        "ts": ts,
        "dur": dur,
        "args": arguments,
    }


def test_kernels_without_a_launch_are_counted(tmp_path: Path) -> None:
    """A kernel whose launch is not in the trace is in no table, is counted as lost, and a warning
    says so.
    """
    events = [
        host_event("cpu_op", "aten::mm", 0, 30),
        host_event("cuda_runtime", "cudaLaunchKernel", 5, 2, correlation=1),
        kernel_event(1),
        kernel_event(2, 26.0),
    ]
    (tmp_path / "x.json").write_text(json.dumps({"traceEvents": events}))
    prof = xsp.from_kineto(tmp_path / "x.json")
    assert prof.kernel_count == 1
    assert prof.lost == 1
    assert any(
        warning.startswith("1 device activities had no launch record") for warning in prof.warnings
    )


def test_kernels_without_a_correlation_id_have_no_launch(tmp_path: Path) -> None:
    """Neither a kernel nor an API call without a correlation id is joined to another that has none
    either.
    """
    kernel = kernel_event(1, 26.0)
    del kernel["args"]["correlation"]
    events = [
        host_event("cpu_op", "aten::mm", 0, 30),
        host_event("cuda_runtime", "cudaLaunchKernel", 5, 2, correlation=1),
        host_event("cuda_runtime", "cudaMalloc", 8, 2),
        kernel_event(1),
        kernel,
    ]
    (tmp_path / "x.json").write_text(json.dumps({"traceEvents": events}))
    prof = xsp.from_kineto(tmp_path / "x.json")
    assert (prof.kernel_count, prof.lost) == (1, 1)


def test_events_that_end_before_they_start_are_counted(tmp_path: Path) -> None:
    """Negative durations make no time negative or shorter: their events are left out, and a warning
    counts them.
    """
    events = [
        host_event("cpu_op", "aten::mm", 0, 30),
        host_event("cpu_op", "aten::add", 10, -10),
        host_event("cuda_runtime", "cudaLaunchKernel", 5, 2, correlation=1),
        kernel_event(1) | {"dur": -15.0},
    ]
    (tmp_path / "x.json").write_text(json.dumps({"traceEvents": events}))
    prof = xsp.from_kineto(tmp_path / "x.json")
    assert prof.latency_ms == pytest.approx(0.03)
    assert layers(prof).index.tolist() == [("::mm", "forward")]
    assert any(
        warning.startswith("2 events of the trace end before they start")
        for warning in prof.warnings
    )


def test_runs_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """A misspelt `runs` is an error, not a profile in which the whole trace is one run."""
    (tmp_path / "x.json").write_text(json.dumps([host_event("cpu_op", "aten::mm", 0, 30)]))
    with pytest.raises(
        xsp.CaptureError, match=r"no annotation in .* has a name that begins with 'request'"
    ):
        xsp.from_kineto(tmp_path / "x.json", runs="request")


def test_a_bare_list_of_events_is_a_trace_too(tmp_path: Path) -> None:
    """Chrome's format allows the list alone; operators that begin together still nest."""
    events = [
        host_event("cpu_op", "aten::linear", 0, 30),
        host_event("cpu_op", "aten::addmm", 0, 20),
    ]
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(events).encode()))
    prof = xsp.from_kineto(tmp_path / "x.json.gz")
    assert layers(prof).index.tolist() == [("::linear", "forward")]
    assert prof.name == "x"


def event(category: str, name: str, start: float, duration: float, **more: Any) -> dict[str, Any]:
    """A complete event as Kineto writes it."""
    place = {"pid": more.pop("pid", 1), "tid": more.pop("tid", 1)}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "ts": start,
        "dur": duration,
        **place,
        "args": more,
    }


def test_categories_of_old_releases_are_read(tmp_path: Path) -> None:
    """Traces of PyTorch 1.8 to 1.12, which named the categories otherwise, hold the same."""
    document = [
        event("Operator", "aten::add", 0, 100),
        event("Runtime", "cudaLaunchKernel", 10, 5, correlation=5),
        event("Kernel", "add", 20, 30, pid=0, correlation=5, stream=7, device=0, context=1),
    ]
    (tmp_path / "x.json").write_text(json.dumps(document))
    prof = xsp.from_kineto(tmp_path / "x.json")
    assert nodes(prof)["path"].tolist() == ["x", "x/::add", "x/::add/add"]
    assert nodes(prof)["device_ms"].tolist() == pytest.approx([0.03] * 3)


def test_one_process_of_a_trace_is_taken(tmp_path: Path) -> None:
    """Threads of two processes can have the same number: one process is imported, and a warning
    says so.
    """
    document = [
        event("cpu_op", "aten::a", 0, 100, pid=1),
        event("cpu_op", "aten::b", 10, 20, pid=2),
        event("cpu_op", "aten::c", 30, 20, pid=2),
        event("cuda_runtime", "cudaLaunchKernel", 40, 5, pid=1, correlation=5),
    ]
    (tmp_path / "x.json").write_text(json.dumps(document))
    prof = xsp.from_kineto(tmp_path / "x.json")
    assert prof.tree()["name"].tolist() == ["x", "::a"]
    assert any("2 processes; only 1 is taken" in warning for warning in prof.warnings)


def test_control_characters_in_names_are_read(tmp_path: Path) -> None:
    """A name with a tab in it, which JSON does not allow, does not make the trace unreadable."""
    (tmp_path / "x.json").write_text(
        json.dumps([event("cpu_op", "a<TAB>b", 0, 100)]).replace("<TAB>", "\t")
    )
    assert xsp.from_kineto(tmp_path / "x.json").tree()["name"].tolist() == ["x", "::a\tb"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"not json", "is not JSON, or was cut short"),
        (gzip.compress(b'{"traceEvents": []}', mtime=0)[:-9], "is not JSON, or was cut short"),
        (b'{"other": 1}', "has no list `traceEvents`"),
        (b'{"traceEvents": []}', "holds no operators, annotations or CUDA API calls"),
        (
            b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a", "tid": 1, "dur": 1}]}',
            "an event of .* lacks",
        ),
        (
            b'[{"ph": "X", "cat": "cpu_op", "name": "a", "tid": 1, "ts": 1, "dur": 1, "args": []}]',
            "an event of .* lacks",
        ),
    ],
    ids=["missing", "text", "cut short", "other JSON", "no events", "no timestamp", "no arguments"],
)
def test_a_file_that_is_no_kineto_trace_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """Missing, damaged and foreign files give a CaptureError that says what is wrong and what to
    give.
    """
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(xsp.CaptureError, match=message):
        xsp.from_kineto(path)


NSYS_TABLES = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
  globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER,
  globalPid INTEGER, demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER,
  launchType INTEGER, registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL,
  gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,
  staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
  bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL, srcKind INTEGER, dstKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
  value INTEGER NOT NULL, bytes INTEGER NOT NULL, memKind INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
  category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER,
  domainId INTEGER);
CREATE TABLE CUBLAS_EVENTS (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
  globalTid INTEGER, nameId INTEGER NOT NULL);
CREATE TABLE TARGET_INFO_GPU (name TEXT, totalMemory INTEGER, smCount INTEGER, computeMajor INTEGER,
  computeMinor INTEGER);
"""
PROCESS = 77 << 24
THREAD = PROCESS + 78


def nsys_export(path: Path, *, processes: tuple[int, ...] = (PROCESS,)) -> Path:
    """Two iterations of the layers `conv` and `head.fc`: a copy, a set, two kernels and a cuBLAS
    call each.
    """
    strings = {
        1: "cudaLaunchKernel_v7000",
        2: "cudaMemcpyAsync_ptsz_v7000",
        3: "cudaMemsetAsync_v3020",
        4: "cuLaunchKernel",
    }
    strings |= {10: "void conv<float>(float*)", 11: "gemm", 20: "head.fc", 30: "cublasGemmEx"}
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(NSYS_TABLES)
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", strings.items())
        db.execute(
            "INSERT INTO TARGET_INFO_GPU VALUES ('NVIDIA H100 80GB HBM3', 85017493504, 132, 9, 0)"
        )
        for place, process in enumerate(processes):
            for step in range(2 - place):
                _iteration(db, process, 1_000_000 * (step + 1), 10 * (2 * place + step) + 1)
    return path


def _iteration(db: sqlite3.Connection, process: int, start: int, first: int) -> None:
    thread = process + 78
    ranges = [
        (0, 900, "iteration", None),
        (10, 400, "conv", None),
        (410, 800, None, 20),
        (420, None, "open", None),
    ]
    for begin, end, text, number in ranges:
        row = (
            start + begin * 1000,
            None if end is None else start + end * 1000,
            59,
            text,
            thread,
            number,
            0,
        )
        db.execute(
            "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid, textId, domainId) "
            "VALUES (?,?,?,?,?,?,?)",
            row,
        )
    # Not a push/pop range.
    db.execute(
        "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES (0, 9, 60, "
        "'start/end', ?)",
        (thread,),
    )
    for place, (begin, name) in enumerate([(20, 2), (100, 3), (200, 1), (500, 4)]):
        bounds = (start + begin * 1000, start + (begin + 10) * 1000)
        db.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (*bounds, 0, thread, first + place, name, 0),
        )
    at = [start + begin * 1000 for begin in (30, 50, 110, 120, 210, 610, 620, 850)]
    db.execute(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?,?,0,1,7,?,?,4096,1,0,2)",
        (at[0], at[1], first, process),
    )
    db.execute(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMSET VALUES (?,?,0,1,7,?,?,0,64,2)",
        (at[2], at[3], first + 1, process),
    )
    kernel = (
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES "
        "(?,?,0,1,NULL,7,?,?,?,?,?,0,40,8,2,1,128,1,1,1024,2048,NULL)"
    )
    db.execute(kernel, (at[4], at[5], first + 2, process, 10, 10, 10))
    db.execute(kernel, (at[6], at[7], first + 3, process, 11, 11, 11))
    db.execute(
        "INSERT INTO CUBLAS_EVENTS VALUES (?, ?, 0, ?, 30)",
        (start + 490_000, start + 600_000, thread),
    )


def test_an_export_of_nsys_is_a_profile(tmp_path: Path) -> None:
    """Kernels hang below library calls, these below NVTX ranges; sizes, shapes and names are those
    of the export.
    """
    prof = xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"), runs="iteration")
    assert len(prof.runs) == 2
    assert set(prof.levels["status"]) == {"traced"}
    tree = nodes(prof).set_index("path")
    assert tree["calls"].to_dict().keys() == {
        "report",
        "report/::conv",
        "report/::conv/memcpy HtoD",
        "report/::conv/memset",
        "report/::conv/void conv<float>(float*)",
        "report/::head.fc",
        "report/::head.fc/cublasGemmEx",
        "report/::head.fc/cublasGemmEx/gemm",
    }
    assert tree.loc["report", "host_ms"] == pytest.approx(0.9)
    assert tree.loc["report/::conv", "device_ms"] == pytest.approx(0.02 + 0.01 + 0.4)
    kernels = prof.table("kernels").set_index("name")
    assert kernels.loc["memcpy HtoD", "bytes"] == 4096
    launched = ["registers_per_thread", "grid_x", "block_x", "dynamic_shared_bytes"]
    assert list(kernels.loc["gemm", launched]) == [
        40,
        8,
        128,
        2048,
    ]
    assert set(prof.table("api_calls")["name"]) == {
        "cudaLaunchKernel",
        "cudaMemcpyAsync",
        "cudaMemsetAsync",
        "cuLaunchKernel",
    }
    assert prof.environment["compute_capability"] == "9.0"
    assert prof.lost == 0


def test_without_runs_an_export_is_one_run(tmp_path: Path) -> None:
    """The whole trace is one run, and the outer range is a module around its layers."""
    prof = xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"))
    assert len(prof.runs) == 1
    assert prof.name == "iteration"
    assert prof.kernel_count == 8


def test_one_process_of_an_export_is_taken(tmp_path: Path) -> None:
    """Of several processes the one with the most GPU activities is imported, and a warning names
    it.
    """
    path = nsys_export(tmp_path / "report.sqlite", processes=(PROCESS, 99 << 24))
    prof = xsp.from_nsys(path, runs="iteration")
    assert len(prof.runs) == 2
    assert any("2 processes; only 77" in warning for warning in prof.warnings)


def changed_export(path: Path, *statements: str) -> Path:
    """An export in which these statements changed something."""
    nsys_export(path)
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
    return path


def test_graphs_that_were_recorded_as_a_whole_are_counted(tmp_path: Path) -> None:
    """Without `--cuda-graph-trace=node` the kernels of CUDA graphs are missing, and a warning
    counts the launches.
    """
    graphs = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
    path = changed_export(
        tmp_path / "report.sqlite",
        f"CREATE TABLE {graphs} (start INTEGER, end INTEGER, correlationId INTEGER, globalPid "
        "INTEGER)",
        f"INSERT INTO {graphs} VALUES (1300000, 1400000, 2, {PROCESS}), (2300000, 2400000, 12, "
        f"{PROCESS})",
    )
    warnings = xsp.from_nsys(path).warnings
    assert any(
        warning.startswith("2 launches of CUDA graphs were recorded as a whole")
        for warning in warnings
    )


def test_operators_of_emit_nvtx_are_the_same_layers_in_every_run(tmp_path: Path) -> None:
    """Numbers that PyTorch writes behind operators' names part no layers; operators inside
    operators are none.
    """
    names = (
        "aten::linear, seq = {0}, op_id = {0}, sizes = [[2, 8], [], [4, 8]]",
        "aten::addmm, op_id = {0}",
    )
    backward = (
        "autograd::engine::evaluate_function: AddmmBackward0, seq = {0}, op_id = {0}, input_op_ids "
        "= [(1,0)]"
    )
    places = [
        (10, 400, names[0]),
        (20, 390, names[1]),
        (410, 800, backward),
        (5, 850, "my block, op_id = {0}"),
    ]
    path = nsys_export(tmp_path / "report.sqlite")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM NVTX_EVENTS WHERE text IS NOT 'iteration'")
        for step, start in enumerate((1_000_000, 2_000_000)):
            for begin, end, text in places:
                row = (start + begin * 1000, start + end * 1000, text.format(step + 7), THREAD)
                db.execute(
                    "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES "
                    "(?,?,59,?,?)",
                    row,
                )
    prof = xsp.from_nsys(path, runs="iteration")
    assert prof.name == "my block"
    known = prof.table("layers").query("kind != 'none'").set_index("name")
    assert known["type"].to_dict() == {
        "::linear": "aten::linear",
        "::AddmmBackward0": "AddmmBackward0",
    }
    assert known["phase"].to_dict() == {"::linear": "forward", "::AddmmBackward0": "backward"}
    assert json.loads(known["input_shapes"]["::linear"]) == [[2, 8], [4, 8]]
    assert prof.tree().query("level == 'LAYER'")["calls"].tolist() == [1, 1]
    assert prof.kernel_count == 4


def test_values_that_nsys_did_not_know_are_unknown(tmp_path: Path) -> None:
    """NULL for a correlation id joins nothing, NULL for a fact about the GPU leaves the
    fact out.
    """
    path = changed_export(
        tmp_path / "report.sqlite",
        "UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET correlationId = NULL WHERE nameId = 1",
        "UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET correlationId = NULL",
        "UPDATE TARGET_INFO_GPU SET totalMemory = NULL",
    )
    prof = xsp.from_nsys(path)
    assert (prof.kernel_count, prof.lost) == (4, 4)
    assert "gpu_memory_bytes" not in prof.environment
    assert prof.environment["multiprocessors"] == 132


def test_an_export_without_kernels_says_so(tmp_path: Path) -> None:
    """Tables that nsys did not write are levels that are not there."""
    path = nsys_export(tmp_path / "report.sqlite")
    with closing(sqlite3.connect(path)) as db, db:
        for table in (
            "CUPTI_ACTIVITY_KIND_KERNEL",
            "CUPTI_ACTIVITY_KIND_MEMCPY",
            "CUPTI_ACTIVITY_KIND_MEMSET",
            "CUBLAS_EVENTS",
        ):
            db.execute(f"DROP TABLE {table}")
    prof = xsp.from_nsys(path)
    missing = prof.levels[prof.levels["status"] == "unavailable"].set_index("level")["reason"]
    assert sorted(missing.index) == ["KERNEL", "LIBRARY"]
    assert "--trace=cuda" in missing["KERNEL"]
    assert prof.tree()["host_ms"].notna().all()


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    """Missing files, files that are no database, foreign databases and unknown runs give an error
    with a way out.
    """
    with pytest.raises(xsp.CaptureError, match="there is no file"):
        xsp.from_nsys(tmp_path / "x.sqlite")
    (tmp_path / "text.sqlite").write_text(
        "no database, however long this text is made: it has no header"
    )
    with pytest.raises(xsp.CaptureError, match="is not an SQLite export of Nsight Systems"):
        xsp.from_nsys(tmp_path / "text.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(xsp.CaptureError, match="none of the tables"):
        xsp.from_nsys(tmp_path / "other.sqlite")
    changed = changed_export(
        tmp_path / "changed.sqlite", "ALTER TABLE NVTX_EVENTS DROP COLUMN eventType"
    )
    with pytest.raises(
        xsp.CaptureError, match=r"a table of .* lacks what Nsight Systems writes .*eventType"
    ):
        xsp.from_nsys(changed)
    with pytest.raises(
        xsp.CaptureError, match="no NVTX range in the export has a name that begins with 'step'"
    ):
        xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"), runs="step")


def test_command_line_imports_both(tmp_path: Path) -> None:
    """`xsp import` tells the formats apart by their content and writes a capture beside
    the trace.
    """
    export = nsys_export(tmp_path / "report.sqlite")
    done = CliRunner().invoke(app, ["import", str(export), "--runs", "iteration"])
    assert done.exit_code == 0
    assert xsp.load(tmp_path / "report.xsp").kernel_count == 4
    trace = xsp.load(CAPTURES / "h100_transformer.xsp").to_chrome(tmp_path / "trace.json.gz")
    assert CliRunner().invoke(app, ["import", str(trace)]).exit_code == 0
    assert xsp.load(tmp_path / "trace.xsp").name == "GPT2"
    again = CliRunner().invoke(app, ["import", str(trace)])
    assert isinstance(again.exception, xsp.XspError)
    assert "--force" in str(again.exception)


def test_a_report_of_nsys_is_not_its_export(tmp_path: Path) -> None:
    """`xsp import` of a report says how to export it."""
    (tmp_path / "report.nsys-rep").write_bytes(b"\0")
    found = CliRunner().invoke(app, ["import", str(tmp_path / "report.nsys-rep")]).exception
    assert isinstance(found, xsp.XspError)
    assert "nsys export --type sqlite report.nsys-rep" in str(found)
