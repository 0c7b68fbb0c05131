"""Where a capture may be written; asked before measuring or reading, which take long."""

from __future__ import annotations

from pathlib import Path

from xsp.errors import XspError


def new_capture(path: Path, force: bool) -> Path:
    """`path` if a capture can be written there. Raises XspError where a file would be lost or no directory is."""
    if path.exists() and not force:
        raise XspError(f"{str(path)!r} exists and is not overwritten without --force; or name another with --output")
    if not path.parent.is_dir():
        raise XspError(f"there is no directory {str(path.parent)!r} to write {path.name!r} to; make it first")
    return path
