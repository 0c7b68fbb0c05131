"""Which layer call made a graph node, by when it was made.

A call's outputs lead to its nodes, except where they cannot be seen: compiled code hands its result
to its caller alone, and a module can keep a tensor for the loss in an attribute. But autograd
numbers nodes as they are made, thread by thread, so the numbers at the begin and at the end of a
call bound those that it made.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch.autograd.graph import Node

from xsp.levels.layer.autograd import is_accumulator
from xsp.machine.torch_internals import nodes_made, sequence_of


@dataclass(frozen=True)
class EndedCall:
    """A layer call that has ended: its number by its end, its row, and the numbers of the first
    node that it can have made and of the first after it.
    """

    call: int
    row: int
    first: int
    after: int


class MadeDuring:
    """Remembers the calls of one run that ended with gradients on."""

    def __init__(self) -> None:
        self._calls: list[EndedCall] = []
        self._threads: set[int] = set()
        """Threads known to have made nodes: each counts from zero, so a number says nothing where
        there are several.
        """

    def ended(self, call: int, row: int, first: int) -> None:
        """A call of this thread has ended that began when `first` nodes had been made."""
        self._threads.add(threading.get_ident())
        after = nodes_made()
        if after > first:
            self._calls.append(EndedCall(call, row, first, after))

    def graph_made_on(self, threads: set[int]) -> None:
        """Nodes were made on these threads by other means than a call."""
        self._threads |= threads

    def makers(self, graph: Sequence[Node], wanted: Sequence[int]) -> dict[int, EndedCall]:
        """The innermost call that made each of the wanted nodes (places in the graph that a
        backward pass will run), without those of which it is not known.
        """
        if self._threads != {threading.get_ident()}:
            return {}
        numbers = [sequence_of(node) for node in graph if not is_accumulator(node)]
        # A number that comes twice comes from two threads, one of which made no call.
        twice = {number for number, times in Counter(numbers).items() if times > 1}
        found = {place: self._around(sequence_of(graph[place])) for place in wanted}
        return {
            place: call
            for place, call in found.items()
            if call is not None and twice.isdisjoint(range(call.first, call.after))
        }

    def _around(self, number: int) -> EndedCall | None:
        # Calls that nest end from the inside out.
        return next((each for each in self._calls if each.first <= number < each.after), None)
