"""Taking a performance database from machine to machine: as a file, or from one into another."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xsp.capture.writing import write_file
from xsp.database.entry import Entry, Machine
from xsp.database.store import Store
from xsp.errors import DatabaseError
from xsp.graphs.layer import Layer

FORMAT = "xsp performance database"
VERSION = 1


def export_entries(store: Store, path: str | os.PathLike[str]) -> int:
    """Write all entries as JSON lines, compressed where the name ends in `.gz`; returns how many.

    Raises XspError where the file cannot be written.
    """
    found = store.entries()
    lines = [json.dumps({"format": FORMAT, "version": VERSION, "entries": len(found)})]
    lines += [json.dumps(_exported(entry), sort_keys=True) for entry in found]
    write_file(Path(path), ("\n".join(lines) + "\n").encode())
    return len(found)


def import_entries(store: Store, path: str | os.PathLike[str]) -> int:
    """Take the entries of such a file in; of two with one key the one measured later stays.

    Returns how many the file has. It is read whole before anything is written.

    Raises DatabaseError for a file that is missing, of something else, damaged or cut short.
    """
    return store.put(list(_read(Path(path))))


def merge(into: Store, other: Store) -> int:
    """Take the entries of another database in; returns how many it has."""
    return into.put(other.entries())


def _exported(entry: Entry) -> dict[str, Any]:
    return {
        "machine": dict(entry.machine.facts),
        "layer": entry.layer.key,
        "precision": entry.precision,
        "algorithm": entry.algorithm,
        "caches": entry.caches,
        "time_ns": entry.time_ns,
        "half_width_ns": entry.half_width_ns,
        "rounds": entry.rounds,
        "measured_at": entry.measured_at,
        "failure": entry.failure,
        "provenance": dict(entry.provenance),
    }


def _read(path: Path) -> Iterator[Entry]:
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        first, *lines = text.decode("utf-8").splitlines()
        head = json.loads(first)
        known = head["format"] == FORMAT and head["version"] <= VERSION
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(
            f"{str(path)!r} cannot be read as an exported database ({type(error).__name__}: "
            f"{error}); give a file of `xsp database export`"
        ) from error
    if not known or head["entries"] != len(lines):
        raise DatabaseError(
            f"{str(path)!r} was cut short, comes from a newer xsp, or is not an exported "
            "database; export it again"
        )
    try:
        for line in lines:
            row = json.loads(line)
            machine, layer = Machine(row.pop("machine")), Layer.from_key(row.pop("layer"))
            yield Entry(machine=machine, layer=layer, **row)
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseError(
            f"{str(path)!r} has a damaged entry ({type(error).__name__}: {error}); export it again"
        ) from error
