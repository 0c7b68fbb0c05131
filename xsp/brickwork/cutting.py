"""Bricks of a model: windows of its layers as networks without weights and names."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from xsp.brickwork.model import Model
from xsp.brickwork.network import DEVICE, GETITEM
from xsp.brickwork.parts import Part, name_of
from xsp.brickwork.splitting import Valid, find_model_subgraphs
from xsp.errors import GraphError
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer, TensorType
from xsp.graphs.tracing import ModuleCall

BRICK = "brick"
"""The operator of layers that are whole networks; their parameters have the nodes."""


@dataclass(frozen=True, eq=False)
class Brick:
    """A window [begin, end) of a model's layers. `layer` is what it computes, equal for bricks that
    differ in weights and names only; `inputs`, `weights` and `outputs` are the model's own values.
    `call` is set where it is run as a call of one of the model's modules.
    """

    layer: Layer
    begin: int
    end: int
    inputs: tuple[fx.Node, ...]
    weights: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    call: ModuleCall | None = None


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A model as bricks of at most `granularity` layers. `graph` has them as its layers, in the
    order in which they run, with who feeds whom.
    """

    model: Model
    granularity: int
    bricks: tuple[Brick, ...]
    graph: Graph


def decomposed(model: Model, granularity: int) -> Decomposition:
    """The model's bricks by DLBricks' FindModelSubgraphs.

    A sequence of layers is a valid network if only its first layer reads activations from outside:
    a residual's addition without its shortcut, or a concatenation without all that it joins, is
    none, and SplitModel then takes the first layer alone. A single layer is always one.

    Raises GraphError for a granularity below 1, a shape that depends on values, and an argument
    that cannot be written down.
    """
    windows = find_model_subgraphs(len(model.parts), granularity, valid_in(model))
    bricks = [brick_of(model, begin, end) for begin, end in windows]
    return decomposition_of(model, granularity, bricks)


def valid_in(model: Model) -> Valid:
    """Whether layers [begin, end) of the model are a valid network."""
    reach = _reach(model)
    return lambda begin, end: all(reach[place] >= begin for place in range(begin + 1, end))


def pairs(model: Model) -> list[Brick | None]:
    """For each layer, it and the one before it as one brick; None where that is no valid network.
    What a layer takes after its predecessor is their time together less the predecessor's.
    """
    reach = _reach(model)
    return [
        brick_of(model, place - 1, place + 1) if place and reach[place] >= place - 1 else None
        for place in range(len(model.parts))
    ]


def whole(model: Model) -> Brick:
    """All layers of the model as one brick: what Python between operators costs is not in it."""
    return brick_of(model, 0, len(model.parts))


def _reach(model: Model) -> list[int]:
    """By layer, the place of the earliest layer whose result it reads; -1 for an input of the
    model, its own place for a layer that reads none.
    """
    place_of = {node: place for place, part in enumerate(model.parts) for node in part.nodes}
    held = model.traced.held
    found = []
    for place, part in enumerate(model.parts):
        read = [place_of.get(node, -1) for node in part.reads if node.name not in held]
        found.append(min([place, *read, *part.needs]))
    return found


def decomposition_of(model: Model, granularity: int, bricks: Sequence[Brick]) -> Decomposition:
    """Bricks that together are the whole model, in order, with who feeds whom."""
    owner = {place: at for at, each in enumerate(bricks) for place in range(each.begin, each.end)}
    edges = {
        (owner[before], owner[place])
        for place, part in enumerate(model.parts)
        for before in part.needs
        if owner[before] != owner[place]
    }
    layers = tuple(each.layer for each in bricks)
    graph = Graph(
        model.name, layers, tuple(sorted(edges)), model.traced.source, notes=model.traced.notes
    )
    return Decomposition(model, granularity, tuple(bricks), graph)


def brick_of(model: Model, begin: int, end: int) -> Brick:
    """Layers [begin, end) as one brick, whether or not the algorithm would cut there."""
    parts = model.parts[begin:end]
    nodes = [node for part in parts for node in part.nodes]
    inputs, weights = _read_from_outside(parts, set(nodes), model.traced.held)
    inside = set(nodes)
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    names = {node: f"n{place}" for place, node in enumerate(nodes)}
    names |= {node: f"i{place}" for place, node in enumerate(inputs)}
    names |= {node: f"w{place}" for place, node in enumerate(weights)}
    tensors = [_value(node, model) for node in (*inputs, *weights)]
    parameters = {
        "nodes": [_written_down(node, names, model.device) for node in nodes],
        "outputs": [{"value": names[node]} for node in outputs],
        "strides": [list(each.stride()) for each in tensors],
    }
    types = [_type(node, each) for node, each in zip((*inputs, *weights), tensors, strict=True)]
    own = parts[0].name if len(parts) == 1 else f"{parts[0].name}…{parts[-1].name}"
    layer = Layer(
        name=own,
        operator=BRICK,
        inputs=tuple(types[: len(inputs)]),
        weights=tuple(types[len(inputs) :]),
        outputs=tuple(_type(node, _value(node, model)) for node in outputs),
        parameters=parameters,
        source=" ".join(name_of(node) for node in nodes),
    )
    return Brick(layer, begin, end, tuple(inputs), tuple(weights), tuple(outputs))


def _read_from_outside(
    parts: Sequence[Part], inside: set[fx.Node], held: Mapping[str, Tensor]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Activations and weights, each once, in the order in which they are first read."""
    read = dict.fromkeys(node for part in parts for node in part.reads if node not in inside)
    inputs = [node for node in read if node.name not in held]
    return inputs, [node for node in read if node.name in held]


def _value(node: fx.Node, model: Model) -> Tensor:
    """The tensor, or one without memory that has its shape."""
    found = model.values.get(node.name)
    found = node.meta.get("val") if found is None else found
    if not isinstance(found, Tensor):
        raise GraphError(
            f"{node.name!r}, a result of {node.target}, is a {type(found).__name__} and no tensor, "
            "so no brick can begin or end there; keep values that are no tensors inside a module"
        )
    if found.layout != torch.strided:
        raise GraphError(
            f"{node.name!r}, a result of {node.target}, is {found.layout}, and bricks are made of "
            "dense tensors only; take that part out of the model, or make it dense"
        )
    return found


def _type(node: fx.Node, tensor: Tensor) -> TensorType:
    if not all(isinstance(size, int) for size in (*tensor.shape, *tensor.stride())):
        raise GraphError(
            f"the shape {tuple(tensor.shape)} of {node.name!r}, a result of {node.target}, depends "
            "on values, so its brick would be another one in every call; take that operator out "
            "of the model, or replace it by one with a fixed shape"
        )
    return TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _written_down(node: fx.Node, names: Mapping[fx.Node, str], home: str) -> list[Any]:
    """Operator, arguments and keyword arguments as JSON-able values (`network.Facts`) of a model
    whose device is `home`.
    """
    target = node.target
    named = GETITEM if target is operator.getitem else str(target)
    kwargs = {key: _argument(node, each, names, home) for key, each in node.kwargs.items()}
    return [named, [_argument(node, each, names, home) for each in node.args], kwargs]


def _argument(node: fx.Node, value: Any, names: Mapping[fx.Node, str], home: str) -> Any:
    if isinstance(value, fx.Node):
        return {"value": names[value]}
    if isinstance(value, list | tuple):
        return [_argument(node, each, names, home) for each in value]
    if isinstance(value, torch.device):
        return DEVICE if value.type == home else {"device": value.type}
    for kind in (torch.dtype, torch.memory_format, torch.layout):
        if isinstance(value, kind):
            return {kind.__name__: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise GraphError(
        f"an argument of {node.target} at {node.name!r} is a {type(value).__name__}, which depends "
        "on values or cannot be written down; give the model fixed shapes and plain arguments"
    )
