"""The capture file, `*.xsp`: Parquet tables and a manifest in one uncompressed zip.

Opening a capture needs neither torch nor CUDA and executes nothing from the file: the manifest is
JSON, the tables are plain columns.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xsp.capture.writing import replacing
from xsp.errors import CaptureError

VERSION = 1
"""Version of the file's layout. A reader refuses newer files and converts older ones."""

_MAGIC = "xsp capture"
_MANIFEST = "manifest.json"
_META = ("name", "levels", "environment", "warnings", "trace")
TABLES = (
    "runs",
    "model_calls",
    "spans",
    "api_calls",
    "synchronizations",
    "calls",
    "modules",
    "layers",
    "library_calls",
    "kernels",
)

OPTIONAL_TABLES = ("serialized", "counters", "ranges")
"""Tables that only some captures have."""

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

        Raises WriteError where it cannot be written.
        """
        manifest = {"format": _MAGIC, "version": VERSION, "meta": self.meta}
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name in (*TABLES, *(name for name in OPTIONAL_TABLES if name in self.tables)):
                archive.writestr(f"{name}.parquet", _parquet(self.tables[name]))
        return Path(path)


def load(path: str | os.PathLike[str]) -> Capture:
    """Read a capture.

    Raises CaptureError if the file is missing, is no capture, is damaged, or was written by a newer
    xsp.
    """
    source = Path(path)
    if not source.is_file():
        raise CaptureError(
            f"there is no file {str(source)!r}; give the path of a capture written by prof.save()"
        )
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            _check(source, manifest)
            there = set(archive.namelist())
            names = (*TABLES, *(name for name in OPTIONAL_TABLES if f"{name}.parquet" in there))
            tables = {name: _table(archive.read(f"{name}.parquet")) for name in names}
    except CaptureError:
        raise
    except _DAMAGED as error:
        raise CaptureError(
            f"{str(source)!r} is not an xsp capture, or it was cut short ({type(error).__name__}: "
            f"{error}); "
            "a capture is written whole by prof.save(), so copy or record it again"
        ) from error
    return Capture(manifest["meta"], tables)


def _table(content: bytes) -> pd.DataFrame:
    # In Arrow's own memory: its threads let go of the source when they get round to it, and one
    # that needs Python for that while the interpreter shuts down, at the end of a short command,
    # takes the process down with it.
    source = pa.BufferOutputStream()
    source.write(content)
    reader = pa.BufferReader(source.getvalue())
    # Tables of this size are read no faster by several threads.
    table: pd.DataFrame = pq.read_table(reader, use_threads=False).to_pandas(use_threads=False)
    return table


def _check(source: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != _MAGIC:
        raise CaptureError(
            f"{str(source)!r} is a zip file but not an xsp capture: its manifest does not say "
            f"{_MAGIC!r}"
        )
    version = manifest.get("version")
    if type(version) is not int or version < 1:
        raise CaptureError(
            f"{str(source)!r} has capture version {version!r}, which no xsp writes; record it again"
        )
    if version > VERSION:
        raise CaptureError(
            f"{str(source)!r} has capture version {version!r}, this xsp reads up to {VERSION}; "
            "upgrade with "
            "`pip install --upgrade xsp`"
        )
    meta = manifest.get("meta")
    if missing := [name for name in _META if name not in (meta if isinstance(meta, dict) else {})]:
        raise CaptureError(
            f"the manifest of {str(source)!r} lacks {', '.join(missing)}; record the capture again"
        )


def _parquet(table: pd.DataFrame) -> bytes:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    integers = [field.name for field in arrow.schema if pa.types.is_integer(field.type)]
    others = [field.name for field in arrow.schema if field.name not in integers]
    buffer = io.BytesIO()
    # Stamps and indices grow steadily: as differences they take a few bits where plain they take
    # eight bytes.
    pq.write_table(
        arrow,
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=others,
        column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
    )
    return buffer.getvalue()
