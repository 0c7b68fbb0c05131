"""A ladder of one level at a time: what belongs to what is found by order, exactly or not at all.

The runs of one level are derived from runs of all levels on an H100, so that the truth is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import BUNDLED, alone, bundled, profile_of, runs_of, separate_runs, words_of

import xsp
from xsp import Profile, analysis
from xsp.analysis.spans.assembly import Assembled, Vocabulary, assemble_runs
from xsp.analysis.spans.order import Difference, InOrder, find_repeated
from xsp.capture.file import Capture
from xsp.capture.run import Run
from xsp.types import Columns, Level

ROUNDS = 5
RECORDED = Path(__file__).parent / "recorded"
ALONE = {Level.LIBRARY: "M/Lib", Level.KERNEL: "M/K"}


@cache
def recorded(name: str) -> tuple[Capture, Vocabulary, list[Run]]:
    """A bundled capture, its words, and rounds of a separate ladder derived from it."""
    capture = bundled(name)
    return capture, words_of(capture), separate_runs(capture, ROUNDS)


@cache
def separate(name: str) -> Assembled:
    """The tables of these rounds."""
    _, words, runs = recorded(name)
    return assemble_runs(runs, words)


@cache
def nested(name: str) -> dict[str, pd.DataFrame]:
    """The tables of the runs of all levels that those of one level are derived from."""
    capture, words, _ = recorded(name)
    runs = runs_of(capture, "M/L/Lib/K", 2 * ROUNDS)[ROUNDS:]
    return assemble_runs(runs, words).tables


def owners(tables: dict[str, pd.DataFrame], rows: pd.Series) -> pd.DataFrame:
    """Name of the layer, phase and library call above these spans."""
    spans = tables["spans"]
    parent = spans.loc[spans.loc[rows, "parent"]]
    called = (parent["level"] == Level.LIBRARY).to_numpy()
    above = spans.loc[np.where(called, parent["parent"], parent.index)]
    call = tables["library_calls"]["name"].to_numpy()[np.where(called, parent["detail"], 0)]
    layer = tables["layers"].loc[above["detail"], ["name", "phase"]].reset_index(drop=True)
    found: pd.DataFrame = layer.assign(call=np.where(called, call, ""))
    return found


@pytest.mark.parametrize("name", BUNDLED)
def test_owners_by_order_are_those_that_were_recorded(name: str) -> None:
    """Every kernel and library call of a run that traced nothing else leads to the layer and the
    call that it had when all levels were traced, in ResNet-50, a transformer and a training step.
    """
    found, truth = separate(name), nested(name)
    assert found.differences == ()
    repeats = found.tables["repeats"].sort_values(["level", "run", "start_ns"], kind="stable")
    spans = truth["spans"]
    true = spans[spans["level"].isin(list(ALONE))]
    true = true.sort_values(["level", "run", "start_ns"], kind="stable")
    assert np.array_equal(repeats["start_ns"], true["start_ns"])
    assert len(repeats) > 0
    pd.testing.assert_frame_equal(
        owners(found.tables, repeats["span"]), owners(truth, pd.Series(true.index))
    )


@pytest.mark.parametrize("name", BUNDLED)
def test_device_times_are_those_of_the_runs_that_traced_kernels_alone(name: str) -> None:
    """Tables of kernels, layers and library calls read the device's time from these runs, and are
    the same as if they had known the layers themselves.
    """
    capture = recorded(name)[0]
    found = profile_of(capture, separate(name).tables)
    truth = profile_of(capture, nested(name))
    columns = ["name", "layer", "latency_ms", "latency_ci_ms"]
    pd.testing.assert_frame_equal(
        analysis.kernel_information(found)[columns], analysis.kernel_information(truth)[columns]
    )
    calls = ["name", "layer", "host_ms", "gpu_ms"]
    pd.testing.assert_frame_equal(
        analysis.library_calls(found)[calls], analysis.library_calls(truth)[calls]
    )
    device = ["path", "phase", "device_ms", "device_ci_ms", "kernels"]
    trees = [
        prof.tree().loc[lambda tree: tree["level"] != "OWN", device].sort_values(["path", "phase"])
        for prof in (found, truth)
    ]
    ours, theirs = (tree.reset_index(drop=True) for tree in trees)
    pd.testing.assert_frame_equal(ours, theirs)


def test_neither_the_order_of_records_nor_that_of_the_device_matters() -> None:
    """CUPTI hands records over in any order, and streams overtake each other: a kernel is the one
    that its launch makes it.
    """
    _, words, runs = recorded("h100_train_step")
    at = next(number for number, run in enumerate(runs) if run.spec.name == "M/K")
    device = runs[at].tables["device_activity"]
    by_start = device["start_ns"].argsort()
    names = device["name"][by_start]
    place = int(np.flatnonzero(names[1:] != names[:-1])[20])
    one, other = by_start[place], by_start[place + 1]
    shuffled = {name: column.copy() for name, column in device.items()}
    for stamp in ("start_ns", "end_ns"):
        shuffled[stamp][[one, other]] = device[stamp][[other, one]]
    order = np.random.default_rng(0).permutation(len(by_start))
    shuffled = {name: column[order] for name, column in shuffled.items()}
    changed = replace(runs[at], tables={**runs[at].tables, "device_activity": shuffled})
    found = assemble_runs([*runs[:at], changed, *runs[at + 1 :]], words)
    assert found.differences == ()
    spans = []
    for tables in (separate("h100_train_step").tables, found.tables):
        repeats = tables["repeats"]
        mine = repeats[(repeats["run"] == at) & (repeats["level"] == Level.KERNEL)]
        spans.append(mine.set_index("correlation_id")["span"].sort_index())
    before, after = spans
    pd.testing.assert_series_equal(before, after)


def test_each_level_is_read_from_its_own_rung() -> None:
    """The timeline is that of the annotated runs; what each rung adds is told by level, against the
    rung that lacks what it adds.
    """
    found = profile_of(recorded("h100_resnet50")[0], separate("h100_resnet50").tables)
    added = found.overhead().set_index(["rung", "level"])
    assert list(added.index) == [
        ("M/L", "MODEL"),
        ("M/Lib", "MODEL"),
        ("M/K", "MODEL"),
        ("M/L/Lib/K", "MODEL"),
        ("M/L/Lib/K", "LAYER"),
        ("M/L/Lib/K", "LIBRARY"),
    ]
    runs = found.runs.pivot_table(index="round", columns="rung", values="latency_ns")
    expected = (runs["M/K"] - runs["M"]).sort_values().iloc[1:-1].mean() / 1e6
    assert added.loc[("M/K", "MODEL"), "added_ms"] == pytest.approx(expected)
    kernels = found.table("repeats")["level"] == Level.KERNEL
    api = found.table("api_calls")["run"].isin(found.runs.loc[found.runs["rung"] == "M/K", "run"])
    per_run = (kernels.sum() + api.sum()) / ROUNDS
    assert added.loc[("M/K", "MODEL"), "events"] == per_run
    together = float(added["added_share"].loc[("M/L/Lib/K", "MODEL")])
    assert f"{together:+.1%} on the model latency when all levels are traced" in str(found)


def test_a_capture_keeps_what_was_traced_alone(tmp_path: Path) -> None:
    """Saved and loaded, the profile has the same figures; a reference to another level's span or to
    the run's own is refused.
    """
    capture = recorded("h100_resnet50")[0]
    found = profile_of(capture, separate("h100_resnet50").tables)
    loaded = xsp.load(found.save(tmp_path / "a.xsp"))
    pd.testing.assert_frame_equal(found.tree(), loaded.tree())
    repeats = found.table("repeats")
    own = found.table("raw_spans")["run"].to_numpy()[repeats["span"]]
    for broken in (repeats.assign(span=0), repeats.assign(run=own)):
        tables = {**separate("h100_resnet50").tables, "repeats": broken}
        with pytest.raises(xsp.CaptureError, match="repeats"):
            xsp.load(profile_of(capture, tables).save(tmp_path / "b.xsp"))


def test_a_trace_shows_what_its_run_recorded(tmp_path: Path) -> None:
    """Of a run that traced kernels alone: these, with their times. By default an annotated run is
    shown, with layers.
    """
    found = profile_of(recorded("h100_resnet50")[0], separate("h100_resnet50").tables)
    durations, layers = {}, {}
    for rung in ("M/K", None):
        path = found.to_chrome(tmp_path / "a.json", rung=rung)
        trace = json.loads(path.read_text())["traceEvents"]
        device = [event for event in trace if event.get("cat") in ("kernel", "gpu_memset")]
        durations[rung] = sorted(event["dur"] for event in device if event["ph"] == "X")
        layers[rung] = [event for event in trace if event.get("cat") == "cpu_op"]
    runs = found.runs
    last = runs.loc[runs["rung"] == "M/K", "run"].max()
    repeats = found.table("repeats")
    expected = repeats.loc[repeats["run"] == last, "duration_ns"] / 1e3
    assert durations["M/K"] == pytest.approx(sorted(expected))
    assert not layers["M/K"]
    assert len(durations[None]) == len(expected)
    assert layers[None]


def test_a_profile_of_gpt2_on_an_h200_reads_each_level_where_it_was_traced_alone() -> None:
    """All 12 runs of each level are joined; kernels last as long as where all levels are traced,
    library calls less; the annotated rung closes, though no cost was fitted to it.
    """
    prof = xsp.load(RECORDED / "h200_gpt2_separate.xsp")
    repeats = prof.table("repeats")
    assert repeats.groupby("level")["run"].nunique().to_dict() == dict.fromkeys(ALONE, 12)
    assert repeats.groupby(["level", "run"]).size().groupby("level").nunique().tolist() == [1, 1]
    annotated = {name: table for name, table in prof._capture.tables.items() if name != "repeats"}
    together = Profile(Capture(prof._capture.meta, annotated))
    device = prof.tree()["device_ms"].iloc[0], together.tree()["device_ms"].iloc[0]
    assert device[0] == pytest.approx(device[1], rel=0.005)
    longer = _kernels(together) - _kernels(prof)
    assert abs(longer.mean()) < 0.000_02
    calls = [analysis.library_calls(each)["host_ms"].sum() for each in (prof, together)]
    assert calls[0] < 0.95 * calls[1]
    closure = prof.closure_error.loc["M/L/Lib/K"]
    assert closure["low"] < 0 < closure["high"]
    assert abs(closure["error"]) < 0.03
    children = prof.tree()[prof.tree()["depth"] == 1]
    assert children["device_ms"].sum() == pytest.approx(device[0])


def _kernels(prof: Profile) -> pd.Series:
    return analysis.kernel_information(prof)["latency_ms"]


def _without(columns: Columns, row: int) -> Columns:
    return {name: np.delete(column, row, axis=0) for name, column in columns.items()}


def _twice(columns: Columns, row: int) -> Columns:
    return {name: np.insert(column, row, column[row], axis=0) for name, column in columns.items()}


def _other(columns: Columns, row: int) -> Columns:
    names = columns["name"].copy()
    names[row] += 1
    return {**columns, "name": names}


def _surplus(run: Run, row: int) -> Run:
    """The kernel of a row is launched once more, right afterwards."""
    device = _twice(run.tables["device_activity"], row)
    api = run.tables["api_calls"]
    launch = int(np.flatnonzero(api["correlation_id"] == device["correlation_id"][row])[0])
    api = _twice(api, launch)
    device["correlation_id"][row + 1] = api["correlation_id"][launch + 1] = 2**31
    api["start_ns"][launch + 1] += 1
    return replace(run, tables={**run.tables, "device_activity": device, "api_calls": api})


def _changed(change: Callable[[Columns, int], Columns]) -> Callable[[Run, int], Run]:
    def changed(run: Run, row: int) -> Run:
        device = change(run.tables["device_activity"], row)
        return replace(run, tables={**run.tables, "device_activity": device})

    return changed


@pytest.mark.parametrize(
    ("change", "expected", "seen"),
    [(_changed(_without), 0, 1), (_surplus, 1, 0), (_changed(_other), 0, None)],
    ids=["missing", "surplus", "another"],
)
def test_one_kernel_more_less_or_other_is_refused(
    change: Callable[[Run, int], Run], expected: int, seen: int | None
) -> None:
    """The level is then read from the annotated runs, and the first event that differs is named."""
    _, words, runs = recorded("h100_resnet50")
    at = next(number for number, run in enumerate(runs) if run.spec.name == "M/K")
    device = runs[at].tables["device_activity"]
    launched = device["start_ns"].argsort()
    row = int(launched[40])
    found = assemble_runs([*runs[:at], change(runs[at], row), *runs[at + 1 :]], words)
    (said,) = found.differences
    assert (said.level, said.runs, said.of, said.run) == (Level.KERNEL, 1, ROUNDS, at)
    assert said.place == 40 + expected
    names = device["name"][launched]
    assert said.expected == names[40 + expected]
    assert said.found == (names[40] + 1 if seen is None else names[40 + seen])
    levels = set(found.tables["repeats"]["level"])
    assert levels == {Level.LIBRARY}
    prof = profile_of(recorded("h100_resnet50")[0], found.tables)
    every = separate("h100_resnet50").tables
    annotated = {name: table for name, table in every.items() if name != "repeats"}
    truth = profile_of(recorded("h100_resnet50")[0], annotated)
    assert prof.tree()["device_ms"].iloc[0] == pytest.approx(truth.tree()["device_ms"].iloc[0])


def test_a_run_without_kernels_repeats_nothing_but_another_such_run() -> None:
    """A program that launched nothing when its kernels were traced alone is not joined with one
    that did.
    """
    _, words, runs = recorded("h100_resnet50")
    empty = [
        replace(
            run, tables={name: {c: v[:0] for c, v in t.items()} for name, t in run.tables.items()}
        )
        if run.spec.name == "M/K"
        else run
        for run in runs
    ]
    (said,) = assemble_runs(empty, words).differences
    assert (said.level, said.place, said.found) == (Level.KERNEL, 0, None)
    assert said.expected is not None
    without = [run for run in empty if run.spec.name != "M/L/Lib/K"]
    annotated = [
        replace(run, tables={**run.tables, **next(r for r in empty if r.spec.name == "M/K").tables})
        for run in runs
        if run.spec.name == "M/L/Lib/K"
    ]
    found = assemble_runs([*without, *annotated], words)
    assert [one.level for one in found.differences] == []
    assert Level.KERNEL not in set(found.tables["repeats"]["level"])


Program = list[tuple[int, int, int]]
"""Events as (thread, name, stream), in the order in which they are made."""


def in_order(program: Program, threads: list[int], streams: list[int], seed: int) -> InOrder:
    """The events with other numbers for threads and streams and other times, in any order."""
    shuffle = np.random.default_rng(seed).permutation(len(program))
    table = np.array(program, dtype=np.int64).reshape(-1, 3)
    time = np.cumsum(1 + np.random.default_rng(seed).integers(0, 9, len(program)))
    return InOrder(
        np.array(threads, dtype=np.int64)[table[:, 0]][shuffle],
        time[shuffle, np.newaxis],
        table[:, 1:2][shuffle],
        np.array(streams, dtype=np.int64)[table[:, 2]][shuffle],
    )


events = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2)), max_size=24)


def distinct(program: Program) -> bool:
    """Whether no two threads do the same."""
    by_thread = [[event[1:] for event in program if event[0] == thread] for thread in range(3)]
    used = [str(each) for each in by_thread if each]
    return len(set(used)) == len(used)


@settings(max_examples=200)
@given(events.filter(distinct), st.permutations([5, 8, 9]), st.permutations([3, 7, 11]))
def test_the_same_work_is_found_whatever_the_numbers_of_threads_and_streams(
    program: Program, threads: list[int], streams: list[int]
) -> None:
    """Each event repeats the one that the program made at the same place on its thread."""
    run = in_order(program, threads, streams, seed=1)
    reference = in_order(program, [1, 2, 3], [1, 2, 3], seed=2)
    found = find_repeated(run, reference)
    if not isinstance(found, Difference):
        made = np.argsort(run.order[:, 0]), np.argsort(reference.order[:, 0])
        assert np.array_equal(found[made[0]], made[1])
    else:
        # Streams are told apart by their first use on a thread: two threads that differ in nothing
        # else are alike.
        assert found.alike


@settings(max_examples=200)
@given(events.filter(bool), st.data())
def test_other_work_is_never_joined(program: Program, data: st.DataObject) -> None:
    """A program with one event left out, added, renamed, or swapped with another on its thread."""
    at = data.draw(st.integers(0, len(program) - 1))
    thread, name, stream = program[at]
    changes = {
        "missing": [*program[:at], *program[at + 1 :]],
        "surplus": [*program[:at], (thread, name, stream), *program[at:]],
        "renamed": [*program[:at], (thread, 9, stream), *program[at + 1 :]],
    }
    later = [
        n for n in range(at, len(program)) if program[n][0] == thread and program[n][1] != name
    ]
    if later:
        swapped = list(program)
        swapped[at], swapped[later[0]] = program[later[0]], program[at]
        changes["swapped"] = swapped
    for changed in changes.values():
        found = find_repeated(
            in_order(changed, [5, 8, 9], [3, 7, 11], seed=1),
            in_order(program, [5, 8, 9], [3, 7, 11], seed=2),
        )
        assert isinstance(found, Difference)


def test_threads_that_do_the_same_cannot_be_told_apart() -> None:
    """Two threads with equal events in equal order are refused, not guessed at."""
    program = [(0, 1, 0), (1, 1, 1), (0, 2, 0), (1, 2, 1)]
    found = find_repeated(
        in_order(program, [5, 8, 9], [3, 7, 11], seed=1),
        in_order(program, [5, 8, 9], [3, 7, 11], seed=1),
    )
    assert isinstance(found, Difference)
    assert found.alike


def test_a_run_of_one_level_has_no_events_without_owners() -> None:
    """In `spans` such a run has its model calls and nothing that would stand for a layer."""
    tables = separate("h100_train_step").tables
    names = tables["runs"]["rung"].to_numpy()[tables["spans"]["run"]]
    for rung in ALONE.values():
        levels = tables["spans"]["level"][names == rung]
        assert set(levels) == {Level.MODEL}
    assert alone(recorded("h100_train_step")[2][4], Level.KERNEL).spec.name == "M/K"
