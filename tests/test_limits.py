"""How large a file may be that somebody else wrote: exactly as large as the limit says."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz.captures import Seed
from fuzz.targets import CORPUS

import xsp
from xsp.capture.limits import MAX_BYTES, most_bytes, text_of
from xsp.capture.parquet import read_parquet

SMALL = CORPUS / "small.xsp"


def packed(table: pa.Table) -> pa.Buffer:
    """As a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return pa.py_buffer(buffer.getvalue())


def saved(path: Path, manifest: Any, **tables: pa.Table) -> Path:
    """The small capture with this manifest and these tables."""
    content = Seed.of(SMALL).packed | {
        f"{name}.parquet": packed(table).to_pybytes() for name, table in tables.items()
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_the_limit_is_what_was_given_or_told_or_a_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is given comes before the variable, and an empty variable says nothing."""
    monkeypatch.delenv("XSP_MAX_BYTES", raising=False)
    assert most_bytes() == MAX_BYTES == 1024**3
    monkeypatch.setenv("XSP_MAX_BYTES", "")
    assert most_bytes() == 1024**3
    monkeypatch.setenv("XSP_MAX_BYTES", "1")
    assert (most_bytes(), most_bytes(7)) == (1, 7)


@pytest.mark.parametrize("given", [0, -1, True, 1.0, "two"])
def test_limits_are_whole_numbers_above_zero(given: Any) -> None:
    """What is no number of bytes is refused with what was given."""
    with pytest.raises(xsp.XspError, match="max_bytes must be a whole number of bytes > 0"):
        xsp.load(SMALL, max_bytes=given)


@pytest.mark.parametrize("told", ["0", "-1", "1.5", "1e9", "²"])
def test_the_variable_holds_a_whole_number_above_zero(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the variable says is refused under its name where it is no number of bytes."""
    monkeypatch.setenv("XSP_MAX_BYTES", told)
    with pytest.raises(xsp.XspError, match=f"XSP_MAX_BYTES must be .* not '{told}'"):
        xsp.load(SMALL)


def test_a_manifest_may_have_a_64th_part_of_the_limit(tmp_path: Path) -> None:
    """A manifest of exactly that length is read; with a limit of one byte less it is not."""
    manifest = Seed.of(SMALL).manifest
    manifest["meta"]["warnings"] = ["x" * 10_000]
    text = json.dumps(manifest)
    path = saved(tmp_path / "a.xsp", text)
    limit = 64 * len(text)
    assert xsp.load(path, max_bytes=limit).warnings[0].startswith("xxx")
    with pytest.raises(xsp.CaptureError, match=f"manifest of .* has {len(text):,} bytes"):
        xsp.load(path, max_bytes=limit - 1)


def test_numbers_take_eight_bytes_each() -> None:
    """A table of numbers is read where it fits exactly."""
    fields = [pa.field(name, pa.int64(), nullable=False) for name in "ab"]
    content = packed(pa.table([[7] * 100] * 2, schema=pa.schema(fields)))
    assert read_parquet(content, 1600, "it").num_rows == 100
    with pytest.raises(xsp.CaptureError, match="it has 1,600 bytes"):
        read_parquet(content, 1599, "it")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_takes_its_length_in_every_row(kind: pa.DataType) -> None:
    """Text that repeats is counted in each row, with eight bytes for its place; so is no text."""
    texts = pa.array(["a" * 50, "b" * 150, None, ""] * 25, kind)
    content = packed(pa.table({"name": texts}))
    size = 25 * (50 + 150) + 100 * 8
    assert read_parquet(content, size, "it").num_rows == 100
    with pytest.raises(xsp.CaptureError, match=f"it has {size:,} bytes"):
        read_parquet(content, size - 1, "it")


def test_tables_share_the_limit(tmp_path: Path) -> None:
    """Two tables that fit each on its own do not fit together."""
    rows = {"run": [0] * 100, "name": ["n" * 10_000] * 100, "domain": [""] * 100}
    stamps = {"thread": [1] * 100, "start_ns": [0] * 100, "end_ns": [1] * 100}
    ranges = pa.table(rows | stamps)
    modules = pa.table(
        {
            "name": ["m" * 10_000] * 100,
            "type": [""] * 100,
            "parameter_bytes": [0] * 100,
            "is_leaf": [True] * 100,
            "calls": [1] * 100,
        }
    )
    manifest = json.dumps(Seed.of(SMALL).manifest)
    alone = saved(tmp_path / "alone.xsp", manifest, modules=modules)
    both = saved(tmp_path / "both.xsp", manifest, modules=modules, ranges=ranges)
    assert len(xsp.load(alone, max_bytes=1_500_000).table("modules")) == 100
    assert len(xsp.load(both, max_bytes=2_500_000).table("modules")) == 100
    with pytest.raises(xsp.CaptureError, match="table ranges of"):
        xsp.load(both, max_bytes=1_500_000)


def test_a_text_file_may_be_as_long_as_the_limit_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A baseline of exactly that length is read, a longer one is refused with its length."""
    monkeypatch.setenv("XSP_MAX_BYTES", str(64 * 1000))
    path = tmp_path / "a.json"
    path.write_text("x" * 1000)
    assert text_of(path) == "x" * 1000
    path.write_text("x" * 3000)
    with pytest.raises(xsp.CaptureError, match=r"3,000 bytes, more than the limit of 1,000"):
        text_of(path)
    path.write_text("x" * 1001)
    with pytest.raises(xsp.CaptureError, match=r"1,001 bytes, more than the limit of 1,000"):
        text_of(path)


def test_the_whole_file_counts(tmp_path: Path) -> None:
    """What else lies in the zip takes its part of the limit."""
    path = saved(tmp_path / "a.xsp", json.dumps(Seed.of(SMALL).manifest))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.bin", b"0" * 1_000_000)
        size = sum(entry.file_size for entry in archive.infolist())
    assert len(xsp.load(path, max_bytes=size).runs)
    with pytest.raises(xsp.CaptureError, match=f"{size:,} bytes"):
        xsp.load(path, max_bytes=size - 1)


def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    """A zip with two files of one name, of which readers see different ones, is refused."""
    path = saved(tmp_path / "a.xsp", json.dumps(Seed.of(SMALL).manifest))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("runs.parquet", b"")
    with pytest.raises(xsp.CaptureError, match="two entries with the same name"):
        xsp.load(path)
