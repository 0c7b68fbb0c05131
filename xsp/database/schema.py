"""Tables of a performance database, and the steps from each version of them to the next.

A new database is one of version 0 that takes every step, so that old and new ones are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    inspect,
    select,
    update,
)

from xsp.database import evaluation_tables, job_tables
from xsp.errors import DatabaseError

metadata = evaluation_tables.metadata

state = Table(
    "xsp_database",
    metadata,
    Column("version", Integer, nullable=False),
)
"""One row: the version of the other tables. Its presence tells that a database is xsp's."""

machines = Table(
    "machines",
    metadata,
    Column("digest", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("facts", Text, nullable=False),
)
"""Hardware with its clocks, and the versions of driver and libraries; `facts` is JSON."""

entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("machine", String(16), ForeignKey("machines.digest"), nullable=False),
    Column("layer", String(16), nullable=False),
    Column("layer_key", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("dtype", String(32), nullable=False),
    Column("layout", String(32), nullable=False),
    Column("precision", String(32), nullable=False),
    Column("algorithm", Text, nullable=False),
    Column("caches", String(8), nullable=False),
    Column("time_ns", Float),
    Column("half_width_ns", Float),
    Column("rounds", Integer, nullable=False),
    Column("measured_at", Float, nullable=False),
    Column("failure", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    UniqueConstraint("machine", "layer", "precision", "algorithm", "caches", name="entry_key"),
)
"""One row for a layer computed by one algorithm on one machine, with what it took or why it cannot
be computed so.
"""

by_layer = Index("entries_by_layer", entries.c.layer, entries.c.machine)


def _first_tables(connection: Connection) -> None:
    metadata.create_all(connection, tables=[machines, entries])
    by_layer.drop(connection)


def _index_by_layer(connection: Connection) -> None:
    """Bounds ask for one layer after another; without it each question reads the whole table."""
    by_layer.create(connection)


def _evaluations(connection: Connection) -> None:
    """Evaluations, their models and systems, what was measured, traces and code by checksum."""
    metadata.create_all(connection, tables=evaluation_tables.TABLES)


def _jobs(connection: Connection) -> None:
    """Dispatched jobs, so that a run that was killed goes on; the newest evaluations by an index:
    without it, every look at them reads the whole table.
    """
    metadata.create_all(connection, tables=[job_tables.jobs])
    evaluation_tables.by_time.create(connection, checkfirst=True)


STEPS: Sequence[Callable[[Connection], None]] = (
    _first_tables,
    _index_by_layer,
    _evaluations,
    _jobs,
)
"""Step i leads from version i to version i + 1."""
VERSION = len(STEPS)
_LOCK = 0x787370
"""Any number that other programs do not use: "xsp" in ASCII."""


def migrate(connection: Connection, *, to: int = VERSION) -> int:
    """Bring a database to a version, inside the caller's transaction; returns where it was.

    Raises DatabaseError for a database of something else, and for one that a newer xsp has written.
    """
    if connection.dialect.name == "postgresql":
        # Two programs that open a new database at once would both create its tables.
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    version = _version(connection)
    if version > VERSION:
        raise DatabaseError(
            f"the database has version {version}, from a newer xsp; this one reads version "
            f"{VERSION} and older: upgrade xsp, or choose another database"
        )
    for number in range(version, to):
        STEPS[number](connection)
    if version < to:
        connection.execute(update(state).values(version=to))
    return version


def _version(connection: Connection) -> int:
    there = set(inspect(connection).get_table_names())
    if state.name in there:
        found = connection.execute(select(state.c.version)).scalar_one_or_none()
        return 0 if found is None else int(found)
    if there:
        raise DatabaseError(
            f"the database belongs to another program (tables {', '.join(sorted(there)[:3])}); "
            "choose another one for xsp"
        )
    state.create(connection)
    connection.execute(insert(state).values(version=0))
    return 0
