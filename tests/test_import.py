"""Traces of other tools become profiles that hold what the trace holds, and say what it
does not.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from imported import Net, layers, nodes, recorded
from torch import nn
from torch.profiler import profile, record_function, schedule

import xsp
import xsp.analysis
from xsp.analysis.spans.sequence import kernel_sequence

EXAMPLES = Path(__file__).parent.parent / "examples"
CAPTURES = EXAMPLES / "captures"
NAMES = ("resnet50", "transformer", "train_step")


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
