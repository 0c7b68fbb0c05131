"""Large captures and programs: parts of a capture give what the whole gives, from memory and from a
file, and what is shown does not grow with what was recorded.
"""

from __future__ import annotations

import gc
import json
import re
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from capture_files import rewritten
from captures import wide_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import measured

import xsp
from xsp.analysis import from_disk
from xsp.analysis.correction import correction_row, fitted
from xsp.analysis.spans import run_parts
from xsp.analysis.spans.several_cores import one_by_one
from xsp.capture.file import Capture
from xsp.levels.layer.discovery import Discovered
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.measuring.afterwards import memory
from xsp.report.text import profile_text

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "captures"
SEPARATE = Path(__file__).parent / "recorded" / "h200_gpt2_separate.xsp"
TRAINING = EXAMPLES / "h100_train_step.xsp"
CAPTURES = (TRAINING, EXAMPLES / "models" / "unet_diffusion.xsp")
BY_RUN = ("runs", "model_calls", "spans", "api_calls", "synchronizations")


def parts_of(prof: xsp.Profile, most: int) -> int:
    """How many parts the capture has."""
    return len(run_parts.cut(prof._capture.tables, most)) - 1


@pytest.fixture(scope="module", params=CAPTURES, ids=lambda path: path.stem)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of some rounds, in groups of few rows, with costs that were fitted to them."""
    capture = xsp.load(request.param)._capture
    rounds = capture.tables["runs"]["round"]
    last = int(capture.tables["runs"].loc[rounds < 9, "run"].max())
    tables = dict(capture.tables)
    for name in BY_RUN:
        tables[name] = tables[name][tables[name]["run"] <= last].reset_index(drop=True)
    tables["runs"] = tables["runs"].reset_index(drop=True)
    correction = json.loads(json.dumps(correction_row(fitted(tables))))
    meta = {**capture.meta, "correction": correction}
    whole = tmp_path_factory.mktemp("scale") / "whole.xsp"
    Capture(meta, tables).save(whole)
    rows = len(tables["spans"]) // 12
    return rewritten(whole.with_name("saved.xsp"), whole, row_group_size=rows)


@pytest.fixture(scope="module")
def tree(saved: Path) -> pd.DataFrame:
    """Its latency table, from all spans at once."""
    return xsp.load(saved).tree()


def third(path: Path) -> int:
    """A third of the spans of a capture."""
    return len(xsp.load(path).table("raw_spans")) // 3


def test_parts_give_the_table_of_the_whole(
    saved: Path, tree: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latency table is the same to the bit however few spans are looked at at a time."""
    prof, size = xsp.load(saved), third(saved)
    assert parts_of(prof, size) > 2
    monkeypatch.setattr(run_parts, "SPANS_OF_PART", size)
    pd.testing.assert_frame_equal(prof.tree(), tree, check_exact=True)


def test_a_file_gives_the_table_that_memory_gives(
    saved: Path, tree: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tree_from_file`, which never holds more than a part, has the numbers of `tree()` to the bit,
    also where runs begin and end within groups of rows.
    """
    monkeypatch.setattr(from_disk, "SPANS_OF_PART", third(saved))
    found = from_disk.tree_from_file(saved)
    pd.testing.assert_frame_equal(found, tree, check_exact=True)


def test_costs_that_are_not_known_are_fitted_from_parts(
    saved: Path, tree: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another version, whose costs are not those of this one, has the table that memory
    gives, again to the bit.
    """
    capture = xsp.load(saved)._capture
    earlier = dict(capture.meta["correction"])
    del earlier["taken"]
    path = tmp_path / "earlier.xsp"
    Capture({**capture.meta, "correction": earlier}, capture.tables).save(path)
    monkeypatch.setattr(from_disk, "SPANS_OF_PART", third(saved))
    pd.testing.assert_frame_equal(from_disk.tree_from_file(path), tree, check_exact=True)


def test_an_error_in_a_part_is_the_callers() -> None:
    """What a thread that works on a part raises is raised where the table was asked for; parts that
    had not begun do not begin, and no thread stays.
    """
    begun = []

    def work(number: int) -> float:
        begun.append(number)
        return 1 / (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(one_by_one(work, range(100), spans=run_parts.SPANS_OF_PART + 1))
    assert len(begun) < 10
    assert not [each for each in threading.enumerate() if each.name.startswith("xsp")]


def test_a_separate_ladder_is_one_part() -> None:
    """Its events all repeat those of one run: the table is that of the whole, and a file that would
    have to be read in parts is refused with the way out.
    """
    assert parts_of(xsp.load(SEPARATE), 10) == 1
    with pytest.raises(xsp.CaptureError, match=r"separate ladder.*max_bytes"):
        from_disk.tree_from_file(SEPARATE)


def random_capture(draw: Any) -> Capture:
    """Some rounds of a training step, in any order, each event as long as chance has it."""
    capture = xsp.load(TRAINING)._capture
    tables, rounds = capture.tables, int(capture.tables["runs"]["round"].max()) + 1
    order = draw(st.lists(st.integers(0, rounds - 1), min_size=2, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in BY_RUN}
    first_run = first_span = 0
    for number, chosen in enumerate(order):
        runs = tables["runs"][tables["runs"]["round"] == chosen]
        begin, size = int(runs["run"].iloc[0]), len(runs)
        rows = tables["spans"]["run"].isin(runs["run"])
        moves = {"run": first_run - begin, "parent": first_span - int(np.argmax(rows))}
        for name in BY_RUN:
            part = tables[name][tables[name]["run"].isin(runs["run"])].copy()
            for column, move in moves.items():
                if column in part:
                    part[column] = part[column].where(part[column] < 0, part[column] + move)
            found[name].append(part)
        found["runs"][-1]["round"] = number
        first_run, first_span = first_run + size, first_span + int(rows.sum())
    made = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    spans = made["spans"]
    shorter = (spans["duration_ns"] * random.uniform(0.2, 1.0, len(spans))).astype(np.int64)
    made["spans"] = spans.assign(duration_ns=shorter)
    return Capture({**capture.meta, "correction": None}, {**tables, **made})


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_parts_of_random_captures_give_the_whole(data: st.DataObject) -> None:
    """Whatever rounds a capture has and however long its events last, parts of any size give the
    table of the whole to the bit.
    """
    capture = random_capture(data.draw)
    whole = xsp.Profile(capture).tree()
    most = data.draw(st.integers(1, len(capture.tables["spans"])))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_parts, "SPANS_OF_PART", most)
        pd.testing.assert_frame_equal(xsp.Profile(capture).tree(), whole, check_exact=True)


def test_a_file_whose_runs_are_mixed_is_refused(tmp_path: Path) -> None:
    """Rows that do not lie in order of their runs cannot be read in parts, and that is said."""
    path = rewritten(tmp_path / "mixed.xsp", TRAINING, "spans", lambda spans: spans.iloc[::-1])
    with pytest.raises(xsp.CaptureError, match="not in order of their runs"):
        from_disk.tree_from_file(path)


def loop(operations: int) -> Any:
    """A functional loop, every third operation on another shape."""
    small, large = torch.ones(2), torch.ones(3, 4, dtype=torch.float64)

    def run() -> torch.Tensor:
        z = small
        for number in range(operations):
            z = (large if number % 3 == 2 else small) * (number + 0.5)
        return z

    return run


def test_calls_described_alike_are_told_from_others() -> None:
    """Each of many calls has its own shapes and types, though they are described once."""
    layers = measured(loop(30)).table("layers").iloc[:30]
    is_large = np.arange(30) % 3 == 2
    assert (layers["input_shapes"] == np.where(is_large, "[[3, 4]]", "[[2]]")).all()
    assert (layers["output_shapes"] == layers["input_shapes"]).all()
    assert (layers["input_dtypes"] == np.where(is_large, '["float64"]', '["float32"]')).all()


def test_options_of_products_are_told_apart() -> None:
    """Two convolutions that differ in a plain argument alone keep their own."""
    x, weight = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 1, 1)

    def run() -> torch.Tensor:
        conv = torch.nn.functional.conv2d
        return conv(conv(x, weight, stride=2), weight, stride=1)

    layers = measured(run).table("layers").iloc[:2]
    assert ['"stride": 2' in text for text in layers["arguments"]] == [True, False]


def test_memory_of_very_many_layers_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch's profiler would keep more than the limit, bytes are unknown and that is said."""
    monkeypatch.setattr(memory, "MOST_LAYERS", 9)
    assert (measured(loop(9)).table("layers")["peak_bytes"].iloc[:9] >= 0).all()
    prof = measured(loop(10))
    assert (prof.table("layers")["peak_bytes"] == -1).all()
    assert any("calls 10 layers" in said and "[memory-unknown]" in said for said in prof.warnings)


def in_turn(layers: int) -> xsp.Profile:
    """A profile of so many layers that run one after the other."""
    capture = wide_profile(layers)._capture
    spans = capture.tables["spans"].copy()
    below = spans["level"] == 1
    spans.loc[below, "start_ns"] += 200 * np.arange(below.sum())
    spans.loc[~below, "duration_ns"] += 200 * layers
    return xsp.Profile(Capture(capture.meta, {**capture.tables, "spans": spans}))


def test_text_does_not_grow_with_the_program() -> None:
    """The table of a profile has as many lines for 2,000 layers as for 200, and says how many it
    leaves out.
    """
    small, large = (profile_text(in_turn(layers), rows=20) for layers in (200, 2000))
    assert len(small.splitlines()) == len(large.splitlines())
    shown = large.count(" fc")
    assert shown < 30
    left_out = re.search(r"(\d+) more", large)
    assert left_out is not None
    assert int(left_out[1]) > 1900


def bytes_kept_of(calls: int) -> int:
    """What is kept of a structure run of a loop that makes so many functional calls."""
    x = torch.ones(4)
    tracemalloc.start()
    try:
        with StructureRecorder(Discovered()) as recorder:
            for _ in range(calls):
                x * 2.0
        assert len(recorder.structure.layers) == calls
        structure = recorder.structure
        del recorder
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        assert len(structure.layers) == calls
        return kept
    finally:
        tracemalloc.stop()


def test_calls_that_are_described_alike_keep_little_more_than_their_stamps() -> None:
    """A call of a loop takes less than 150 bytes of the structure run; a row by itself took 450."""
    bytes_kept_of(10)
    more = bytes_kept_of(6_000) - bytes_kept_of(2_000)
    assert more < 150 * 4_000
