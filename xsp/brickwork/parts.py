"""The layers of a traced call: each operator that computes, with the views around it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import fx

from xsp.errors import GraphError
from xsp.graphs.aten import VIEWS, canonical_name
from xsp.graphs.tracing import Traced

_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_async", "sym_constrain_range"})
"""Operators that export adds and that no program runs."""
_CONDITIONAL = frozenset({"dropout", "alpha_dropout", "feature_dropout", "native_dropout"})
"""Views while a model is not trained."""


@dataclass(eq=False)
class Part:
    """One layer: its nodes in order. `reads` are values from outside: of other parts, inputs and
    weights. `needs` are the places of the parts that must have run before.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    reads: list[fx.Node] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The name of its operator's node."""
        computing = (node for node in self.nodes if not is_view(node))
        return next(computing, self.nodes[0]).name


def parts_of(traced: Traced) -> list[Part]:
    """The layers in the order in which they run.

    A view joins the layer that gives what it shows, a view of an input or a weight the first layer
    that reads it. It stays a layer of its own where an operator in between writes in place.

    Raises GraphError for an operator that is no call of one tensor function, such as a loop.
    """
    reader = _Reader(traced)
    for node in traced.graph.nodes:
        if node.op == "call_function" and name_of(node) not in _CHECKS:
            reader.read(node)
    reader.close()
    if not reader.parts:
        raise GraphError("the model runs no operator on its inputs; there is no layer to measure")
    return reader.parts


def name_of(node: fx.Node) -> str:
    """The operator's name without namespace and overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet, "__name__", getattr(node.target, "__name__", node.target)))


def is_view(node: fx.Node) -> bool:
    """Whether the node belongs to the layer before it: see `xsp.graphs.aten.VIEWS`."""
    if node.target is operator.getitem:
        return True
    name = name_of(node)
    if name in _CONDITIONAL:
        return not bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("train", False))
    return canonical_name(name) in VIEWS


def written(node: fx.Node) -> list[fx.Node]:
    """The arguments that an operator writes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    found = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            own = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            found += list(_nodes([own]))
    return found


def _nodes(values: Sequence[Any]) -> Iterator[fx.Node]:
    for value in values:
        if isinstance(value, fx.Node):
            yield value
        elif isinstance(value, list | tuple):
            yield from _nodes(value)


# torch has no public name for the type of its operators.
_CALLABLE = (type(torch.ops.aten.add.Tensor), type(operator.getitem))


class _Reader:
    def __init__(self, traced: Traced) -> None:
        self.parts: list[Part] = []
        self._leaves = {*traced.held, *traced.given}
        self._place: dict[fx.Node, int] = {}
        self._writer: dict[fx.Node, int] = {}
        self._shown: dict[fx.Node, fx.Node] = {}
        self._pending: dict[fx.Node, None] = {}
        self._last_write = -1

    def read(self, node: fx.Node) -> None:
        if not isinstance(node.target, _CALLABLE):
            raise GraphError(
                f"operator {node.target} at {node.name!r} is no single call of a tensor function, "
                "so no brick can be made of it; take the loop, condition or context out of the "
                "model, or measure the parts around it"
            )
        source = next(iter(node.all_input_nodes), None)
        if not is_view(node) or source is None:
            self._computes(node)
            return
        self._shown[node] = source
        if source not in self._place:
            self._pending[node] = None
        elif self._last_write <= self._place[source] or node.target is operator.getitem:
            self._append(self._place[source], node)
        else:
            self._new(node)

    def close(self) -> None:
        """Views that nothing reads are dropped, unless the model returns them."""
        for node in list(self._pending):
            if node in self._pending and any(user.op == "output" for user in node.users):
                self._new(node)

    def _computes(self, node: fx.Node) -> None:
        targets = written(node)
        if targets:
            # A view that is a copy must be made before what it copies is written to.
            for each in [one for one in self._pending if one not in node.all_input_nodes]:
                if each in self._pending:
                    self._new(each)
        place = self._new(node)
        for target in targets:
            self._last_write = place
            for shown in self._chain(target):
                self._writer[shown] = place

    def _new(self, node: fx.Node) -> int:
        self.parts.append(Part())
        self._pending.pop(node, None)
        self._append(len(self.parts) - 1, node)
        return len(self.parts) - 1

    def _append(self, place: int, node: fx.Node) -> None:
        for each in node.all_input_nodes:
            self._settle(place, each)
        part = self.parts[place]
        for each in node.all_input_nodes:
            if self._place.get(each) == place:
                continue
            if each not in part.reads:
                part.reads.append(each)
            part.needs |= {self._place[each]} if each in self._place else set()
            part.needs |= self._writes_to(each)
        part.needs.discard(place)
        part.nodes.append(node)
        self._place[node] = place
        for each in node.users:
            # One of several results; no part hands a list on to another.
            if each.target is operator.getitem:
                self._settle(place, each)

    def _settle(self, place: int, node: fx.Node) -> None:
        """Give a view that no part had yet to this one."""
        if node in self._pending:
            del self._pending[node]
            self._append(place, node)

    def _writes_to(self, node: fx.Node) -> set[int]:
        """Which part last wrote in place to what a node shows."""
        writers = (self._writer[each] for each in self._chain(node) if each in self._writer)
        return set(islice(writers, 1))

    def _chain(self, node: fx.Node) -> Iterator[fx.Node]:
        """The node, what it shows, what that shows, and so on."""
        one: fx.Node | None = node
        while one is not None:
            yield one
            one = self._shown.get(one)
