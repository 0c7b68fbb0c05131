"""What is set once for every profile: variables `XSP_…` of the environment, and the table
`[tool.xsp]` of the nearest pyproject.toml.

An argument wins over a variable, a variable over the table, and the table over the default.
docs/settings.md lists the names.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xsp.errors import SettingError

_FILE = "pyproject.toml"
_PREFIX = "XSP_"


@dataclass(frozen=True)
class Setting:
    """A value that was set, text where it came from the environment, and the place in words."""

    value: Any
    place: str


def setting(name: str) -> Setting | None:
    """What `name` is set to, None where it is not set; an empty variable sets nothing.

    Raises SettingError for a pyproject.toml that cannot be read.
    """
    variable = _PREFIX + name.upper()
    if text := os.environ.get(variable, ""):
        return Setting(text, f"the variable {variable}")
    table, path = _nearest()
    if name not in table:
        return None
    return Setting(table[name], f"[tool.xsp] in {path}")


def check_names(known: Collection[str]) -> None:
    """Raises SettingError for a name in `[tool.xsp]` that sets nothing: a typing error there would
    otherwise go unnoticed.
    """
    table, path = _nearest()
    if unknown := [name for name in table if name not in known]:
        raise SettingError(
            f"[tool.xsp] in {path} sets {unknown[0]!r}, which is no setting; the settings are "
            f"{', '.join(known)}"
        )


def _nearest() -> tuple[dict[str, Any], Path | None]:
    """The table of the nearest pyproject.toml at or above the working folder that has one."""
    try:
        here = Path.cwd()
    except OSError:  # The working folder was removed.
        return {}, None
    for folder in (here, *here.parents):
        path = folder / _FILE
        if path.is_file() and (table := _table(path, _version(path))):
            return table, path
    return {}, None


def _version(path: Path) -> tuple[int, ...]:
    """Another one when the file has changed; what cannot be looked at is never the same."""
    try:
        seen = path.stat()
    except OSError:
        return (time.monotonic_ns(),)
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


@lru_cache(maxsize=8)
def _table(path: Path, _version: tuple[int, ...]) -> dict[str, Any]:
    """Read once, though a profile asks for a dozen settings."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # A file that says nothing of xsp is no business of xsp's.
        if _names_xsp(path):
            raise SettingError(f"{path} cannot be read: {error}") from error
        return {}
    table = found.get("tool", {}).get("xsp", {})
    if not isinstance(table, dict):
        raise SettingError(f"tool.xsp in {path} must be a table, [tool.xsp], not {table!r}")
    return table


def _names_xsp(path: Path) -> bool:
    try:
        return b"tool.xsp" in path.read_bytes()
    except OSError:
        return False
