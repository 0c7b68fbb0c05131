"""Style sheets and scripts of the pages, which are files beside this one."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def asset(name: str) -> str:
    """The text of a file of this folder."""
    return resources.files("xsp.report").joinpath(name).read_text(encoding="utf-8")
