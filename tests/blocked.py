"""Runs a script as if packages were not installed: `python blocked.py PACKAGE,… SCRIPT [ARGS]`.

What the standard library itself imports is let through: on another system it does without.
"""

from __future__ import annotations

import runpy
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

STANDARD = sysconfig.get_paths()["stdlib"]
IMPORTING = "importlib"


class Blocked:
    """Finds the modules that are to be missing before anything else does."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top not in self.names or _asked_by_python():
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _asked_by_python() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and IMPORTING in frame.f_code.co_filename:
        frame = frame.f_back
    asked = "" if frame is None else frame.f_code.co_filename
    return asked.startswith(STANDARD) and "site-packages" not in asked


def main() -> None:
    names, script, *rest = sys.argv[1:]
    sys.meta_path.insert(0, Blocked(names.split(",")))
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
