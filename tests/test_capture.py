"""Captures: nothing is lost on disk, opening needs no torch, and whatever is no capture is refused
clearly.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from quick import LAYERS, measured, profiled
from torch import nn

import xsp
from xsp.capture.file import TABLES, VERSION


@pytest.fixture(scope="module")
def prof() -> xsp.Profile:
    """A profile of a training step, made once."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return measured(lambda x: model(x).sum().backward(), torch.randn(2, 4))


@pytest.fixture
def saved(prof: xsp.Profile, tmp_path: Path) -> Path:
    """Its capture."""
    return prof.save(tmp_path / "a.xsp")


def test_loading_gives_back_what_was_saved(prof: xsp.Profile, saved: Path) -> None:
    """Spans, tree, runs, levels, environment, trace and all raw tables are the same after saving
    and loading.
    """
    loaded = xsp.load(saved)
    for one, other in (
        (prof.spans, loaded.spans),
        (prof.tree(), loaded.tree()),
        (prof.levels, loaded.levels),
    ):
        assert_frame_equal(one, other)
    again = loaded.raw_tables(*TABLES)
    for name, table in prof.raw_tables(*TABLES).items():
        assert_frame_equal(table, again[name], check_categorical=False, check_dtype=False)
    assert loaded.environment == json.loads(json.dumps(prof.environment))
    assert (loaded.name, loaded.warnings, loaded.clock, loaded.trace) == (
        prof.name,
        prof.warnings,
        prof.clock,
        prof.trace,
    )
    assert loaded.latency_ms == prof.latency_ms


def test_saving_a_loaded_capture_again_changes_nothing(saved: Path, tmp_path: Path) -> None:
    """A capture can be loaded and saved any number of times."""
    again = xsp.load(xsp.load(saved).save(tmp_path / "b.xsp"))
    assert_frame_equal(again.spans, xsp.load(saved).spans)
    assert_frame_equal(again.tree(), xsp.load(saved).tree())


def test_save_accepts_a_string_and_returns_the_path(prof: xsp.Profile, tmp_path: Path) -> None:
    """`save` takes what `open` takes and says where it wrote; nothing else is left beside it."""
    path = prof.save(str(tmp_path / "a.xsp"))
    assert path == tmp_path / "a.xsp"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
def test_truncated_capture_is_refused(saved: Path, share: float) -> None:
    """A file that was cut anywhere is refused with its path and what to do, never half read."""
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(xsp.CaptureError, match=r"a\.xsp") as caught:
        xsp.load(saved)
    assert "prof.save" in str(caught.value)


def test_cut_by_a_single_byte_is_refused(saved: Path) -> None:
    """Even the last byte counts."""
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(xsp.CaptureError, match=r"a\.xsp"):
        xsp.load(saved)


def test_flipped_bits_are_refused_or_harmless(prof: xsp.Profile, saved: Path) -> None:
    """A damaged byte is either found by a checksum or lies where it changes no number."""
    whole = saved.read_bytes()
    spans = prof.spans
    for at in np.random.default_rng(0).integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        saved.write_bytes(bytes(damaged))
        try:
            loaded = xsp.load(saved)
        except xsp.CaptureError:
            continue
        assert_frame_equal(loaded.spans, spans)


@pytest.mark.parametrize(
    "content", [b"", b"name,latency\nfc,3\n", b"PK\x03\x04 not really", b"\x00" * 4096]
)
def test_files_that_are_no_captures_are_refused(content: bytes, tmp_path: Path) -> None:
    """Empty files, text and bytes that merely look like a zip are refused with the path."""
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(xsp.CaptureError, match=r"other\.bin"):
        xsp.load(path)


@pytest.mark.parametrize(
    "manifest", [None, "[]", '{"format": "other"}', "{", '{"format": "xsp capture", "version": 1}']
)
def test_foreign_zip_files_are_refused(manifest: str | None, tmp_path: Path) -> None:
    """A zip file without xsp's manifest, with another's, or with nothing else in it is refused."""
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
        if manifest is not None:
            archive.writestr("manifest.json", manifest)
    with pytest.raises(xsp.CaptureError, match=r"foreign\.zip"):
        xsp.load(path)


def rewritten(saved: Path, path: Path, **changes: Any) -> Path:
    """The capture with entries of its manifest changed."""
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(path, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "manifest.json":
                content = json.dumps(json.loads(content) | changes).encode()
            other.writestr(name, content)
    return path


def test_the_layout_of_a_file_is_the_one_that_the_docs_describe(saved: Path) -> None:
    """A capture opens with every release that knows the version of docs/captures.md."""
    page = (Path(__file__).parent.parent / "docs" / "captures.md").read_text()
    with zipfile.ZipFile(saved) as archive:
        written = json.loads(archive.read("manifest.json"))
    assert f'"version": {written["version"]}' in page


def test_newer_captures_say_how_to_open_them(saved: Path, tmp_path: Path) -> None:
    """A capture of a later version, the very next one too, is refused with both versions and the
    upgrade.
    """
    for version in (VERSION + 1, 99):
        with pytest.raises(xsp.CaptureError, match=rf"{version}.*up to {VERSION}.*upgrade"):
            xsp.load(rewritten(saved, tmp_path / "b.xsp", version=version))


@pytest.mark.parametrize("version", [None, "1", True, 0, -1, 1.5])
def test_impossible_versions_are_refused(saved: Path, tmp_path: Path, version: Any) -> None:
    """A version that no xsp ever wrote is refused."""
    with pytest.raises(xsp.CaptureError, match=r"b\.xsp"):
        xsp.load(rewritten(saved, tmp_path / "b.xsp", version=version))


def test_manifest_without_meta_is_refused(saved: Path, tmp_path: Path) -> None:
    """A manifest that lacks its content is refused on loading, not when it is first read."""
    broken: tuple[Any, ...] = (None, [], {})
    for meta in broken:
        with pytest.raises(xsp.CaptureError, match=r"b\.xsp"):
            xsp.load(rewritten(saved, tmp_path / "b.xsp", meta=meta))


def test_missing_paths_and_directories_are_named(tmp_path: Path) -> None:
    """A path without a file, and a directory, give an error with the path and the way out."""
    for path in (tmp_path / "absent.xsp", tmp_path):
        with pytest.raises(xsp.CaptureError) as caught:
            xsp.load(path)
        assert str(path) in str(caught.value)
        assert "prof.save" in str(caught.value)


def test_failed_saving_keeps_the_old_file(
    prof: xsp.Profile, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails half way, the file that was there stays whole and no partial file
    is left.
    """
    before = saved.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(xsp.WriteError, match="no space left"):
        prof.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_captures_hold_data_only(saved: Path) -> None:
    """A capture is one JSON manifest and Parquet tables: nothing that is executed when it is
    opened.
    """
    with zipfile.ZipFile(saved) as archive:
        names = set(archive.namelist())
        tables = (*TABLES, "calls_of_modules")
        assert names == {"manifest.json", *(f"{name}.parquet" for name in tables)}
        assert all(archive.read(name)[:4] == b"PAR1" for name in names - {"manifest.json"})
        json.loads(archive.read("manifest.json"))


def test_large_captures_are_small_on_disk(tmp_path: Path) -> None:
    """More than 5,000 spans take fewer than 40 bytes each."""
    model = nn.Sequential(*(nn.Identity() for _ in range(300)))
    prof = xsp.measure(model, torch.ones(1), **{**LAYERS, "iterations": 20})
    assert len(prof.spans) > 5000
    assert prof.save(tmp_path / "large.xsp").stat().st_size / len(prof.spans) < 40


def test_unfinished_profiles_cannot_be_saved(tmp_path: Path) -> None:
    """Saving inside the block says that the numbers are not there yet, and writes nothing."""
    model = nn.Linear(2, 2)
    with xsp.profile(model, **LAYERS) as prof:
        with pytest.raises(xsp.XspError, match="block has ended"):
            prof.save(tmp_path / "a.xsp")
        model(torch.ones(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_models_with_unusual_names_and_texts_survive(tmp_path: Path) -> None:
    """Class names beyond ASCII come back unchanged."""
    kind = type("Größe", (nn.Sequential,), {})
    loaded = xsp.load(profiled(kind(nn.Linear(2, 2)), torch.ones(1, 2)).save(tmp_path / "ä.xsp"))
    assert loaded.name == "Größe"
