"""Mutants of SQLite files: values, rows and columns that nobody expects. SQLite keeps any value in
any column.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from fuzz.choices import Choices, pick

HOSTILE: tuple[Any, ...] = (
    *(None, 0, 1, -1, 2**31, 2**32 + 5, 2**53, 2**63 - 1, -(2**63), 0.5, float("inf")),
    *("", "soon", "1", "a" * 5000, "\x00", "\x1b[31m", "\u202etxt", "=1+1", "[[1, 2"),
    *(
        "aten::linear, seq = 1, op_id = 2, sizes = [[2, 8], [], [4]]",
        "x, sizes = [[-1]], op_id = z",
    ),
    *(
        "autograd::engine::evaluate_function: A, seq = 9, op_id = 1",
        b"",
        b"\xed\xa0\x80",
        b"\xff" * 9,
    ),
)


def mutate(path: Path, choices: Choices) -> None:
    """Change a database at one to three places."""
    with closing(sqlite3.connect(path)) as database, database:
        for _ in range(1 + choices.below(3)):
            # The primary key of a table is what SQLite keeps to its type, and names are unique.
            with suppress(sqlite3.IntegrityError, sqlite3.OperationalError):
                _change(database, choices)


def _change(database: sqlite3.Connection, choices: Choices) -> None:
    found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    table = pick(choices, [name for (name,) in found])
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    rows = [row for (row,) in database.execute(f'SELECT rowid FROM "{table}" ORDER BY rowid')]
    if not columns or not rows:
        return
    column, row, action = pick(choices, columns), pick(choices, rows), choices.below(16)
    if action == 0:
        database.execute(f'DROP TABLE "{table}"')
    elif action == 1 and column != "id":
        database.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "other"')
    elif action == 2:
        database.execute(f'DELETE FROM "{table}" WHERE rowid >= ?', (row,))
    elif action == 3:
        database.execute(f'INSERT OR IGNORE INTO "{table}" SELECT * FROM "{table}"')
    else:
        value = pick(choices, HOSTILE)
        every = "" if choices.below(3) else " OR 1"
        database.execute(
            f'UPDATE OR IGNORE "{table}" SET "{column}" = ? WHERE rowid = ?{every}', (value, row)
        )
