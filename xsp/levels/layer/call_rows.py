"""What the structure run writes down of layer calls: a row for each, in the order they begin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from xsp.levels.layer.backward_rows import BackwardRows
from xsp.levels.layer.descriptions import Descriptions
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.source import calling_line
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tensors import locate_tensors, tensors_in
from xsp.machine.torch_internals import nodes_made

_OWN_FRAMES = 3
"""Of xsp above `calling_line`, whatever began: `begin`, what calls it, and what calls that."""


class CallRows:
    """The forward part of a structure. `abandoned` are the rows of ranges that never ended."""

    def __init__(
        self, structure: Structure, backward: BackwardRows, descriptions: Descriptions
    ) -> None:
        self._structure, self._backward = structure, backward
        self._descriptions = descriptions
        self._open: dict[int, list[tuple[int, int]]] = {}
        """By thread, the rows of the calls that have begun, with the nodes made before each."""
        self.abandoned: list[int] = []

    def begin(
        self, code: int, key: Hashable, describe: Callable[[str], LayerRow], number: int = 0
    ) -> None:
        """A call begins on this thread. `describe` makes the row of those of this key, of this one
        where it is None, that are made on one line of the program, given the line.
        """
        begun = len(self._structure.layers), nodes_made()
        self._open.setdefault(threading.get_ident(), []).append(begun)
        source = calling_line(_OWN_FRAMES)
        known = None if key is None else (source, key)
        self._structure.layers.add(code, known, lambda: describe(source), number)

    def end(self, inputs: Any, outputs: Any, *, leads_to_nodes: bool = True) -> None:
        """The innermost call of this thread has ended; whether its outputs lead to its nodes."""
        index, first_node = self._open[threading.get_ident()].pop()
        given = tensors_in(outputs) or [each.tensor for each in locate_tensors(outputs)]
        self._structure.layers.ended(index, self._descriptions.of_tensors(given))
        self._backward.call_ended(index, first_node, inputs, outputs, leads_to_nodes=leads_to_nodes)

    def abandon(self) -> None:
        """The innermost call of this thread will not end."""
        row, _ = self._open[threading.get_ident()].pop()
        self.abandoned.append(row)

    def open_row(self) -> int | None:
        """Row of the innermost call of this thread; None between calls."""
        opened = self._open.get(threading.get_ident())
        return opened[-1][0] if opened else None

    def open_leaf(self) -> int | None:
        """Row of the leaf module whose call is the innermost on this thread: collectives are layers
        inside it too.
        """
        opened = self._open.get(threading.get_ident())
        if not opened or self._structure.layers.described(opened[-1][0]).kind != "module":
            return None
        return opened[-1][0]
