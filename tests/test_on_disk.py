"""A capture that is read from its file a few runs at a time refuses what `load` refuses, and reads
what `load` reads.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from capture_files import Change, rewritten, with_entry, with_value
from captures import gpu_capture

import xsp
from xsp.analysis import from_disk
from xsp.capture.file import Capture
from xsp.capture.on_disk import CaptureOnDisk
from xsp.types import Level

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "examples" / "captures" / "h100_train_step.xsp"
RUNS = len(gpu_capture().tables["runs"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small capture of three rounds."""
    return gpu_capture().save(tmp_path / "saved.xsp")


@pytest.fixture
def parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read one round at a time."""
    monkeypatch.setattr(from_disk, "SPANS_OF_PART", 1)


def last(column: str, value: int) -> Change:
    """Another value in the last row."""
    return with_value(column, -1, value)


BROKEN = {
    "the first run that there is not": ("spans", last("run", RUNS), r"spans\.run refers to a run"),
    "only the last run is one that there is not": (
        "spans",
        with_value("run", -1, 7 * RUNS),
        r"spans\.run refers to a run",
    ),
    "a run below 0": ("spans", with_value("run", 0, -1), "spans has rows that are not in order"),
    "runs in another order": ("spans", last("run", 0), "spans has rows that are not in order"),
    "a level beyond the last": ("spans", last("level", 5), r"spans\.level has a level that there"),
    "a level far beyond": ("spans", last("level", 9), r"spans\.level has a level that there"),
    "a level below the first": ("spans", last("level", -1), r"spans\.level has a level that there"),
    "a parent in another part": ("spans", last("parent", 0), r"spans\.parent refers to a row of o"),
    "a call of another part": ("api_calls", last("parent", 0), r"api_calls\.parent refers to a ro"),
    "a parent beyond the last": ("spans", last("parent", 999), r"spans\.parent refers to row"),
    "a detail beyond the last": ("spans", last("detail", 999), r"spans\.detail refers to no row"),
    "a duration below 0": ("spans", last("duration_ns", -1), r"spans\.duration_ns"),
    "a call without a span": ("api_calls", last("parent", -1), "api_calls has a call without a p"),
    "an end before its start": ("model_calls", last("host_end_ns", 0), "model_calls has an end be"),
}
"""By what is wrong: the table, the change, and what is said."""


@pytest.mark.usefixtures("parted")
@pytest.mark.parametrize("wrong", BROKEN)
def test_what_is_broken_is_told(saved: Path, tmp_path: Path, wrong: str) -> None:
    """What leads nowhere, or cannot be, is refused wherever it lies in the file."""
    table, change, said = BROKEN[wrong]
    path = rewritten(tmp_path / "broken.xsp", saved, table, change, row_group_size=5)
    with pytest.raises(xsp.CaptureError, match=said):
        from_disk.tree_from_file(path)


@pytest.mark.usefixtures("parted")
@pytest.mark.parametrize("statistics", [True, False])
def test_a_file_that_does_not_say_which_runs_a_group_has_is_read(
    saved: Path, tmp_path: Path, *, statistics: bool
) -> None:
    """Other writers leave out the first and last run of a group: the table is the same."""
    plain = tmp_path / "plain.xsp"
    path = rewritten(plain, saved, row_group_size=4, write_statistics=statistics)
    expected = xsp.load(path).tree()
    pd.testing.assert_frame_equal(from_disk.tree_from_file(path), expected, check_exact=True)


@pytest.mark.usefixtures("parted")
def test_entries_may_have_fields_of_other_tools(saved: Path, tmp_path: Path) -> None:
    """What `zip` and its like write between an entry's name and its content is passed over."""
    path = tmp_path / "other.xsp"
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(path, "w") as other:
        for entry in archive.infolist():
            content = archive.read(entry)
            entry.extra = b"UT\x05\x00\x01abcd"
            other.writestr(entry, content)
    pd.testing.assert_frame_equal(from_disk.tree_from_file(path), from_disk.tree_from_file(saved))


def test_the_events_of_each_run_are_counted(saved: Path, tmp_path: Path) -> None:
    """Spans are counted by run and level over all groups of rows; calls, which have no level, in
    one column, the first run's too; a table that the file does not have has no rows.
    """
    path = rewritten(tmp_path / "groups.xsp", saved, row_group_size=4)
    tables = xsp.load(path)._capture.tables
    counted = pd.crosstab(tables["spans"]["run"], tables["spans"]["level"])
    spans = counted.reindex(columns=range(len(Level)), fill_value=0)
    calls = np.bincount(tables["api_calls"]["run"], minlength=RUNS)
    with CaptureOnDisk(path) as capture:
        assert (capture.events_by_run("spans") == spans.to_numpy()).all()
        assert (capture.events_by_run("api_calls") == calls[:, None] * [1, 0, 0, 0, 0]).all()
        assert (capture.events_by_run("model_calls") == [[1, 0, 0, 0, 0]] * RUNS).all()
        assert (capture.events_by_run("ranges") == np.zeros((RUNS, len(Level)))).all()


def test_a_capture_of_the_model_alone_is_read(tmp_path: Path) -> None:
    """A file without any layer, call or kernel has the table that memory gives."""
    prof = xsp.measure(lambda: None, levels="model", iterations=3)
    path = prof.save(tmp_path / "model.xsp")
    pd.testing.assert_frame_equal(from_disk.tree_from_file(path), prof.tree(), check_exact=True)


@pytest.mark.parametrize("read", [xsp.load, from_disk.tree_from_file])
def test_a_column_twice_is_refused(saved: Path, tmp_path: Path, read: Callable[..., Any]) -> None:
    """Another program can write such a file: which of the two is meant nobody knows."""
    table = pa.Table.from_pandas(xsp.load(saved).table("modules"), preserve_index=False)
    twice, buffer = table.append_column("name", table["name"]), io.BytesIO()
    pq.write_table(twice, buffer)
    path = with_entry(tmp_path / "twice.xsp", saved, "modules.parquet", buffer.getvalue())
    with pytest.raises(xsp.CaptureError, match="modules has two columns with the same name"):
        read(path)


@pytest.mark.usefixtures("parted")
def test_each_group_of_rows_is_read_once(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many parts the runs are cut into, the rest of the file is not read for each."""
    path = rewritten(tmp_path / "groups.xsp", saved, row_group_size=4)
    read: list[int] = []
    really = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        read.append(group)
        return really(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    with CaptureOnDisk(path) as capture:
        parts = list(capture.parts(np.arange(RUNS + 1), ("spans",)))
    assert sum(len(part["spans"]) for part in parts) == 66
    assert read == list(range(17))


@pytest.mark.parametrize("table", ["spans", "layers"])
def test_a_damaged_table_is_told_and_nothing_stays_open(
    saved: Path, tmp_path: Path, table: str
) -> None:
    """A file whose tables are no Parquet is refused as damaged, and is closed again."""
    damaged = with_entry(tmp_path / "damaged.xsp", saved, f"{table}.parquet", b"none")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(xsp.CaptureError, match=r"damaged\.xsp' is not an xsp capture") as refused:
        from_disk.tree_from_file(damaged)
    assert refused.value.__cause__ is not None
    assert set(os.listdir("/proc/self/fd")) <= before


LIMIT = 1_000_000


@pytest.mark.parametrize(
    ("rows", "most", "said"),
    [
        (1 << 20, 1, r"a part of the table spans of .* has [\d,]+ bytes, more than the limit"),
        (5000, 1 << 20, r"the table spans of .*, runs 0 to 119, has [\d,]+ bytes"),
        (5000, 10_000, ""),
    ],
)
def test_the_limit_is_of_what_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, most: int, said: str
) -> None:
    """A group of rows, or a part of the runs, that takes more than `max_bytes` is refused; a file
    whose groups and parts are small is read though all of it takes more.
    """
    training = xsp.load(TRAINING)._capture
    # Without correction, which takes the time here.
    whole = Capture({**training.meta, "correction": None}, training.tables)
    saved = whole.save(tmp_path / "saved.xsp")
    path = rewritten(tmp_path / "groups.xsp", saved, row_group_size=rows)
    monkeypatch.setattr(from_disk, "SPANS_OF_PART", most)
    if said:
        with pytest.raises(xsp.CaptureError, match=said):
            from_disk.tree_from_file(path, max_bytes=LIMIT)
        return
    with pytest.raises(xsp.CaptureError, match="more than the limit"):
        xsp.load(path, max_bytes=LIMIT)
    assert len(from_disk.tree_from_file(path, max_bytes=LIMIT))
