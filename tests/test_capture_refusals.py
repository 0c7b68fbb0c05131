"""How a capture that is refused is told of, and what writing never touches."""

from __future__ import annotations

import gzip
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from test_capture_rules import WHOLE, about, complaint, row_of, spans_with

import xsp
from xsp.capture.file import Capture, check_capture
from xsp.capture.limits import text_of
from xsp.capture.parquet import read_parquet, to_parquet
from xsp.capture.rules import items, json_text, plain
from xsp.capture.schema import TABLES
from xsp.capture.writing import append_text, staged_folder, writable, writable_folder, write_file


@pytest.mark.parametrize(
    ("length", "shown"), [(58, "'" + "x" * 58 + "'"), (59, "'" + "x" * 59 + "…")]
)
def test_texts_of_sixty_characters_are_shown_whole(length: int, shown: str) -> None:
    """With their quotes; of longer ones the begin."""
    said = about({}, trace={"trace_id": "x" * length, "parent_span_id": "", "first_span_id": 1})
    assert f"trace_id must be 32 hexadecimal digits, not {shown};" in f"{said};"


def test_capabilities_that_are_none_are_shown_in_part() -> None:
    """Forty characters of what stands there, which can be anything."""
    said = about({}, environment={"compute_capability": "x" * 100})
    assert said.endswith(f"such as 9.0, not '{'x' * 39}")


def test_numbers_of_two_hundred_bits_are_shown_whole() -> None:
    """Of longer ones the length, which is what is wrong with them."""
    assert f"not {str(2**199)[:60]}" in about({}, epoch_offset_ns=2**199)
    assert "a number of 201 bits" in about({}, epoch_offset_ns=2**200)


def test_the_first_broken_row_is_told() -> None:
    """Of several rows that are wrong, the one that a reader comes to first."""
    assert "row 7" in complaint("runs", run=[0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10, 11])


def test_tables_that_are_none_of_a_capture_are_refused() -> None:
    """A table that is not there, a column twice or of another type, and objects that no file can
    hold: what is made here is checked as what is read.
    """
    runs, spans = WHOLE.tables["runs"], WHOLE.tables["spans"]
    twice = pd.concat([runs, runs[["rung"]]], axis=1)
    objects = runs.assign(rung=pd.Series([{1}, *runs["rung"][1:]], dtype=object))
    lone = runs.assign(rung=pd.Series(["\ud800", *runs["rung"][1:]], dtype=object))
    fractions = spans.assign(level=spans["level"] + 0.5)
    without = {name: table for name, table in WHOLE.tables.items() if name != "kernels"}
    assert "runs has invalid values: Duplicate column names" in about({"runs": twice})
    assert "runs has invalid values" in about({"runs": objects})
    assert "runs has invalid values" in about({"runs": lone})
    assert "spans.level must be whole numbers, not double" in about({"spans": fractions})
    with pytest.raises(xsp.CaptureError, match="there is no table kernels"):
        check_capture(Capture(WHOLE.meta, without), "it")


def test_the_index_of_a_table_may_be_anything() -> None:
    """It is no part of the capture, and what a file cannot hold is taken there."""
    calls = WHOLE.tables["calls"]
    assert about({"calls": calls.set_axis([object()] * len(calls))}) == ""


def test_flags_are_flags() -> None:
    """Not the numbers that could stand for them."""
    numbers = WHOLE.tables["modules"]["is_leaf"].astype("int64")
    assert "modules.is_leaf must be of type bool, not int64" in complaint(
        "modules", is_leaf=numbers
    )


def test_operations_of_a_call_are_objects() -> None:
    """A list of them that holds anything else is refused with its place."""
    said = complaint("library_calls", arguments='{"operations": [3]}')
    assert "library_calls.arguments" in said
    assert "[0] must be an object, not 3" in said


LATER_COLUMNS = {"layers": {"weight_shape", "source"}}
"""Columns that captures of earlier versions do not have."""


@pytest.mark.parametrize("table", WHOLE.tables)
def test_a_table_has_all_its_columns(table: str) -> None:
    """One that is missing is named, whichever it is; captures of earlier versions are read."""
    columns = WHOLE.tables[table]
    for column in set(columns) & set(TABLES[table]):
        said = about({table: columns.drop(columns=column)})
        is_needed = column not in LATER_COLUMNS.get(table, ())
        assert (f"{table} lacks {column}" in said) == is_needed
        assert is_needed or said == ""


def test_what_is_to_be_json_is_text() -> None:
    """As the shapes of a baseline are, in a file that anybody can write."""
    shapes = json_text(items(plain))
    assert shapes("[[3, 4]]") == ""
    assert shapes(3) == " must be JSON as text, not 3"
    assert shapes("[") != ""
    assert shapes("{}") == " must be a list of at least 0 values, not dict of 0"


EVENT = {
    "start_ns": (-(2**61), 2**61),
    "context": (0, 2**32 - 1),
    "correlation_id": (0, 2**32 - 1),
}
OPTIONAL: dict[str, dict[str, tuple[int, int]]] = {
    "repeats": {
        **EVENT,
        "thread": (0, 2**32 - 1),
        "duration_ns": (0, 2**53),
        "stream": (-1, 2**31 - 1),
        "level": (2, 3),
    },
    "synchronizations": {
        **EVENT,
        "end_ns": (-(2**61), 2**61),
        "stream": (0, 2**32 - 1),
        "event_id": (0, 2**32 - 1),
        "kind": (0, 2**8 - 1),
    },
}
"""The bounds of tables that the small capture has no rows of."""

PLACES = [(table, column) for table, columns in OPTIONAL.items() for column in columns]


@pytest.mark.parametrize(("table", "column"), PLACES)
def test_numbers_of_optional_tables_have_bounds(table: str, column: str) -> None:
    """Both bounds of a column are taken, one below and one above are refused with its name."""
    low, high = OPTIONAL[table][column]
    for value in (low, high):
        assert f"{table}.{column} " not in with_row(table, {column: value})
    for value in (low - 1, high + 1):
        said = with_row(table, {column: value})
        assert f"{table}.{column} " in said
        assert str(value) in said


@pytest.mark.parametrize(
    ("table", "column", "first", "other"),
    [
        ("repeats", "run", 0, "runs"),
        ("repeats", "span", 0, "spans"),
        ("synchronizations", "run", 0, "runs"),
    ],
)
def test_rows_of_optional_tables_lead_somewhere(
    table: str, column: str, first: int, other: str
) -> None:
    """To the last row of the other table at most, and to none before the first."""
    count = len(WHOLE.tables[other])
    for row in (first, count - 1):
        assert f"{table}.{column} " not in with_row(table, {column: row})
    said = with_row(table, {column: count})
    assert f"{table}.{column} refers to row {count}, and there are only {count}" in said
    assert f"{table}.{column} must be between 0" in with_row(table, {column: -1})


def with_row(table: str, values: dict[str, int]) -> str:
    """What is said of a table with one row, which has these values."""
    names = {"run", "span", *OPTIONAL[table]} - ({"span"} if table == "synchronizations" else set())
    row = {**dict.fromkeys(names, 0), "level": 2, **values}
    if table == "synchronizations":
        del row["level"]
    return about({table: pd.DataFrame([row])})


@pytest.mark.parametrize(
    "forward", [[0], [1, 0], [1, 2, 3, 0], [-1, 2, 3, 1], [-1, -1, -1, 3], [3, 0, 0, 4, 3]]
)
def test_layers_that_lead_to_each_other_in_a_circle_are_refused(forward: list[int]) -> None:
    """Whichever rows they are: whoever follows them would never come to an end."""
    layers = WHOLE.tables["layers"]
    links = [*forward, *[-1] * (len(layers) - len(forward))]
    assert "layers.forward forms a cycle" in about({"layers": layers.assign(forward=links)})


def test_a_model_call_has_one_span() -> None:
    """A second one is refused as a missing one is."""
    spans = spans_with(row_of(1, 1), level=0, parent=-1, detail=0)
    assert "exactly one MODEL span for each model call of a run (row 1)" in about(spans)


def test_a_capture_of_the_model_alone_has_two_rows_of_layers() -> None:
    """Those that stand for what is in no layer: nothing else was traced."""
    alone = {name: WHOLE.tables[name].iloc[:1] for name in ("runs", "model_calls")}
    alone["spans"] = WHOLE.tables["spans"].query("run == 0")
    alone["api_calls"] = WHOLE.tables["api_calls"].iloc[:0]
    assert about({**alone, "layers": WHOLE.tables["layers"].iloc[-2:]}) == ""
    assert "lacks its last two rows" in about({**alone, "layers": WHOLE.tables["layers"].iloc[-1:]})


def test_the_first_span_can_have_calls() -> None:
    """A call of the CUDA API outside every layer belongs to the model, the first span of all."""
    calls = WHOLE.tables["api_calls"].iloc[:1].assign(run=0, parent=0)
    assert about({"api_calls": calls}) == ""
    assert "a call without a parent" in about({"api_calls": calls.assign(parent=-1)})


@pytest.mark.parametrize("most", [100, 101])
def test_a_text_one_byte_too_long_is_refused(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never cut to the limit, which may be any number."""
    monkeypatch.setenv("XSP_MAX_BYTES", str(64 * most))
    path = tmp_path / "a.json"
    path.write_text("x" * most)
    assert text_of(path) == "x" * most
    path.write_text("x" * (most + 1))
    with pytest.raises(
        xsp.CaptureError, match=f"has {most + 1} bytes, more than the limit of {most}"
    ):
        text_of(path)


COLUMNS: dict[str, tuple[dict[str, list[Any]], int]] = {
    "numbers": ({"a": [7] * 5000, "b": [7] * 5000}, 2 * 5000 * 8),
    "texts": ({"a": [f"{number:01000}" for number in range(50)]}, 50 * 1000),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_tables_beyond_the_limit_are_never_unpacked(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a small file would unpack to is known from its directory: refused, it takes no
    memory.
    """
    columns, unpacked = COLUMNS[kind]
    content = pa.py_buffer(to_parquet(pd.DataFrame(columns)))
    assert len(content) < unpacked
    assert len(read_parquet(content, 2 * unpacked, "it")) == len(columns["a"])
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(xsp.CaptureError, match="more than the limit"):
        read_parquet(content, unpacked - 1, "it")


# ---- writing ----


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> str:
    """Somebody foresees the name of the unfinished file."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    return f".xsp-{'0' * 16}.partial"


WRITES: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: write_file(folder / "a", b"content"),
    "a trial": lambda folder: writable(folder / "a"),
    "a folder's trial": lambda folder: writable_folder(folder / "new"),
    "a folder": lambda folder: staged(folder / "new"),
}


def staged(folder: Path) -> None:
    """Write a folder of one file."""
    with staged_folder(folder, last="a") as made:
        (made / "a").write_text("content")


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("is_link", [False, True])
def test_an_unfinished_name_that_is_taken_is_refused(
    kind: str, is_link: bool, foreseen: str, tmp_path: Path
) -> None:
    """What stands there, or where a link of that name leads, is not written to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    taken = tmp_path / foreseen
    if is_link:
        taken.symlink_to(victim)
    else:
        taken.write_bytes(b"mine")
    with pytest.raises(xsp.WriteError, match="exists"):
        WRITES[kind](tmp_path)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "new").exists()


def test_the_content_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, then its place, then the folder: after a loss of power there is the old file or the
    new one.
    """
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_file(tmp_path / "a", b"content")
    assert done == ["file", "name", "folder"]
    done.clear()
    staged(tmp_path / "new")
    assert done == ["folder"]


@pytest.fixture
def of_nobody() -> Iterator[Path]:
    """A folder in which everybody may make files, for a user who is not allowed everything."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o777)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(before)


def test_a_file_that_may_not_be_written_is_not_replaced(of_nobody: Path) -> None:
    """Although its folder would let it be: that it is write-protected is somebody's wish."""
    path = of_nobody / "a"
    path.write_bytes(b"precious")
    path.chmod(0o444)
    writes: list[Callable[[], object]] = [
        lambda: write_file(path, b"other"),
        lambda: writable(path),
    ]
    for write in writes:
        with pytest.raises(xsp.WriteError, match="Permission denied"):
            write()
    assert path.read_bytes() == b"precious"
    assert os.listdir(of_nobody) == ["a"]


def test_a_folder_that_takes_no_files_is_refused(of_nobody: Path) -> None:
    """Both before the work and when it is written."""
    closed = of_nobody / "closed"
    closed.mkdir(0o555)
    writes: list[Callable[[], object]] = [
        lambda: write_file(closed / "a", b"x"),
        lambda: writable(closed / "a"),
        lambda: writable_folder(closed / "new"),
        lambda: staged(closed / "new"),
        lambda: append_text(closed / "a", "x"),
    ]
    for write in writes:
        with pytest.raises(xsp.WriteError, match="Permission denied"):
            write()
    assert os.listdir(closed) == []


def test_text_is_added_at_the_end(tmp_path: Path) -> None:
    """Several commands can write to one file; what cannot be one is refused."""
    path = tmp_path / "pages.md"
    assert append_text(path, "one\n") == path
    append_text(path, "zwö\n")
    assert path.read_bytes() == "one\nzwö\n".encode()
    with pytest.raises(xsp.WriteError, match="is a directory"):
        append_text(tmp_path, "x")


def test_asking_leaves_nothing(tmp_path: Path) -> None:
    """Whether a file or a folder can be written is found out without a trace."""
    assert writable(tmp_path / "a") == tmp_path / "a"
    deep = tmp_path / "one" / "two"
    assert writable_folder(deep) == deep
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(xsp.WriteError, match="is a file, but a folder is needed"):
        writable_folder(tmp_path / "file")
    with pytest.raises(xsp.WriteError, match="is a file, but a folder is needed"):
        staged(tmp_path / "file")
    with pytest.raises(xsp.WriteError, match="there is no directory"):
        writable(deep / "a")


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    """Through a file, round in a circle, or by a name that no file can have: always as a WriteError
    with the reason, and with nothing made.
    """
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.iterdir())
    for name, reason in {
        "file/a": "Not a directory",
        "circle": "Too many levels of symbolic links",
        "a" * 300: "File name too long",
    }.items():
        with pytest.raises(xsp.WriteError, match=f"cannot be written: {reason}"):
            write_file(tmp_path / name, b"")
        with pytest.raises(xsp.WriteError, match=f"cannot be written: {reason}"):
            append_text(tmp_path / name, "x")
    assert sorted(tmp_path.iterdir()) == before


def test_a_socket_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only regular files are replaced, and what stands there instead is named."""
    # The path of a socket may have 108 characters only.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(xsp.WriteError, match="'socket' is a socket, and only regular files"):
            writable("socket")
    assert stat.S_ISSOCK(os.stat("socket").st_mode)


def test_folders_above_a_new_folder_are_made(tmp_path: Path) -> None:
    """A folder can be written however deep, and again over itself."""
    deep = tmp_path / "one" / "two"
    for _ in range(2):
        staged(deep)
    assert (deep / "a").read_text() == "content"
    assert [each.name for each in tmp_path.rglob("*")] == ["one", "two", "a"]


def test_a_block_that_raises_leaves_no_folder(tmp_path: Path) -> None:
    """What was written is taken away, and the exception is the block's own."""

    def failing() -> None:
        with staged_folder(tmp_path / "out", last="a") as made:
            (made / "a").write_text("content")
            raise ValueError("the block's")

    with pytest.raises(ValueError, match="the block's"):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_what_is_compressed_is_told_by_its_name(tmp_path: Path) -> None:
    """A name that ends in `.gz`, and the same bytes each time; any other is written as it is."""
    content = b"content" * 100
    one = write_file(tmp_path / "a.json.gz", content).read_bytes()
    other = write_file(tmp_path / "b.json.gz", content).read_bytes()
    assert one == other
    assert len(one) < len(content)
    assert gzip.decompress(one) == content
    assert write_file(tmp_path / "gz", content).read_bytes() == content


def test_owners_are_kept_where_the_system_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another owner, or of another group, is given back to them; where that is not
    allowed it is written nevertheless.
    """
    asked: list[tuple[int, int]] = []

    def fchown(_descriptor: int, user: int, group: int) -> None:
        asked.append((user, group))
        raise PermissionError

    path = tmp_path / "a"
    monkeypatch.setattr("os.fchown", fchown)
    write_file(path, b"one")
    write_file(path, b"two")
    assert asked == []
    fstat = _of_others(monkeypatch)
    others = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    for other in others:
        fstat.append(other)
        write_file(path, b"three")
    assert len(asked) == len(others)
    assert path.read_bytes() == b"three"


def _of_others(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Makes new files those of another user and group, by as much as the last entry says."""
    shift: list[tuple[int, int]] = [(0, 0)]
    fstat = os.fstat

    def shifted(descriptor: int) -> os.stat_result:
        values = list(fstat(descriptor))
        values[4] += shift[-1][0]
        values[5] += shift[-1][1]
        return os.stat_result(values)

    monkeypatch.setattr("os.fstat", shifted)
    return shift
