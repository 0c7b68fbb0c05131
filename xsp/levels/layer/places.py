"""Where functional calls are made, after which they are named: `layer1.0::add_1`."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

from xsp.levels.layer.structure import LayerRow, ModuleCall


@dataclass
class Place:
    """The module that calls are made in, and what calls there are named after."""

    module: str
    name: str
    _named: Counter[str]

    def name_call(self, kind: str) -> str:
        """A name for another call of this kind."""
        before = self._named[kind]
        self._named[kind] += 1
        return f"{self.name}::{kind}_{before}" if before else f"{self.name}::{kind}"


class Places:
    """The modules that have been entered, by thread. `outside` is what calls outside every module
    are named after.
    """

    def __init__(self, outside: str) -> None:
        self._outside = Place("", outside, Counter())
        self._leaves: dict[int, Place] = {}
        self._local = threading.local()

    def enter(self, call: ModuleCall) -> None:
        """A module that is not a layer has been called on this thread."""
        self._stack().append((call, Place(call.module, call.module, Counter())))

    def leave(self, last: int) -> ModuleCall:
        """Its call has ended before the layer of row `last` begins; returns the call."""
        call, _ = self._stack().pop()
        return replace(call, last=last)

    def within_module(self) -> bool:
        """Whether this thread is inside a module that is not a layer."""
        return bool(self._stack())

    def innermost(self) -> Place:
        """The innermost module of this thread that is not a layer, or the place outside all."""
        stack = self._stack()
        return stack[-1][1] if stack else self._outside

    def in_leaf(self, row: int, leaf: LayerRow) -> Place:
        """Inside the call of a leaf module, which has this row."""
        return self._leaves.setdefault(row, Place(leaf.module, leaf.name, Counter()))

    def _stack(self) -> list[tuple[ModuleCall, Place]]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[tuple[ModuleCall, Place]] = self._local.stack
        return stack
