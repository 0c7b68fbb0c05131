"""What the structure run writes down of communication: which layer sent what, as `communications`
among the layer's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch.distributed as dist

from xsp.levels.layer.autograd import AFTER_CODE
from xsp.levels.layer.backward_rows import BackwardRows
from xsp.levels.layer.call_rows import CallRows
from xsp.levels.layer.communications import WAIT, Fact, of_functional
from xsp.levels.layer.distributed import wait
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.torch_internals import (
    FUNCTIONAL_COLLECTIVES,
    elements_of,
    without_torch_functions,
)

COMMUNICATIONS, TICKET, AWAITED = "communications", "ticket", "awaited"
"""Among a layer's arguments: what it sent; the number of what it began; which number it waited for.
"""


class SentRows:
    """Leads each communication to the row of the call that made it."""

    def __init__(self, structure: Structure, calls: CallRows, backward: BackwardRows) -> None:
        self._structure, self._calls, self._backward = structure, calls, backward
        self._began: list[int] = []
        """By ticket, the row of the call that does not block."""
        self._tickets: dict[int, int] = {}
        """By the place of what a functional collective gives."""
        self._works: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def operation(self, fact: Fact) -> None:
        """An operator of c10d runs. Of those that no call of a collective made, in a backward pass,
        DistributedDataParallel's reducer is the maker: it waits for them at the end.
        """
        row = self._calls.open_row()
        if self._backward.is_running and (row is None or self._is_backward(row)):
            row = self._end_of_backward()
        if row is not None:
            self._add(row, fact)

    def called(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        """A collective has been called, or waited for."""
        row = self._calls.open_row()
        if row is None:
            return
        if function is wait:
            self._waited(row, self._works.get(args[0]))
        elif function.__name__ == WAIT:
            found = {self._tickets.get(place) for place in _places((args, dict(kwargs)))}
            self._waited(row, max((each for each in found if each is not None), default=None))
        elif function.__module__ == FUNCTIONAL_COLLECTIVES:
            self._tickets.update(dict.fromkeys(_places(result), self._begins(row)))
            self._add(row, of_functional(function, args, kwargs))
        elif works := _works(result):
            self._works.update(dict.fromkeys(works, self._begins(row)))

    def _begins(self, row: int) -> int:
        """The ticket of what the call of this row began."""
        ticket = len(self._began)
        self._began.append(row)
        self._say(row, TICKET, ticket)
        return ticket

    def _waited(self, row: int, ticket: int | None) -> None:
        """The row is called after what it waits for, where that is known."""
        self._say(row, AWAITED, -1 if ticket is None else ticket)
        if ticket is None:
            return
        layers = self._structure.layers
        place, _, _ = layers.name(row).rpartition("::")
        began, _, operation = layers.name(self._began[ticket]).rpartition("::")
        what = operation if began == place else f"{began}::{operation}"
        layers.change(row, name=f"{place}::wait for {what}")

    def _is_backward(self, row: int) -> bool:
        """Whether it is the call that runs the backward pass."""
        layer = self._structure.layers.described(row)
        return layer.kind == "function" and layer.type in ("backward", "grad")

    def _end_of_backward(self) -> int | None:
        rows = np.flatnonzero(self._structure.layers.codes() == AFTER_CODE)
        return int(rows[-1]) if len(rows) else None

    def _add(self, row: int, fact: Fact) -> None:
        arguments = self._structure.layers.described(row).arguments
        before = arguments.get(COMMUNICATIONS, [])
        self._say(row, COMMUNICATIONS, [*before, fact])

    def _say(self, row: int, name: str, value: Any) -> None:
        layers = self._structure.layers
        layers.change(row, arguments={**layers.described(row).arguments, name: value})


def _works(result: Any) -> list[Any]:
    """What is to be waited for."""
    every = result if isinstance(result, list) else [result]
    return [each for each in every if isinstance(each, dist.Work)]


def _places(value: Any) -> list[int]:
    """Where the elements of the tensors are, which a collective and a wait for it share."""
    with without_torch_functions():
        return [elements_of(each).data_ptr() for each in tensors_in(value)]
