"""What the structure run writes down of layer calls: a row for each, in the order they begin."""

from __future__ import annotations

import threading
from typing import Any

from xsp.levels.layer.backward_rows import BackwardRows
from xsp.levels.layer.descriptions import Descriptions
from xsp.levels.layer.source import calling_line
from xsp.levels.layer.structure import LayerRow, Structure
from xsp.levels.layer.tensors import locate_tensors, tensors_in
from xsp.machine.torch_internals import nodes_made


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

    def begin(self, row: LayerRow) -> None:
        """A call begins on this thread."""
        begun = len(self._structure.layers), nodes_made()
        self._open.setdefault(threading.get_ident(), []).append(begun)
        row.source = calling_line()
        self._structure.add(row)

    def end(self, inputs: Any, outputs: Any, *, leads_to_nodes: bool = True) -> None:
        """The innermost call of this thread has ended; whether its outputs lead to its nodes."""
        index, first_node = self._open[threading.get_ident()].pop()
        given = tensors_in(outputs) or [each.tensor for each in locate_tensors(outputs)]
        row = self._structure.layers[index]
        row.output_shapes, row.output_dtypes = self._descriptions.of_tensors(given)
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
        row = self.open_row()
        return row if row is not None and self._structure.layers[row].kind == "module" else None
