"""What others wrote is opened or refused in a sentence, and nothing fails by its contents after.

A bounded part of tests/fuzz, whose seeds are fixed; `python -m fuzz.run` tries others for as long
as it is told to.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz.captures import Seed
from fuzz.choices import Random
from fuzz.exercise import everything
from fuzz.targets import CORPUS, TARGETS

import xsp
from xsp.capture.file import Capture, load
from xsp.regression.baselines import Baseline, Baselines

MUTANTS = {"capture": 12, "container": 100, "baseline": 60, "kineto": 15, "nsys": 25}
SMALL = CORPUS / "small.xsp"


@pytest.mark.parametrize("target", TARGETS)
def test_mutants_are_refused_in_a_sentence_or_work(target: str, tmp_path: Path) -> None:
    """Nothing but an XspError comes out of opening a mutant and using what was opened."""
    for seed in range(MUTANTS[target]):
        TARGETS[target](Random(seed), tmp_path)


def rewritten(path: Path, **tables: pd.DataFrame | bytes) -> Path:
    """The small capture with other tables."""
    packed = dict(Seed.of(SMALL).packed)
    for name, table in tables.items():
        packed[f"{name}.parquet"] = table if isinstance(table, bytes) else parquet(table)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(Seed.of(SMALL).manifest))
        for name, content in packed.items():
            archive.writestr(name, content)
    return path


def parquet(table: pd.DataFrame | pa.Table) -> bytes:
    """As a Parquet file."""
    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table)
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd")
    return buffer.getvalue()


def small(table: str) -> pd.DataFrame:
    """A table of the small capture."""
    return Seed.of(SMALL).tables[f"{table}.parquet"].copy()


def test_the_small_capture_works_in_every_way(tmp_path: Path) -> None:
    """What the mutants are made of is opened, and every analysis, report and export works."""
    everything(xsp.load(SMALL), tmp_path)


def _later(parent: np.ndarray) -> np.ndarray:
    """Parents that come after their children, as in a circle."""
    return np.where(parent >= 0, np.minimum(parent + 40, len(parent) - 1), -1)


CHANGES: dict[str, tuple[str, str, Callable[[pd.DataFrame], Any], str]] = {
    "its own parent": ("spans", "parent", lambda t: t.index.to_numpy(), "MODEL span with a parent"),
    "a later parent": ("spans", "parent", lambda t: _later(t["parent"].to_numpy()), "before its"),
    "no such parent": ("spans", "parent", lambda t: t["parent"] + 10_000, "refers to row"),
    "no such run": ("spans", "run", lambda t: t["run"] + 100, "refers to row"),
    "no such detail": ("spans", "detail", lambda _: 99, "no row of its level's table"),
    "no such level": ("spans", "level", lambda _: 9, "between 0 and 4"),
    "text for a number": ("spans", "start_ns", lambda _: "soon", "whole numbers"),
    "a time of 300 years": (
        "spans",
        "duration_ns",
        lambda _: 2**63 - 1,
        "not 9223372036854775807",
    ),
    "a time below zero": ("spans", "duration_ns", lambda _: -1, "not -1"),
    "gaps": (
        "spans",
        "thread",
        lambda _: pd.array([None] * len(small("spans"))),
        "has missing values",
    ),
    "layers in a circle": ("layers", "forward", lambda t: t.index.to_numpy(), "cycle"),
    "no JSON": ("layers", "input_shapes", lambda _: "[[1, 2", "JSON"),
    "sizes below zero": ("layers", "input_shapes", lambda _: "[[-1]]", "from 0 to"),
    "huge sizes": ("layers", "input_shapes", lambda _: f"[{[2**39] * 3}]", "elements"),
    "another kind": ("kernels", "kind", lambda _: "teapot", "one of kernel, memcpy, memset"),
    "another rung": ("runs", "rung", lambda _: "K/M", "one of M"),
    "runs that skip": ("runs", "run", lambda t: t["run"].to_numpy()[::-1], "count from 0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_contents_are_named(change: str, tmp_path: Path) -> None:
    """A capture with wrong contents is refused with the table, the column and the rule."""
    table, column, made, said = CHANGES[change]
    broken = small(table)
    path = rewritten(tmp_path / "b.xsp", **{table: broken.assign(**{column: made(broken)})})
    with pytest.raises(xsp.CaptureError, match=said) as caught:
        xsp.load(path)
    assert table in str(caught.value)
    assert "b.xsp" in str(caught.value)


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_contents_are_not_saved(change: str, tmp_path: Path) -> None:
    """What would not open again is refused while it is still in memory, by the same rule; the file
    that stood there is as it was.
    """
    table, column, made, said = CHANGES[change]
    capture, path = load(SMALL), tmp_path / "b.xsp"
    path.write_bytes(b"before")
    broken = capture.tables[table]
    changed = {table: broken.assign(**{column: made(broken)})}
    with pytest.raises(xsp.CaptureError, match=said) as caught:
        Capture(capture.meta, capture.tables | changed).save(path)
    assert table in str(caught.value)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"before"]


def test_a_baseline_that_could_not_be_read_again_is_not_saved(tmp_path: Path) -> None:
    """A baseline is read before it takes the place of an older one."""
    baselines = Baselines(tmp_path, "main")
    good = Baseline.from_json((CORPUS / "baseline.json").read_text())
    path = baselines.write(PurePosixPath("test_a.json"), good)
    before = path.read_bytes()
    with pytest.raises(xsp.BaselineError, match="must be text in Unicode"):
        baselines.write(PurePosixPath("test_a.json"), dataclasses.replace(good, saved="\ud800"))
    assert path.read_bytes() == before


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    """Text that is no Unicode, in a table or in the manifest, is refused when it is opened."""
    layers = small("layers")
    arrow = pa.Table.from_pandas(layers)
    data = pa.array([b"\xed\xa0\x80"] * len(layers), pa.binary())
    spoiled = pa.StringArray.from_buffers(len(layers), data.buffers()[1], data.buffers()[2])
    table = arrow.set_column(arrow.schema.get_field_index("name"), "name", spoiled)
    with pytest.raises(xsp.CaptureError, match="Unicode"):
        xsp.load(rewritten(tmp_path / "b.xsp", layers=parquet(table)))
    manifest = Seed.of(SMALL).manifest
    manifest["meta"]["name"] = "\ud800"
    with zipfile.ZipFile(tmp_path / "c.xsp", "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
    with pytest.raises(xsp.CaptureError, match=r"meta\.name must be text in Unicode"):
        xsp.load(tmp_path / "c.xsp")


def test_names_cut_in_a_character_are_imported(tmp_path: Path) -> None:
    """A trace with half of a surrogate pair in a name is imported; whole pairs stay."""
    trace = json.loads((CORPUS / "kineto.json").read_text())
    named = [event for event in trace["traceEvents"] if event.get("cat") == "kernel"]
    named[0]["name"] = "half \ud83d"
    named[1]["name"] = "whole \U0001f600 \\ud83d"
    path = tmp_path / "t.json"
    path.write_text(json.dumps(trace))
    names = set(xsp.from_kineto(path).table("kernels")["name"])
    assert {"half \ufffd", "whole \U0001f600 \\ud83d"} <= names


def bombs(folder: Path) -> dict[str, Path]:
    """Small files that would take 50 MB to 2 GB of memory."""
    rows = pa.table({name: pa.nulls(3_000_000, pa.int64()) for name in ("run", "thread")})
    places = pa.array(np.zeros(20_000, np.int32))
    text = pa.table({"name": pa.DictionaryArray.from_arrays(places, pa.array(["a" * 100_000]))})
    packed = folder / "packed.xsp"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 20_000_000)
    long = folder / "long.xsp"
    with zipfile.ZipFile(long, "w") as archive:
        archive.writestr("manifest.json", b"[" + b"0," * 1_000_000 + b"0]")
    return {
        "rows": rewritten(folder / "rows.xsp", model_calls=parquet(rows)),
        "text": rewritten(folder / "text.xsp", modules=parquet(text)),
        "packed": packed,
        "long": long,
    }


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    """Small files that would fill memory are refused with the limit and how to raise it."""
    for name, path in bombs(tmp_path).items():
        tracemalloc.start()
        with pytest.raises(xsp.CaptureError, match=r"XSP_MAX_BYTES|compressed entry"):
            xsp.load(path, max_bytes=40_000_000)
        assert pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[1] < 40_000_000, name
        tracemalloc.stop()


def test_limits_can_be_raised_and_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is what was given, else what the variable says; what is no number is refused."""
    with pytest.raises(xsp.CaptureError, match="raise the limit"):
        xsp.load(SMALL, max_bytes=20_000)
    monkeypatch.setenv("XSP_MAX_BYTES", "20000")
    with pytest.raises(xsp.CaptureError, match="raise the limit"):
        xsp.load(SMALL)
    assert len(xsp.load(SMALL, max_bytes=10**9).runs)
    monkeypatch.setenv("XSP_MAX_BYTES", "much")
    with pytest.raises(xsp.XspError, match="XSP_MAX_BYTES"):
        xsp.load(SMALL)


def test_a_trace_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compressed trace is unpacked no further than the limit."""
    monkeypatch.setenv("XSP_MAX_BYTES", "1000000")
    path = tmp_path / "t.json.gz"
    body = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(body.compress(b" " * 100_000_000) + body.flush())
    with pytest.raises(xsp.CaptureError, match="raise the limit"):
        xsp.from_kineto(path)


def test_captures_with_stamps_below_zero_are_exported(tmp_path: Path) -> None:
    """Perfetto's format has no time below zero: such a run is shown later, with its lengths."""
    tables = {name: small(name) for name in ("spans", "api_calls", "model_calls")}
    for table in tables.values():
        for column in ("start_ns", "end_ns", "host_end_ns"):
            if column in table:
                table[column] = table[column].to_numpy(np.int64) - 10**10
    prof = xsp.load(rewritten(tmp_path / "b.xsp", **tables))
    assert prof.to_perfetto(tmp_path / "b.pftrace").stat().st_size > 1000


def test_what_a_version_does_not_know_is_kept(tmp_path: Path) -> None:
    """Columns of a later version are opened and saved again; columns of lists are refused."""
    layers = small("layers").assign(later=1.5)
    prof = xsp.load(rewritten(tmp_path / "b.xsp", layers=layers))
    again = xsp.load(prof.save(tmp_path / "c.xsp"))
    assert (again.table("layers")["later"] == 1.5).all()
    lists = small("layers").assign(later=pd.Series([[1]] * len(layers), dtype=object))
    with pytest.raises(xsp.CaptureError, match=r"layers\.later"):
        xsp.load(rewritten(tmp_path / "d.xsp", layers=lists))
