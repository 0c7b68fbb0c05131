"""Bricks that are calls of a model's own modules, with the Python that these run around operators.

On a GPU at small batches the host takes most of a latency, and between its operators Python does:
a third of a call of BERT. Bricks of operators leave it out. Here a module whose call runs at most
`granularity` layers is a brick as it is, called with real arguments. Of a larger one the brick is
its shell: the module called with its modules left out, each of which gives at once what it gave in
the model. So all that a model does is in one brick. Unlike bricks of operators, these need the
model's code, so no package has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor, fx

from xsp.brickwork.cutting import Brick, Decomposition, brick_of
from xsp.brickwork.model import Model
from xsp.brickwork.parts import is_view
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer
from xsp.graphs.tracing import ModuleCall

MODULE, SHELL = "module", "shell of a module"
"""Operators of layers that are calls of modules, and of modules with theirs left out."""


def cut_along_modules(model: Model, granularity: int) -> Decomposition:
    """The outermost modules of at most `granularity` layers, and the shells of those around them,
    in the order in which they are called. Who feeds whom is not in its graph.
    """
    cut = _Cut(model, granularity)
    for call in model.traced.calls:
        cut.add(call)
    layers = tuple(each.layer for each in cut.bricks)
    graph = Graph(model.name, layers, (), model.traced.source, notes=model.traced.notes)
    return Decomposition(model, granularity, tuple(cut.bricks), graph)


class _Cut:
    def __init__(self, model: Model, granularity: int) -> None:
        self.model, self.granularity = model, granularity
        self.bricks: list[Brick] = []
        parts = model.parts
        self._place_of = {node: place for place, part in enumerate(parts) for node in part.nodes}

    def add(self, call: ModuleCall) -> str:
        """The bricks of a call; returns the digest of the first, which stands for all of it."""
        window = self._window(call)
        if window is not None and window[1] - window[0] <= self.granularity:
            own = brick_of(self.model, *window)
            self.bricks.append(replace(own, layer=replace(own.layer, operator=MODULE), call=call))
            return own.layer.digest
        at = len(self.bricks)
        inside = [self.add(each) for each in call.children]
        layer = _shell(call, inside)
        first = min(
            (self._place_of[each] for each in call.nodes if each in self._place_of), default=0
        )
        self.bricks.insert(at, Brick(layer, first, first, (), (), (), call))
        return layer.digest

    def _window(self, call: ModuleCall) -> tuple[int, int] | None:
        """The layers that a call runs; None where it runs none, or only a part of one."""
        inside = {node for node in call.nodes if node in self._place_of}
        places = sorted({self._place_of[node] for node in inside if not is_view(node)})
        if not places:
            return None
        first, end = places[0], places[-1] + 1
        if end - first != len(places):
            return None
        nodes = chain.from_iterable(part.nodes for part in self.model.parts[first:end])
        is_whole = all(node in inside for node in nodes if not is_view(node))
        return (first, end) if is_whole else None


def _shell(call: ModuleCall, inside: Sequence[str]) -> Layer:
    """What a module does itself: equal for modules of one class that run the same operators on the
    same types, and whose modules are equal.
    """
    theirs = {node for each in call.children for node in each.nodes}
    own = [node for node in call.nodes if node not in theirs]
    parameters: Mapping[str, Any] = {
        "class": call.kind,
        "nodes": [_written_down(node) for node in own],
        "modules": list(inside),
    }
    return Layer(
        name=call.kind,
        operator=SHELL,
        parameters=parameters,
        source=" ".join(node.name for node in own if not is_view(node)),
    )


def _written_down(node: fx.Node) -> str:
    """An operator with the types of tensors in place of these, and its other arguments."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), _type)
    return f"{node.target} {args} {kwargs}"


def _type(node: fx.Node) -> str:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype}{list(value.shape)}{list(value.stride())}"
