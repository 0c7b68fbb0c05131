"""Perfetto traces of the bundled captures, read by Perfetto's own protobuf classes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture, gpu_profile
from perfetto_reader import Read, Slice, read

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.file import TABLES, Capture
from xsp.export.trace.perfetto import FULL_NAME

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
NAMES = ("resnet50", "transformer", "train_step")
LEVELS = ("MODEL", "LAYER", "LIBRARY", "KERNEL")


@pytest.fixture(scope="module")
def traces(
    profiles: dict[str, xsp.Profile], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Read]:
    """Traces of their last deepest runs."""
    folder = tmp_path_factory.mktemp("perfetto")
    return {
        name: read(prof.to_perfetto(folder / f"{name}.pftrace")) for name, prof in profiles.items()
    }


def last_deepest(prof: xsp.Profile) -> pd.DataFrame:
    """Spans of the run that is exported by default."""
    run = prof.runs.loc[prof.runs["rung"] == "M/L/Lib/K", "run"].iloc[-1]
    result: pd.DataFrame = prof.spans[prof.spans["run"] == run]
    return result


@pytest.mark.parametrize("name", NAMES)
def test_slices_are_the_spans(
    name: str, profiles: dict[str, xsp.Profile], traces: dict[str, Read]
) -> None:
    """Every span of the run is one slice with its name, level, start and end, and no other slice
    claims a level.
    """
    spans, found = last_deepest(profiles[name]), traces[name].spans()
    assert sorted(found) == spans.index.tolist()
    for row, level, label, start, end in spans[["level", "name", "start_ns", "end_ns"]].itertuples(
        name=None
    ):
        one = found[row]
        told = one.arguments.get(FULL_NAME, one.name)
        assert (one.category, told, one.start_ns, one.end_ns) == (level, label, start, end)
    of_levels = Counter(one.category for one in traces[name].slices if one.category in LEVELS)
    assert of_levels == Counter(spans["level"].astype(str))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corrected", [False, True])
def test_every_child_nests_in_its_parent(
    name: str, corrected: bool, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """On a track a slice lies inside the slice it is drawn below, and host spans lie inside their
    parents' slices.
    """
    prof = profiles[name]
    trace = read(prof.to_perfetto(tmp_path / "x.pftrace", corrected=corrected))
    spans, found = last_deepest(prof), trace.spans()
    row_of = dict(zip(spans["span_id"], spans.index, strict=True))
    for row, level, parent in spans[["level", "parent_id"]].itertuples(name=None):
        if level in ("LAYER", "LIBRARY"):
            child, above = found[row], found[row_of[parent]]
            assert above.start_ns <= child.start_ns <= child.end_ns <= above.end_ns
            if child.track == above.track:
                assert child.depth > above.depth


@pytest.mark.parametrize("name", NAMES)
def test_layers_without_length_lie_beside_their_neighbours(
    name: str, profiles: dict[str, xsp.Profile], traces: dict[str, Read], tmp_path: Path
) -> None:
    """The correction leaves layers without length; none is drawn inside the layer that came after
    it.
    """
    corrected = read(profiles[name].to_perfetto(tmp_path / "x.pftrace", corrected=True))
    depth = {row: one.depth for row, one in corrected.spans().items() if one.category == "LAYER"}
    recorded = traces[name].spans()
    assert depth == {row: recorded[row].depth for row in depth}


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_track_never_overlap(name: str, traces: dict[str, Read]) -> None:
    """What a track shows is nested or apart; on a stream of the GPU it is apart."""
    by_track: dict[int, list[Slice]] = {}
    for one in traces[name].slices:
        by_track.setdefault(one.track, []).append(one)
    for slices in by_track.values():
        open_: list[int] = []
        for one in sorted(slices, key=lambda each: (each.start_ns, each.depth)):
            while open_ and open_[-1] <= one.start_ns:
                open_.pop()
            assert one.depth == 0 or one.category != "KERNEL"
            assert not open_ or one.end_ns <= open_[-1]
            open_.append(one.end_ns)


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_has_an_arrow_from_its_launch(
    name: str, profiles: dict[str, xsp.Profile], traces: dict[str, Read]
) -> None:
    """Exactly one arrow ends at each device activity, and it leaves the API call with the same
    correlation id.
    """
    sources = {flow: one for one in traces[name].slices for flow in one.leaving}
    kernels = [one for one in traces[name].slices if one.category == "KERNEL"]
    assert len(kernels) == profiles[name].kernel_count
    for one in kernels:
        (flow,) = one.arriving
        launch = sources[flow]
        assert launch.category == "CUDA API"
        assert launch.arguments["correlation_id"] == one.arguments["correlation_id"]
        assert launch.start_ns - 1_000 <= one.start_ns


def test_backward_layers_have_an_arrow_from_their_forward_layer(traces: dict[str, Read]) -> None:
    """An arrow leads from the forward layer to each backward layer of the same name, and to nothing
    else.
    """
    slices = traces["train_step"].slices
    sources = {flow: one for one in slices for flow in one.leaving}
    backward = [
        one for one in slices if one.category == "LAYER" and one.arguments.get("kind") == "autograd"
    ]
    assert len(backward) == 235
    for one in backward:
        source = sources[one.arriving[0]]
        assert (source.name, source.arguments["phase"]) == (one.name, "forward")
    arrived = [one for one in slices if one.arriving]
    assert {one.category for one in arrived} == {"KERNEL", "LAYER"}


def test_tracks_are_threads_and_streams(traces: dict[str, Read]) -> None:
    """A training step has its main thread, autograd's thread and the stream; where kernels overlap,
    one track more.
    """
    found = traces["train_step"]
    with_slices = {one.track for one in found.slices}
    names = [found.tracks[track].name for track in sorted(with_slices)]
    assert names[0] == "main thread"
    assert names[1:] == ["autograd thread 2", "stream 7", "stream 7, overlapping (2)"]
    groups = {found.tracks[found.tracks[track].parent_uuid].name for track in with_slices}
    title = "target.<locals>.step (run 118, M/L/Lib/K)"
    assert groups == {f"{title}: host", f"{title}: GPU 0", "stream 7"}


def test_process_and_threads_are_described(traces: dict[str, Read]) -> None:
    """Perfetto fills its tables `process` and `thread` from descriptors: the run is a process, each
    of its threads has a name and a number of its own, and streams of the GPU are none of them.
    """
    described = traces["train_step"].tracks.values()
    (process,) = [one.process for one in described if one.HasField("process")]
    assert process.process_name == "target.<locals>.step (run 118, M/L/Lib/K)"
    threads = [one.thread for one in described if one.HasField("thread")]
    assert [one.thread_name for one in threads] == ["main thread", "autograd thread 2"]
    assert len({one.tid for one in threads}) == 2
    assert {one.pid for one in threads} == {process.pid}
    streams = [one for one in described if one.name.startswith("stream")]
    assert len(streams) == 2
    assert not any(one.HasField("thread") for one in streams)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_have_short_names_and_keep_the_whole_one(
    name: str, profiles: dict[str, xsp.Profile], traces: dict[str, Read]
) -> None:
    """A kernel's slice has a short name that no other kernel has, and its full name beside it."""
    spans, found = last_deepest(profiles[name]), traces[name].spans()
    full = spans.loc[spans["level"] == "KERNEL", "name"].astype(str)
    shown = {row: found[row].name for row in full.index}
    told = {row: found[row].arguments.get(FULL_NAME, found[row].name) for row in full.index}
    assert told == full.to_dict()
    assert len(set(shown.values())) == full.nunique()
    assert not any("::" in short for short in shown.values())


def test_gpu_counters_follow_the_kernels(
    profiles: dict[str, xsp.Profile], traces: dict[str, Read]
) -> None:
    """One counter is how many activities run at a time, and the time in which it is not zero is the
    GPU's busy time; another is how many were launched and wait. Both end at zero.
    """
    found = traces["train_step"]
    by_name = {found.tracks[track].name: values for track, values in found.counters.items()}
    kernels = [one for one in found.slices if one.category == "KERNEL"]
    busy = by_name["GPU busy: activities running"]
    instants, running = (np.array(each) for each in zip(*busy, strict=True))
    counted = int(np.diff(instants)[running[:-1] > 0].sum())
    assert counted == union_length([(one.start_ns, one.end_ns) for one in kernels])
    waiting = np.array(by_name["queue: launched and not yet running"])[:, 1]
    assert waiting.min() == 0
    assert waiting.max() > 1
    assert (running[-1], waiting[-1]) == (0, 0)


def union_length(intervals: list[tuple[int, int]]) -> int:
    """Length of the union of intervals, one by one."""
    total, until = 0, 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def test_corrected_traces_have_no_queue(profiles: dict[str, xsp.Profile], tmp_path: Path) -> None:
    """The correction gives no launches, so that a corrected trace does not say what waits."""
    trace = read(profiles["transformer"].to_perfetto(tmp_path / "x.pftrace", corrected=True))
    names = {trace.tracks[track].name for track in trace.counters}
    assert "GPU busy: activities running" in names
    assert not any(name.startswith("queue") for name in names)


def test_modules_enclose_their_layers(
    profiles: dict[str, xsp.Profile], traces: dict[str, Read]
) -> None:
    """ResNet-50's stages and blocks are slices around exactly the layers in them."""
    slices = traces["resnet50"].slices
    modules = {one.name: one for one in slices if one.category == "MODULE"}
    blocks = {
        f"layer{i}.{j}{part}"
        for i, n in enumerate((3, 4, 6, 3), 1)
        for j in range(n)
        for part in [""]
    }
    downsampling = {f"layer{i}.0.downsample" for i in range(1, 5)}
    assert set(modules) == {f"layer{i}" for i in range(1, 5)} | blocks | downsampling
    layers = profiles["resnet50"].table("layers").set_index("name")["module"]
    for one in slices:
        if one.category == "LAYER":
            inside = {
                name
                for name, m in modules.items()
                if m.start_ns <= one.start_ns and one.end_ns <= m.end_ns
            }
            path = str(np.atleast_1d(layers.loc[one.name])[0]).split(".")
            assert inside == {".".join(path[: i + 1]) for i in range(len(path)) if path != [""]}


def test_modules_that_are_called_in_turns_are_left_out(tmp_path: Path) -> None:
    """A module whose calls cannot be told apart by its layers has no slice, rather than a wrong
    one.
    """
    capture = gpu_capture()
    capture.tables["modules"].loc[capture.tables["modules"]["name"] == "block", "calls"] = 2
    trace = read(xsp.Profile(capture).to_perfetto(tmp_path / "x.pftrace"))
    assert [one for one in trace.slices if one.category == "MODULE"] == []


def test_arguments_are_annotations(traces: dict[str, Read]) -> None:
    """Shapes, decoded library arguments and launch configurations can be read in the trace."""
    slices = traces["resnet50"].slices
    layer = next(one for one in slices if one.category == "LAYER" and one.name == "conv1")
    assert layer.arguments["input_shapes"] == [[32, 3, 224, 224]]
    assert layer.arguments["type"] == "Conv2d"
    convolution = next(one for one in slices if one.name == "cudnnBackendExecute")
    assert convolution.arguments["operations"][0]["W"]["dims"] == [64, 3, 7, 7]
    assert convolution.arguments["flops"] == 2 * 32 * 64 * 112 * 112 * 3 * 7 * 7
    kernel = next(one for one in slices if one.arguments.get("kind") == "kernel")
    assert kernel.arguments["block"] == [256, 1, 1]
    model = next(one for one in slices if one.category == "MODEL")
    assert "H100" in model.arguments["environment"]["gpu"]
    assert model.arguments["rung"] == "M/L/Lib/K"


def test_numbers_that_a_format_has_no_place_for_are_text(tmp_path: Path) -> None:
    """An argument that is no number of JSON, or beyond 64 bits, is written as text and spoils no
    trace.
    """
    prof = xsp.Profile(gpu_capture())
    tables = prof.raw_tables(*TABLES)
    odd = json.dumps({"alpha": float("nan"), "seed": 2**64 - 1})
    changed = Capture(
        prof._capture.meta,
        tables | {"library_calls": tables["library_calls"].assign(arguments=odd)},
    )
    trace = read(xsp.Profile(changed).to_perfetto(tmp_path / "x.pftrace"))
    calls = [one.arguments for one in trace.slices if one.category == "LIBRARY"]
    assert [(one["alpha"], one["seed"]) for one in calls] == [("NaN", str(2**64 - 1))] * len(calls)
    chrome = xsp.Profile(changed).to_chrome(tmp_path / "x.json").read_text()
    assert "NaN" in str(json.loads(chrome, parse_constant=pytest.fail))


def test_counters(profiles: dict[str, xsp.Profile], traces: dict[str, Read]) -> None:
    """Memory follows the layers, the SM clock is the one read at the end of the round."""
    found = traces["resnet50"]
    by_name = {found.tracks[track].name: values for track, values in found.counters.items()}
    memory = [value for _, value in by_name["GPU memory allocated, peak of each layer"]]
    assert max(memory) == profiles["resnet50"].table("layers")["peak_bytes"].max()
    clocks = {value for _, value in by_name["SM clock at the end of the round"]}
    assert clocks == {int(profiles["resnet50"].gpu_states["sm_clock_mhz"].iloc[-1])}


def test_hardware_counters_are_on_the_kernel_they_were_measured_on(tmp_path: Path) -> None:
    """The counters of a position in launch order are annotations of the kernel there, if it is the
    same kernel.
    """
    capture = gpu_capture()
    counters = pd.DataFrame(
        {"position": [1, 2], "kernel": [1, 0], "sample": [1, 0], "dram__bytes_read.sum": [7.0, 8.0]}
    )
    with_counters = Capture(capture.meta, capture.tables | {"counters": counters})
    trace = read(xsp.Profile(with_counters).to_perfetto(tmp_path / "x.pftrace"))
    counted = {
        one.arguments.get(FULL_NAME, one.name): one.arguments["dram__bytes_read.sum"]
        for one in trace.slices
        if "dram__bytes_read.sum" in one.arguments
    }
    assert counted == {"sm90_xmma_fprop_implicit_gemm": 7.0}


@pytest.mark.parametrize("name", NAMES)
def test_counters_find_every_kernel_of_a_run(
    name: str, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """Positions here are those of the kernel sequence, by which counters are collected and
    analysed.
    """
    prof = profiles[name]
    tables = prof.raw_tables(*TABLES)
    sequence = kernel_sequence(tables)
    counters = sequence[["position", "kernel"]].assign(
        sample=0, metric=sequence["position"].astype(float)
    )
    meta = {"name": name, "environment": {}, "warnings": [], "levels": []}
    capture = Capture(meta | {"trace": {}}, tables | {"counters": counters})
    found = read(xsp.Profile(capture).to_perfetto(tmp_path / "x.pftrace"))
    counted = [
        one.arguments["metric"] for one in found.slices if one.arguments.get("kind") == "kernel"
    ]
    assert sorted(counted) == counters["metric"].tolist()


def test_the_caller_chooses_run_and_rung(profiles: dict[str, xsp.Profile], tmp_path: Path) -> None:
    """A rung gives its last run, a number that run; a trace of rung M/L has no kernels."""
    prof = profiles["transformer"]
    choices: list[tuple[dict[str, Any], int]] = [({"rung": "M/L"}, 237), ({"run": 5}, 5)]
    for choice, run in choices:
        spans = prof.spans[prof.spans["run"] == run]
        found = read(prof.to_perfetto(tmp_path / "x.pftrace", **choice)).spans()
        assert sorted(found) == spans.index.tolist()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"run": 240}, "no run 240: runs are numbered 0 to 239"),
        ({"rung": "M/K"}, "no rung 'M/K' in this profile; its rungs are"),
        ({"run": 236, "rung": "M/L"}, "run 236 is of rung M, not M/L"),
        (
            {"rung": "M/L", "corrected": True},
            "only the deepest rung, M/L/Lib/K, has corrected times",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_refused(
    choice: dict[str, Any], message: str, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """Runs and rungs that are not there, and times that do not exist, give an error that says what
    there is.
    """
    with pytest.raises(xsp.XspError, match=message):
        profiles["transformer"].to_perfetto(tmp_path / "x.pftrace", **choice)
    assert list(tmp_path.iterdir()) == []


def test_corrected_times_of_a_profile_without_them_are_refused(tmp_path: Path) -> None:
    """Without fitted costs there is no corrected trace."""
    with pytest.raises(xsp.XspError, match="no corrected times"):
        gpu_profile().to_perfetto(tmp_path / "x.pftrace", corrected=True)


def test_corrected_kernels_have_an_arrow_from_their_parent(
    profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """The correction gives no API calls; arrows then leave the library call or layer that
    launched.
    """
    trace = read(profiles["transformer"].to_perfetto(tmp_path / "x.pftrace", corrected=True))
    sources = {flow: one for one in trace.slices for flow in one.leaving}
    kernels = [one for one in trace.slices if one.category == "KERNEL"]
    assert {sources[one.arriving[0]].category for one in kernels} == {"LAYER", "LIBRARY"}
    assert "CUDA API" not in {one.category for one in trace.slices}


def test_work_outside_layers_is_on_a_track_of_its_own(tmp_path: Path) -> None:
    """The span that stands for work outside layers lasts as long as the model call and must not
    hold its layers.
    """
    capture = gpu_capture()
    spans, run = capture.tables["spans"], len(capture.tables["runs"]) - 1
    model = spans[(spans["run"] == run) & (spans["level"] == 0)].iloc[0]
    outside = model.to_dict() | {"level": 1, "detail": 3, "parent": int(model.name)}  # type: ignore[call-overload]
    capture.tables["spans"] = pd.concat([spans, pd.DataFrame([outside])], ignore_index=True)
    trace = read(xsp.Profile(capture).to_perfetto(tmp_path / "x.pftrace"))
    one = next(each for each in trace.slices if each.name == "(outside layers)")
    assert trace.tracks[one.track].name == "work outside layers"
    assert {each.name for each in trace.slices if each.track == one.track} == {"(outside layers)"}


def test_nvtx_ranges_are_on_tracks_of_their_own(tmp_path: Path) -> None:
    """The program's own ranges need not nest with layers; they are beside their thread, with their
    domain.
    """
    capture = gpu_capture()
    run = int(capture.tables["runs"]["run"].iloc[-1])
    start = int(capture.tables["spans"].query("run == @run")["start_ns"].min())
    thread = int(capture.tables["model_calls"]["thread"].iloc[0])
    ranges = pd.DataFrame(
        {
            "run": [run, run, 0],
            "name": ["load", "infer", "other run"],
            "domain": ["app", "", ""],
            "thread": thread,
            "start_ns": [start - 50, start + 200_000, start],
            "end_ns": [start + 300_000, start + 600_000, start + 1],
        }
    )
    with_ranges = Capture(capture.meta, capture.tables | {"ranges": ranges})
    trace = read(xsp.Profile(with_ranges).to_perfetto(tmp_path / "x.pftrace"))
    found = {
        one.name: (trace.tracks[one.track].name, one.arguments)
        for one in trace.slices
        if one.category == "NVTX"
    }
    assert found == {
        "load": ("ranges of main thread", {"domain": "app"}),
        "infer": ("ranges of main thread, overlapping (2)", {"domain": ""}),
    }


def test_compressed_by_its_name(profiles: dict[str, xsp.Profile], tmp_path: Path) -> None:
    """A name that ends in .gz gives the same trace, compressed."""
    plain = profiles["transformer"].to_perfetto(tmp_path / "x.pftrace")
    small = profiles["transformer"].to_perfetto(tmp_path / "x.pftrace.gz")
    assert gzip.decompress(small.read_bytes()) == plain.read_bytes()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """Nothing is made where the user did not make it."""
    with pytest.raises(xsp.XspError, match=r"no directory .*nowhere"):
        gpu_profile().to_perfetto(tmp_path / "nowhere" / "x.pftrace")
    with pytest.raises(xsp.XspError, match=r"is a directory; give the name of a file in it"):
        gpu_profile().to_perfetto(tmp_path)


def test_traces_of_long_runs_are_small(profiles: dict[str, xsp.Profile], tmp_path: Path) -> None:
    """A run of 50,000 spans, with 17,500 API calls, takes less than 60 bytes a span."""
    capture = long_capture(profiles["transformer"], 50_000)
    path = xsp.Profile(capture).to_perfetto(tmp_path / "x.pftrace.gz")
    assert path.stat().st_size < 60 * 50_000


def long_capture(prof: xsp.Profile, spans: int) -> Capture:
    """The last deepest run, repeated within one run until it has so many spans."""
    last = int(prof.runs["run"].iloc[-1])
    tables = prof.raw_tables(
        "calls", "modules", "layers", "library_calls", "kernels", "synchronizations"
    )
    of_runs = prof.raw_tables("spans", "api_calls", "model_calls", "runs")
    one = {name: table[table["run"] == last] for name, table in of_runs.items()}
    length = int(one["runs"]["latency_ns"].iloc[0]) + 1_000
    first, size = int(one["spans"].index[0]), len(one["spans"])
    copies = -(-spans // size)
    for name in ("spans", "api_calls", "model_calls"):
        table, number = (
            one[name].reset_index(drop=True),
            np.repeat(np.arange(copies), len(one[name])),
        )
        many = pd.concat([table] * copies, ignore_index=True).assign(run=0)
        many["start_ns"] += number * length
        if "parent" in many:
            many["parent"] = np.where(
                many["parent"] >= 0, many["parent"] - first + number * size, -1
            )
        if "correlation_id" in many:
            many["correlation_id"] += number * 10_000_000 * (many["correlation_id"] > 0)
        tables[name] = many
    tables["runs"] = one["runs"].assign(run=0)
    meta = {"name": prof.name, "environment": {}, "warnings": [], "levels": [], "gpu_states": []}
    trace = {"trace_id": "1" * 32, "parent_span_id": "0" * 16, "first_span_id": 1}
    return Capture(meta | {"trace": trace}, tables)


@pytest.mark.skipif(
    "XSP_TRACE_PROCESSOR" not in os.environ,
    reason="XSP_TRACE_PROCESSOR does not name a trace_processor binary "
    "(get.perfetto.dev/trace_processor)",
)
@pytest.mark.parametrize("name", NAMES)
def test_trace_processor_sees_the_same(
    name: str, profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """Perfetto's own engine counts as many slices and arrows, and reports no error in the trace."""
    trace = profiles[name].to_perfetto(tmp_path / "x.pftrace")
    query = tmp_path / "query.sql"
    query.write_text(
        "select (select count(*) from slice where category in ('MODEL', 'LAYER', 'LIBRARY', "
        "'KERNEL')) as spans,"
        " (select count(*) from flow) as flows,"
        " (select count(*) from slice where dur < 0) as unfinished,"
        " (select coalesce(sum(value), 0) from stats where severity = 'error' and value > 0) as "
        "errors;"
    )
    command = [os.environ["XSP_TRACE_PROCESSOR"], "-q", str(query), str(trace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    counts = json.loads(f"[{done.stdout.strip().splitlines()[-1]}]")
    spans = last_deepest(profiles[name])
    arrows = profiles[name].kernel_count + (235 if name == "train_step" else 0)
    assert counts == [len(spans), arrows, 0, 0]
