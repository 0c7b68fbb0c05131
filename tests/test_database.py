"""The performance database: what is written stays, whoever else writes and whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, inspect

from xsp.cli import main
from xsp.database import schema
from xsp.database.entry import Entry, Machine
from xsp.database.merge import export_entries, import_entries, merge
from xsp.database.store import Store
from xsp.errors import DatabaseError, XspError
from xsp.graphs.layer import Layer, TensorType

HERE = Machine({"gpu": "NVIDIA H200", "driver": "580.1", "torch": "2.11", "max_sm_clock_mhz": 1980})
THERE = Machine({**HERE.facts, "driver": "590.2"})


def entry(size: int = 8, **changes: object) -> Entry:
    """A ReLU of some size that took a microsecond for each element."""
    layer = Layer("", "relu", inputs=(TensorType((size,), "float16"),))
    made = Entry(
        HERE, layer, "fp16", "torch", "warm", 1e3 * size, 10.0, 20, 1.0, "", {"clock": 1980}
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def by_key(store: Store) -> dict[tuple[str, ...], Entry]:
    return {each.key: each for each in store.entries()}


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "layers.sqlite")
        return
    url = request.getfixturevalue("postgresql_server")
    yield url
    engine = create_engine(url)
    schema.metadata.drop_all(engine)
    engine.dispose()


# ---- reading and writing ----


def test_what_is_written_is_read_back(place: str) -> None:
    """Entries come back equal, by machine, layer and caches, also when the database is reopened."""
    given = [entry(8), entry(16), entry(8, caches="cold"), entry(8, machine=THERE)]
    failed = entry(32, time_ns=None, half_width_ns=None, failure="no such engine")
    with Store(place) as store:
        assert store.put([*given, failed]) == 5
    with Store(place) as store:
        assert store.entries() == [replace(each) for each in store.entries()]
        assert by_key(store) == {each.key: each for each in (*given, failed)}
        assert store.entries(THERE) == [given[3]]
        assert store.entries(HERE, [given[1].layer]) == [given[1]]
        assert store.entries(HERE, caches="cold") == [given[2]]
        assert store.machines()["entries"].sum() == 5
        assert store.table()["time_us"].isna().sum() == 1


def test_the_later_measurement_stays(place: str) -> None:
    """An entry replaces an older one of its key, and is not replaced by an older one."""
    with Store(place) as store:
        store.put([entry(time_ns=5.0, measured_at=2.0)])
        store.put([entry(time_ns=9.0, measured_at=1.0)])
        assert [each.time_ns for each in store.entries()] == [5.0]
        store.put([entry(time_ns=7.0, measured_at=3.0), entry(time_ns=8.0, measured_at=2.5)])
        assert [each.time_ns for each in store.entries()] == [7.0]


def _write(place: str, first: int, count: int) -> None:
    with Store(place) as store:
        for number in range(first, first + count):
            store.put([entry(number + 1), entry(1, algorithm="shared", measured_at=float(number))])


def test_many_writers_and_readers(place: str) -> None:
    """Four processes write at once while this one reads; every entry is there in the end, and the
    entry that all write is the one measured last.
    """
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(place, 25 * one, 25)) for one in range(4)]
    for each in writers:
        each.start()
    seen = 0
    with Store(place) as store:
        while any(each.is_alive() for each in writers):
            now = len(store.entries())
            assert now >= seen
            seen = now
        for each in writers:
            each.join()
            assert each.exitcode == 0
        found = store.entries()
    assert len(found) == 101
    assert next(each for each in found if each.algorithm == "shared").measured_at == 99.0


def test_a_killed_writer_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """A process killed in the middle of writing leaves whole entries, and others go on writing."""
    place = str(tmp_path / "layers.sqlite")
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_write, args=(place, 0, 100_000))
    writer.start()
    deadline = time.monotonic() + 30
    while not Path(place).exists() or len(Store(place).entries()) < 5:
        assert time.monotonic() < deadline
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with Store(place) as store:
        left = store.entries()
        assert len(left) >= 5
        assert all(each.time_ns == 1e3 * each.layer.inputs[0].elements for each in left)
        store.put([entry(7, algorithm="afterwards")])
        assert len(store.entries()) == len(left) + 1
    check = sqlite3.connect(place).execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


# ---- versions ----


def test_an_older_database_is_brought_up_to_date(place: str) -> None:
    """A database of version 1 keeps its entries and has what version 2 adds once it is opened."""
    url = place if "://" in place else f"sqlite:///{place}"
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.migrate(connection, to=1)
        row = {"digest": HERE.digest, "name": HERE.name, "facts": '{"gpu": "NVIDIA H200"}'}
        connection.execute(insert(schema.machines).values(row))
    assert "entries_by_layer" not in {
        each["name"] for each in inspect(engine).get_indexes("entries")
    }
    engine.dispose()
    with Store(place) as store:
        assert store.machines()["name"].tolist() == ["NVIDIA H200"]
    engine = create_engine(url)
    assert "entries_by_layer" in {each["name"] for each in inspect(engine).get_indexes("entries")}
    with engine.begin() as connection:
        assert schema.migrate(connection) == schema.VERSION
    engine.dispose()


def test_newer_and_foreign_databases_are_left_alone(tmp_path: Path) -> None:
    """A database of a newer xsp or of another program is refused in a sentence, unchanged."""
    newer, foreign = tmp_path / "newer.sqlite", tmp_path / "foreign.sqlite"
    Store(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE xsp_database SET version = 99")
    with pytest.raises(DatabaseError, match="version 99"):
        Store(newer)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(DatabaseError, match="songs"):
        Store(foreign)
    tables = sqlite3.connect(foreign).execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("songs",)]


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    """A file that is no database, a URL without a driver, and a folder give one sentence each."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be read as one\n" * 40)
    with pytest.raises(DatabaseError, match="not a performance database"):
        Store(text)
    assert text.read_text().startswith("not a database")
    for wrong in ("nonsense://host/name", str(tmp_path), str(text / "below" / "it.sqlite")):
        with pytest.raises(DatabaseError) as caught:
            Store(wrong)
        assert "\n" not in str(caught.value)


def test_a_locked_database_is_said(tmp_path: Path) -> None:
    """A writer that waits too long for another says so; once that is done, nothing is lost."""
    path = tmp_path / "layers.sqlite"
    with Store(path, patience_s=0.1) as store:
        store.put([entry(1)])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked by another program"):
            store.put([entry(2)])
        assert len(store.entries()) == 1
        other.execute("ROLLBACK")
        store.put([entry(2)])
        assert len(store.entries()) == 2


# ---- between machines ----


def test_export_and_import_and_merge(place: str, tmp_path: Path) -> None:
    """An exported database taken in elsewhere has the same entries; taking it in twice changes
    nothing; two databases merged have the entries of both.
    """
    given = [entry(8), entry(16, machine=THERE), entry(32, time_ns=None, failure="none")]
    path = tmp_path / "measured.json.gz"
    with Store(place) as store, Store(tmp_path / "other.sqlite") as other:
        store.put(given)
        assert export_entries(store, path) == 3
        assert import_entries(other, path) == 3
        assert import_entries(other, path) == 3
        assert by_key(other) == by_key(store)
        other.put([entry(64)])
        assert merge(store, other) == 4
        assert by_key(store) == by_key(other)


def test_a_damaged_export_changes_nothing(tmp_path: Path) -> None:
    """A file that is cut short, damaged or of something else is refused before anything is
    written.
    """
    whole = tmp_path / "whole.json"
    with Store(tmp_path / "from.sqlite") as store:
        store.put([entry(size) for size in range(1, 5)])
        export_entries(store, whole)
    lines = whole.read_text().splitlines()
    contents = {
        "cut": "\n".join(lines[:-1]),
        "half": "\n".join([*lines[:-1], lines[-1][:40]]),
        "other": '{"format": "other"}',
        "empty": "",
    }
    with Store(tmp_path / "into.sqlite") as store:
        for name, content in contents.items():
            path = tmp_path / f"{name}.json"
            path.write_text(content)
            with pytest.raises(DatabaseError, match=name):
                import_entries(store, path)
        with pytest.raises(DatabaseError, match="absent"):
            import_entries(store, tmp_path / "absent.json")
        with pytest.raises(XspError, match="no directory"):
            export_entries(store, tmp_path / "no" / "such" / "folder.json")
        assert store.entries() == []


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`xsp database` lists, also as JSON and to a file, exports and imports; a foreign file ends in
    one line and status 2.
    """
    place, file = str(tmp_path / "layers.sqlite"), str(tmp_path / "all.json")
    with Store(place) as store:
        store.put([entry(8), entry(16)])

    def ran(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["xsp", "database", *arguments])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr()
        return said.out, said.err

    assert "2 entries" in ran("list", "--database", place)[0]
    assert "NVIDIA H200: 2 entries" in ran("machines", "--database", place)[0]
    entries = json.loads(ran("list", "--database", place, "--json")[0])
    with Store(place) as store:
        assert [each["layer"] for each in entries] == store.table()["layer"].tolist()
    (machine,) = json.loads(ran("machines", "--database", place, "--json")[0])
    assert machine["facts"]["gpu"] == "NVIDIA H200"
    assert machine["entries"] == 2
    written = tmp_path / "list.json"
    assert str(written) in ran("list", "--database", place, "-o", str(written))[0]
    assert json.loads(written.read_text()) == entries
    assert "2 entries written" in ran("export", file, "--database", place)[0]
    assert "2 entries" in ran("import", file, "--database", str(tmp_path / "new.sqlite"))[0]
    assert "2 entries" in ran("merge", place, "--database", str(tmp_path / "new.sqlite"))[0]
    wrong = ran("list", "--database", file)[1]
    assert wrong.startswith("xsp: ")
    assert len(wrong.splitlines()) == 1
