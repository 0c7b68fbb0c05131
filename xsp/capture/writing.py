"""Files that exports write: compressed by their name, and whole or not there."""

from __future__ import annotations

import gzip
from pathlib import Path

from xsp.errors import XspError

_FAST = 5
"""Compression level: a third of the time of the default, a few per cent larger."""


def written(path: Path, content: bytes) -> Path:
    """Write `content`, compressed where the name ends in `.gz`; an existing file is replaced once
    this is complete.

    Raises XspError where the directory does not exist, and where `path` is one.
    """
    if path.is_dir():
        raise XspError(f"{str(path)!r} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise XspError(
            f"there is no directory {str(path.parent)!r} to write {path.name!r} to; make it first"
        )
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(
            gzip.compress(content, _FAST, mtime=0) if path.suffix == ".gz" else content
        )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
