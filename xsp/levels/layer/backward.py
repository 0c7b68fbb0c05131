"""In what order a backward pass runs the graph nodes of forward calls, and which of them need
stamps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from xsp.analysis.work.layer_work import moves_gradient
from xsp.levels.layer.autograd import NODES_PER_CALL, backward_code, made_by, new_nodes, node_of
from xsp.levels.layer.tensors import locate_tensors
from xsp.levels.layer.ways import Found, Plan, Trail, plan_for

Numbered = tuple[int, int]
"""A forward call, by its end, and the number of one of its nodes."""


class BackwardOrder:
    """Watches every node of one untimed run, to spare the timed runs most of that.

    A node's interval lasts until the next watched node begins. Where a call's nodes always run
    right after one of its outputs' nodes, watching the outputs' nodes gives the same intervals by
    layer. Autograd runs what was made last first, so that is the rule; a node in the middle of a
    layer whose tensor is used elsewhere is an exception.
    """

    def __init__(self) -> None:
        self._trails: dict[int, list[Trail]] = {}
        self._outputs: dict[int, tuple[int, ...]] = {}
        self._types: dict[int, list[str]] = {}
        self._ran: dict[int, list[Numbered | None]] = {}
        self._hooks: list[RemovableHandle] = []
        self.makes_graph: set[int] = set()
        """Threads on which a backward pass made nodes itself (`create_graph`)."""

    def watch(self, call: int, inputs: Any, outputs: Any, token: object) -> list[str]:
        """Watch the new nodes of a call; returns their names, in the order of their numbers."""
        if isinstance(outputs, torch.Tensor) and node_of(outputs) is None:
            return []
        given = locate_tensors(outputs)
        made = made_by(each.tensor for each in given)
        if not made:
            return []
        found = new_nodes([each.tensor for each in locate_tensors(inputs)], given, token)
        number = {each.node: index for index, each in enumerate(found)}
        self._types[call] = [each.node.name() for each in found]
        self._trails[call] = [each.trail for each in found]
        for node, index in number.items():
            self._hooks.append(self._watched(node, (call, index)))
        # Last: an exception that arrives before leaves no call of which only a part is known.
        self._outputs[call] = tuple(number[node] for node in dict.fromkeys(made) if node in number)
        return self._types[call]

    def watch_late(self, call: int, node: Node) -> int | None:
        """Watch a node of a call that its outputs do not lead to; returns its number, None where
        the call has too many.
        """
        types = self._types.setdefault(call, [])
        number = len(types)
        if number >= NODES_PER_CALL:
            return None
        types.append(node.name())
        # Stamped always, as outputs' nodes are: no other node of the call says when it runs.
        self._outputs[call] = (*self._outputs.get(call, ()), number)
        self._hooks.append(self._watched(node, (call, number)))
        return number

    def watch_others(self, found: Sequence[Found], places: Iterable[int]) -> None:
        """Watch nodes that no call owns: what runs after them does not follow a call's."""
        self._hooks += [self._watched(found[place].node, None) for place in places]

    def _watched(self, node: Node, which: Numbered | None) -> RemovableHandle:
        def runs(_gradients: Any) -> None:
            thread = threading.get_ident()
            self._ran.setdefault(thread, []).append(which)
            if torch.is_grad_enabled():
                self.makes_graph.add(thread)

        return node.register_prehook(runs)

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Around a run of autograd's engine: what runs before, in and after it does not follow each
        other.
        """
        self._cut()
        try:
            yield
        finally:
            self._cut()

    def _cut(self) -> None:
        for ran in list(self._ran.values()):
            ran.append(None)

    def stop(self) -> None:
        """Take the hooks off the nodes."""
        for handle in self._hooks:
            handle.remove()
        self._hooks.clear()

    def type_of(self, call: int, root: int) -> str:
        """The type of what runs from an output's node on: the first node's that does more than move
        the gradient.
        """
        types = self._types[call]
        end = min((other for other in self._outputs[call] if other > root), default=len(types))
        return next((each for each in types[root:end] if not moves_gradient(each)), types[root])

    def sufficient(self) -> dict[int, tuple[int, ...]]:
        """For each call of which the outputs' nodes suffice, their numbers in the order of the
        outputs.
        """
        needed = {
            call
            for ran in self._ran.values()
            for before, which in zip([None, *ran], ran, strict=False)
            if which is not None
            for call, node in [which]
            if node not in self._outputs.get(call, ()) and (before is None or before[0] != call)
        }
        return {call: numbers for call, numbers in self._outputs.items() if call not in needed}

    def plans(self, sufficient: Mapping[int, tuple[int, ...]]) -> dict[int, Plan]:
        """For each call that made nodes, the ways to those that timed runs stamp."""
        found = {}
        for call, trails in self._trails.items():
            numbers = sufficient.get(call, range(len(trails)))
            # Late nodes have no trail: the ways of the engine's run lead to them.
            events = {
                number: 2 * backward_code(call, number)
                for number in numbers
                if number < len(trails)
            }
            found[call] = plan_for(trails, events)
        return {call: plan for call, plan in found.items() if plan}
