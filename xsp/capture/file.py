"""The capture file, `*.xsp`: Parquet tables and a manifest in one uncompressed zip.

Opening a capture needs neither torch nor CUDA and executes nothing from the file: the manifest is
JSON, the tables are plain columns. How much a file may hold is checked before it is read
(`limits`), and what it holds before anything else sees it (`manifest`, `table_checks`).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from xsp.capture.limits import most_bytes, most_json, within
from xsp.capture.manifest import META
from xsp.capture.parquet import memory_bytes, read_parquet, to_parquet
from xsp.capture.schema import OPTIONAL_TABLES, REQUIRED_TABLES
from xsp.capture.table_checks import BrokenTableError, check_frames, check_relations, checked_table
from xsp.capture.writing import replacing
from xsp.errors import CaptureError

VERSION = 1
"""Version of the file's layout. A reader refuses newer files and converts older ones."""

_MAGIC = "xsp capture"
_MANIFEST = "manifest.json"
TABLES = REQUIRED_TABLES
"""Tables that every capture has."""

# RuntimeError is zipfile's for entries that a damaged header calls encrypted or compressed in an
# unknown way.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
    KeyError,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class Capture:
    """Everything a profile consists of: `meta` (JSON-able), the tables named in TABLES, and any of
    OPTIONAL_TABLES.
    """

    meta: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the capture; an existing file is replaced only once the new one is complete.

        Raises CaptureError for what `load` would refuse, and WriteError where it cannot be written;
        what stands at `path` is as it was.
        """
        try:
            _check_contents(self)
        except BrokenTableError as error:
            raise CaptureError(
                f"nothing was written to {str(path)!r}, since no reader would accept the capture: "
                f"{error}; correct it in memory and save it again"
            ) from error
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_MANIFEST, _manifest_of(self.meta))
            for name, table in self._kept().items():
                archive.writestr(f"{name}.parquet", to_parquet(table))
        return Path(path)

    def _kept(self) -> dict[str, pd.DataFrame]:
        """The tables that a file has; what others there are is not saved."""
        known = (*TABLES, *OPTIONAL_TABLES)
        return {name: self.tables[name] for name in known if name in self.tables}


def load(path: str | os.PathLike[str], max_bytes: int | None = None) -> Capture:
    """Read a capture of at most `max_bytes` (`limits.most_bytes`).

    Raises CaptureError if the file is missing, is no capture, is damaged, holds what no capture
    does or more than the limit, or was written by a newer xsp.
    """
    source, most = Path(path), most_bytes(max_bytes)
    with reading(source), zipfile.ZipFile(source) as archive:
        return _read(source, archive, most)


def replace_meta(path: str | os.PathLike[str], meta: dict[str, Any]) -> Path:
    """Give a capture another `meta`; its tables stay as they are, byte for byte.

    Raises CaptureError if the file is no capture or `meta` is no capture's, and WriteError where it
    cannot be written; what stands at `path` is as it was.
    """
    source = Path(path)
    if said := META(meta):
        raise CaptureError(f"{str(source)!r} stays as it is: its new manifest is not valid{said}")
    with reading(source), zipfile.ZipFile(source) as archive:
        meta_of(source, archive, most_bytes(None))
        tables = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with replacing(source) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in tables:
            is_meta = entry.filename == _MANIFEST
            archive.writestr(entry, _manifest_of(meta) if is_meta else content)
    return source


def _manifest_of(meta: dict[str, Any]) -> str:
    return json.dumps({"format": _MAGIC, "version": VERSION, "meta": meta}, indent=1)


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """A block that reads a capture. Raises CaptureError for what goes wrong in it."""
    if not source.is_file():
        raise CaptureError(
            f"there is no file {str(source)!r}; give the path of a capture written by prof.save()"
        )
    try:
        yield
    except CaptureError:
        raise
    except BrokenTableError as error:
        raise CaptureError(
            f"{str(source)!r} is not a valid capture: {error}; record it again, or read its "
            "tables with any Parquet reader"
        ) from error
    except _DAMAGED as error:
        raise CaptureError(
            f"{str(source)!r} is not an xsp capture, or it was cut short "
            f"({type(error).__name__}: {error}); copy it again, or save the "
            "profile again with prof.save()"
        ) from error


def check_capture(capture: Capture, what: str) -> Capture:
    """A capture that was made here of what somebody else wrote.

    Raises CaptureError if it holds what no capture does.
    """
    try:
        _check_contents(capture)
    except BrokenTableError as error:
        raise CaptureError(f"{what} has values that no program can produce: {error}") from error
    return capture


def _check_contents(capture: Capture) -> None:
    if said := META(capture.meta):
        raise BrokenTableError(f"meta{said}")
    check_frames(capture._kept())


def _read(source: Path, archive: zipfile.ZipFile, most: int) -> Capture:
    entries = entries_of(source, archive)
    within(sum(entry.file_size for entry in entries.values()), most, f"{str(source)!r}")
    meta = meta_of(source, archive, most)
    tables, left = {}, most
    for name in tables_in(entries):
        content = _in_arrow(archive.read(f"{name}.parquet"))
        arrow = read_parquet(content, left, f"the table {name} of {str(source)!r}")
        left -= memory_bytes(arrow)
        tables[name] = checked_table(name, arrow)
    check_relations(tables)
    return Capture(meta, tables)


def meta_of(source: Path, archive: zipfile.ZipFile, most: int) -> dict[str, Any]:
    """The meta data of a capture. Raises CaptureError for what is no manifest of one."""
    entry = archive.getinfo(_MANIFEST)
    within(entry.file_size, most_json(most), f"the manifest of {str(source)!r}")
    manifest = json.loads(archive.read(_MANIFEST))
    _check(source, manifest)
    meta: dict[str, Any] = manifest["meta"]
    return meta


def tables_in(entries: Collection[str]) -> list[str]:
    """Names of the tables of a capture with these entries."""
    return [*TABLES, *(name for name in OPTIONAL_TABLES if f"{name}.parquet" in entries)]


def entries_of(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in the zip by name. Raises CaptureError for compressed ones and repeated names."""
    every = archive.infolist()
    entries = {entry.filename: entry for entry in every}
    packed = [entry.filename for entry in every if entry.compress_type != zipfile.ZIP_STORED]
    if packed or len(entries) < len(every):
        what = f"a compressed entry {packed[0]!r}" if packed else "two entries with the same name"
        raise CaptureError(
            f"{str(source)!r} has {what}, which no capture written by xsp has; unpack it and pack "
            "it again without compression"
        )
    return entries


def _in_arrow(content: bytes) -> pa.Buffer:
    # In Arrow's own memory: its threads let go of the source when they get round to it, and one
    # that needs Python for that while the interpreter shuts down, at the end of a short command,
    # takes the process down with it.
    source = pa.BufferOutputStream()
    source.write(content)
    return source.getvalue()


def _check(source: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != _MAGIC:
        raise CaptureError(
            f"{str(source)!r} is a zip file but not an xsp capture: its manifest does not say "
            f"{_MAGIC!r}"
        )
    version = manifest.get("version")
    if type(version) is not int or version < 1:
        raise CaptureError(
            f"{str(source)!r} has capture version {_short(version)}, which no release of xsp "
            "writes; record it again"
        )
    if version > VERSION:
        raise CaptureError(
            f"{str(source)!r} has capture version {_short(version)}, this xsp reads up to "
            f"{VERSION}; upgrade with "
            "`pip install --upgrade xsp`"
        )
    if said := META(manifest.get("meta")):
        raise CaptureError(
            f"the manifest of {str(source)!r} is not valid: meta{said}; record the capture again"
        )


def _short(value: Any) -> str:
    return repr(value)[:40]
