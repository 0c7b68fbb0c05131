"""Where functional calls are made, after which they are named: `layer1.0::add_1`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from xsp.levels.layer.structure import ModuleCall


@dataclass
class Place:
    """The module that calls are made in, and what calls there are named after."""

    module: str
    name: str
    _named: dict[str, int]

    def number_call(self, kind: str) -> int:
        """How many calls of this kind were made here before this one: the number in its name."""
        before = self._named.get(kind, 0)
        self._named[kind] = before + 1
        return before


class _Local(threading.local):
    def __init__(self) -> None:
        self.stack: list[tuple[ModuleCall, Place]] = []


class Places:
    """The modules that have been entered, by thread. `outside` is what calls outside every module
    are named after.
    """

    def __init__(self, outside: str) -> None:
        self._outside = Place("", outside, {})
        self._leaves: dict[int, Place] = {}
        self._here = _Local()

    def enter(self, call: ModuleCall) -> None:
        """A module that is not a layer has been called on this thread."""
        self._here.stack.append((call, Place(call.module, call.module, {})))

    def leave(self, last: int) -> ModuleCall:
        """Its call has ended before the layer of row `last` begins; returns the call."""
        call, _ = self._here.stack.pop()
        return replace(call, last=last)

    def within_module(self) -> bool:
        """Whether this thread is inside a module that is not a layer."""
        return bool(self._here.stack)

    def innermost(self) -> Place:
        """The innermost module of this thread that is not a layer, or the place outside all."""
        stack = self._here.stack
        return stack[-1][1] if stack else self._outside

    def in_leaf(self, row: int, module: str, name: str) -> Place:
        """Inside the call of a leaf module of this name, in `module`, which has this row."""
        return self._leaves.setdefault(row, Place(module, name, {}))
