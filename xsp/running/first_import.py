"""Being told when a module has been imported, so that a program that never imports it does not pay
for it, and one that sets variables before it does still can.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder:
    """Asks the other finders for one module, and has its loader tell when it is done."""

    def __init__(self, name: str, tell: Callable[[], None]) -> None:
        self._name, self._tell = name, tell
        self._asking = False

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec; None for every other module."""
        if name != self._name or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            self._tell_after(spec)
        return spec

    def _tell_after(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        execute = loader.exec_module  # type: ignore[union-attr] # asked before

        def executed(module: ModuleType) -> None:
            # The loader is this spec's alone, and as it was from here on.
            del vars(loader)["exec_module"]
            execute(module)
            self._tell()

        vars(loader)["exec_module"] = executed


def when_imported(name: str, tell: Callable[[], None]) -> Callable[[], None]:
    """Call `tell` once the module has been imported, now if it has been; returns what stops
    waiting for it.
    """
    if name in sys.modules:
        tell()
        return lambda: None
    finder = _Finder(name, tell)
    sys.meta_path.insert(0, finder)

    def stop() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return stop
