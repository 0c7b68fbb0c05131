"""Chrome traces of the bundled captures follow the conventions that tools for torch.profiler's
traces rely on.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import xsp
from xsp.capture.file import TABLES, Capture

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
NAMES = ("resnet50", "transformer", "train_step")
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")

Event = dict[str, Any]


@pytest.fixture(scope="module")
def documents(
    profiles: dict[str, xsp.Profile], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Traces of their last deepest runs, as JSON."""
    folder = tmp_path_factory.mktemp("chrome")
    paths = {name: prof.to_chrome(folder / f"{name}.json.gz") for name, prof in profiles.items()}
    return {name: json.loads(gzip.decompress(path.read_bytes())) for name, path in paths.items()}


@pytest.fixture(scope="module")
def events(documents: dict[str, Any]) -> dict[str, list[Event]]:
    """Events of the traces."""
    return {name: document["traceEvents"] for name, document in documents.items()}


def of(events: list[Event], *categories: str, phase: str = "X") -> list[Event]:
    """Events of these categories."""
    return [event for event in events if event.get("cat") in categories and event["ph"] == phase]


def last_deepest(prof: xsp.Profile) -> Any:
    """Spans of the run that is exported by default."""
    run = prof.runs.loc[prof.runs["rung"] == "M/L/Lib/K", "run"].iloc[-1]
    return prof.spans[prof.spans["run"] == run]


@pytest.mark.parametrize("name", NAMES)
def test_spans_are_events(
    name: str, profiles: dict[str, xsp.Profile], events: dict[str, list[Event]]
) -> None:
    """Every span is an event of its category with its name, and stamps in µs that are exact to the
    ns.
    """
    spans = last_deepest(profiles[name])
    for level, categories in (("MODEL", ("user_annotation",)), ("KERNEL", DEVICE)):
        wanted = spans[spans["level"] == level]
        found = {
            (round(e["ts"] * 1000), round(e["dur"] * 1000)) for e in of(events[name], *categories)
        }
        assert set(zip(wanted["start_ns"], wanted["duration_ns"], strict=True)) <= found
    operators = spans[spans["level"].isin(["LAYER", "LIBRARY"])]
    rows = zip(operators["name"], operators["start_ns"], operators["duration_ns"], strict=True)
    counted = Counter(
        (e["name"], round(e["ts"] * 1000), round(e["dur"] * 1000))
        for e in of(events[name], "cpu_op")
    )
    assert counted == Counter(rows)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_joined_to_their_launch(name: str, events: dict[str, list[Event]]) -> None:
    """A device event's correlation id is that of one launch, and its external id that of the
    operator around it.
    """
    launches = {
        e["args"]["correlation"]: e
        for e in reversed(of(events[name], "cuda_runtime", "cuda_driver"))
    }
    operators = {e["args"]["External id"]: e for e in of(events[name], "cpu_op")}
    assert len(operators) == len(of(events[name], "cpu_op"))
    for event in of(events[name], *DEVICE):
        launch = launches[event["args"]["correlation"]]
        operator = operators[event["args"]["External id"]]
        assert launch["args"]["External id"] == event["args"]["External id"]
        assert operator["ts"] <= launch["ts"]
        assert launch["ts"] + launch["dur"] <= operator["ts"] + operator["dur"] + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_arrows_start_and_end_on_slices(name: str, events: dict[str, list[Event]]) -> None:
    """Each device event has an arrow whose ends are the starts of its launch and of itself."""
    starts = {(e["pid"], e["tid"], e["ts"]) for e in events[name] if e["ph"] == "X"}
    for phase in "sf":
        arrows = of(events[name], "ac2g", "fwdbwd", phase=phase)
        assert {(e["pid"], e["tid"], e["ts"]) for e in arrows} <= starts
        assert len(of(events[name], "ac2g", phase=phase)) == len(of(events[name], *DEVICE))


@pytest.mark.parametrize("name", NAMES)
def test_gpu_is_a_process_of_streams(name: str, events: dict[str, list[Event]]) -> None:
    """Device events are on process 0, with their stream, grid, block, registers and shared memory
    as arguments.
    """
    kernels = of(events[name], "kernel")
    assert {(e["pid"], e["args"]["device"], e["args"]["stream"]) for e in kernels} == {(0, 0, 7)}
    for event in kernels:
        assert len(event["args"]["grid"]) == len(event["args"]["block"]) == 3
        assert {"registers per thread", "shared memory", "context"} <= event["args"].keys()
    labels = {e["pid"]: e["args"]["labels"] for e in events[name] if e["name"] == "process_labels"}
    assert sorted(labels.values()) == ["CPU", "GPU 0"]


def test_copies_and_sets_are_named_as_by_kineto(events: dict[str, list[Event]]) -> None:
    """Tools tell directions of copies by how their names begin."""
    assert {e["name"] for e in of(events["train_step"], "gpu_memcpy")} == {
        "Memcpy DtoD",
        "Memcpy DtoH",
    }
    assert {e["name"] for e in of(events["train_step"], "gpu_memset")} == {"Memset"}
    assert all(e["args"]["bytes"] > 0 for e in of(events["train_step"], "gpu_memcpy", "gpu_memset"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_a_profiler_step(
    name: str, profiles: dict[str, xsp.Profile], events: dict[str, list[Event]]
) -> None:
    """The model call is a step, by which tools cut a trace into iterations, around all other host
    events.
    """
    (step,) = [e for e in events[name] if e["name"].startswith("ProfilerStep#")]
    assert step["name"] == f"ProfilerStep#{profiles[name].runs['round'].iloc[-1]}"
    for event in of(events[name], "cpu_op", "cuda_runtime", "cuda_driver", "user_annotation"):
        assert step["ts"] <= event["ts"]
        assert event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_events_of_a_thread_never_overlap(name: str, events: dict[str, list[Event]]) -> None:
    """On one thread events are nested or apart; on a stream of the GPU apart."""
    by_thread: dict[tuple[int, int], list[Event]] = {}
    for event in (e for e in events[name] if e["ph"] == "X"):
        by_thread.setdefault((event["pid"], event["tid"]), []).append(event)
    for (process, _), found in by_thread.items():
        open_: list[int] = []
        spans = sorted((round(e["ts"] * 1000), -round((e["ts"] + e["dur"]) * 1000)) for e in found)
        for start, negative in spans:
            while open_ and open_[-1] <= start:
                open_.pop()
            assert not open_ or (process != 0 and -negative <= open_[-1])
            open_.append(-negative)


def test_the_document_names_the_gpu(documents: dict[str, Any]) -> None:
    """Device properties are those of the machine that the capture was recorded on."""
    (device,) = documents["resnet50"]["deviceProperties"]
    assert device["id"] == 0
    assert "H100" in device["name"]
    assert device["numSms"] == 132


def test_uncompressed_by_its_name(
    profiles: dict[str, xsp.Profile], documents: dict[str, Any], tmp_path: Path
) -> None:
    """A name without .gz gives plain JSON with the same content."""
    path = profiles["transformer"].to_chrome(tmp_path / "x.json")
    assert json.loads(path.read_text(encoding="utf-8")) == documents["transformer"]


def test_stamps_of_a_host_that_has_run_for_a_year_are_exact(
    profiles: dict[str, xsp.Profile], tmp_path: Path
) -> None:
    """Slices of a host that was started long ago are to the ns those of one that was
    started today.
    """
    prof = profiles["transformer"]
    year_ns = 365 * 86_400 * 10**9
    columns = ("start_ns", "host_end_ns", "end_ns")
    tables = {
        name: table.assign(
            **{column: table[column] + year_ns for column in columns if column in table}
        )
        for name, table in prof.raw_tables(*TABLES).items()
    }
    old = xsp.Profile(Capture(prof._capture.meta | {"epoch_offset_ns": 5}, tables)).to_chrome(
        tmp_path / "old.json"
    )
    new = prof.to_chrome(tmp_path / "new.json")
    document = json.loads(old.read_text())
    events, others = (
        [(round(e["ts"] * 1000), e["dur"]) for e in found["traceEvents"] if e["ph"] == "X"]
        for found in (document, json.loads(new.read_text()))
    )
    base = document["baseTimeNanoseconds"] - 5 - year_ns
    assert [(start + base, duration) for start, duration in events] == others
