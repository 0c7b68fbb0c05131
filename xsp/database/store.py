"""A performance database: open, write, read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from xsp.database import schema
from xsp.database.entry import Entry, Machine
from xsp.errors import DatabaseError
from xsp.graphs.layer import Layer
from xsp.settings import setting

PATIENCE_S = 30.0
"""How long a writer waits for others before it gives up."""
_CHUNK = 400
"""Rows of one statement; SQLite takes 32,766 values at most."""


def default_path() -> Path:
    """`xsp/layers.sqlite` in the user's data folder (XDG Base Directory Specification)."""
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return folder / "xsp" / "layers.sqlite"


class Store:
    """What was measured. Many processes can read and write one at a time.

    Args:
        place: a file for SQLite, or a URL such as `postgresql+psycopg://user@host/name`; by default
            the setting `database` (variable XSP_DATABASE), else a file of the user's.
        patience_s: how long to wait for other writers.

    Every write is one transaction: it is there whole or not at all, whatever happens to the
    process.

    Raises DatabaseError for a place that cannot be opened, a file that is not a database, and a
    database of something else or of a newer xsp.

    """

    def __init__(
        self, place: str | os.PathLike[str] | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        told = None if place else setting("database")
        given = place or (told.value if told else default_path())
        self.place = os.fspath(given)
        self._engine = _engine(self.place, patience_s)
        try:
            with self.writing() as connection:
                schema.migrate(connection)
        except DatabaseError as error:
            self._engine.dispose()
            said = str(error) if self.place in str(error) else f"{self.place}: {error}"
            raise DatabaseError(said) from error

    def close(self) -> None:
        """Let go of the database. Closing twice is harmless."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, found: Iterable[Entry]) -> int:
        """Write entries; of two with one key the one measured later stays. Returns how many were
        given.
        """
        given = {entry.key: entry for entry in sorted(found, key=lambda one: one.measured_at)}
        if not given:
            return 0
        machines = {one.machine.digest: one.machine for one in given.values()}
        with self.writing() as connection:
            for digest in sorted(machines):
                _put_machine(connection, machines[digest])
            rows = [_row(given[key]) for key in sorted(given)]
            for start in range(0, len(rows), _CHUNK):
                _put_rows(connection, rows[start : start + _CHUNK])
        return len(given)

    def entries(
        self,
        machine: Machine | None = None,
        layers: Iterable[Layer] | None = None,
        caches: str | None = None,
    ) -> list[Entry]:
        """Entries of a machine, of some layers, of one state of the caches; all by default."""
        table = schema.entries
        asked = select(table, schema.machines.c.facts).join(schema.machines)
        if machine is not None:
            asked = asked.where(table.c.machine == machine.digest)
        if caches is not None:
            asked = asked.where(table.c.caches == caches)
        if layers is None:
            return self._read(asked.order_by(table.c.id))
        digests = sorted({layer.digest for layer in layers})
        chunks = [digests[start : start + _CHUNK] for start in range(0, len(digests), _CHUNK)]
        return [
            entry
            for chunk in chunks
            for entry in self._read(asked.where(table.c.layer.in_(chunk)).order_by(table.c.id))
        ]

    def table(self) -> pd.DataFrame:
        """One row per entry: machine (name), operator, dtype, precision, layout, algorithm, caches,
        time_us, half_width_us, rounds, failure, layer (digest).
        """
        rows = [
            {
                "machine": entry.machine.name,
                "operator": entry.layer.operator,
                "dtype": entry.layer.dtype,
                "precision": entry.precision,
                "layout": entry.layer.layout,
                "algorithm": entry.algorithm,
                "caches": entry.caches,
                "time_us": None if entry.time_ns is None else entry.time_ns / 1e3,
                "half_width_us": None if entry.half_width_ns is None else entry.half_width_ns / 1e3,
                "rounds": entry.rounds,
                "failure": entry.failure,
                "layer": entry.layer.digest,
            }
            for entry in self.entries()
        ]
        return pd.DataFrame(rows, columns=_COLUMNS)

    def machines(self) -> pd.DataFrame:
        """One row per machine: digest, name, entries, and its facts as JSON."""
        own, each = schema.machines, schema.entries
        count = func.count(each.c.id).label("entries")
        asked = select(own.c.digest, own.c.name, count, own.c.facts).outerjoin(each)
        with self.reading() as connection:
            rows = connection.execute(asked.group_by(own.c.digest, own.c.name, own.c.facts))
            return pd.DataFrame(
                [tuple(row) for row in rows], columns=["digest", "name", "entries", "facts"]
            )

    def _read(self, asked: Any) -> list[Entry]:
        with self.reading() as connection:
            return [_entry(row) for row in connection.execute(asked).mappings()]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: whole or not there. Raises DatabaseError."""
        writer = self._engine.execution_options(xsp_writes=True)
        with _said(self.place), writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads. Raises DatabaseError."""
        with _said(self.place), self._engine.connect() as connection:
            yield connection


_COLUMNS = [
    "machine",
    "operator",
    "dtype",
    "precision",
    "layout",
    "algorithm",
    "caches",
    "time_us",
    "half_width_us",
    "rounds",
    "failure",
    "layer",
]


@contextmanager
def _said(place: str) -> Iterator[None]:
    """What the driver raises as one sentence."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseError(_sentence(place, cause)) from error


def _sentence(place: str, cause: str) -> str:
    if "locked" in cause:
        return (
            f"{place} is locked by another program that has been writing for a while; nothing was "
            "written: try again when it is done"
        )
    if "not a database" in cause or "malformed" in cause:
        return (
            f"{place} is not a performance database, or it is damaged ({cause}); name another "
            "file, or restore a copy"
        )
    return f"{place} cannot be used ({cause}); check the path and its permissions"


def _engine(place: str, patience_s: float) -> Engine:
    if "://" in place:
        try:
            return create_engine(place, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise DatabaseError(
                f"{place!r} cannot be opened ({error}); give a file for SQLite or a URL such as "
                'postgresql+psycopg://user@host/name, with pip install "xsp[postgresql]"'
            ) from error
    path = Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"the database's folder {str(path.parent)!r} does not exist and cannot be created "
            f"({error})"
        ) from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": patience_s})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # SQLAlchemy begins transactions itself: Python's driver would leave reads outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    # With a write-ahead log readers do not wait for writers; a synchronised log loses no commit.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and then writes fails at once where another wrote
    # meanwhile; one that begins as a writer waits for its turn.
    writes = connection.get_execution_options().get("xsp_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upsert(connection: Connection) -> Callable[..., Any]:
    """`insert` of the database's own dialect, which knows conflicts."""
    on_server = connection.dialect.name == "postgresql"
    return postgresql.insert if on_server else sqlite.insert


def _put_machine(connection: Connection, machine: Machine) -> None:
    facts = json.dumps(dict(machine.facts), sort_keys=True)
    row = {"digest": machine.digest, "name": machine.name, "facts": facts}
    statement = upsert(connection)(schema.machines).values(row)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["digest"]))


def _put_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    statement = upsert(connection)(schema.entries).values(list(rows))
    key = ["machine", "layer", "precision", "algorithm", "caches"]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in key}
    newer = schema.entries.c.measured_at <= statement.excluded.measured_at
    connection.execute(
        statement.on_conflict_do_update(index_elements=key, set_=changed, where=newer)
    )


def _row(entry: Entry) -> dict[str, Any]:
    machine, layer, precision, algorithm, caches = entry.key
    return {
        "machine": machine,
        "layer": layer,
        "layer_key": entry.layer.key,
        "operator": entry.layer.operator,
        "dtype": entry.layer.dtype,
        "layout": entry.layer.layout,
        "precision": precision,
        "algorithm": algorithm,
        "caches": caches,
        "time_ns": entry.time_ns,
        "half_width_ns": entry.half_width_ns,
        "rounds": entry.rounds,
        "measured_at": entry.measured_at,
        "failure": entry.failure,
        "provenance": json.dumps(dict(entry.provenance), sort_keys=True),
    }


def _entry(row: Any) -> Entry:
    return Entry(
        machine=Machine(json.loads(row["facts"])),
        layer=Layer.from_key(row["layer_key"]),
        precision=row["precision"],
        algorithm=row["algorithm"],
        caches=row["caches"],
        time_ns=row["time_ns"],
        half_width_ns=row["half_width_ns"],
        rounds=row["rounds"],
        measured_at=row["measured_at"],
        failure=row["failure"],
        provenance=json.loads(row["provenance"]),
    )
