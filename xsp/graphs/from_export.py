"""A PyTorch model as a graph: by torch.export, else by tracing one execution (torch.fx)."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from xsp.errors import GraphError
from xsp.graphs.aten import CONSTANTS, Call, canonical_name, is_view, operation_of
from xsp.graphs.building import GraphBuilder
from xsp.graphs.graph import Graph
from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, TensorType
from xsp.graphs.layouts import lies_channels_last
from xsp.graphs.patterns import merged
from xsp.graphs.tracing import EXPORT, TRACE, Traced, traced_call


def graph_of(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Graph:
    """The layers of one call `model(*args, **kwargs)` and who feeds whom.

    torch.export reads the model without running it. What it cannot follow, such as a condition on
    a value, is run once and traced on the way (torch.fx); the graph is then that of these inputs,
    and a note says so. Dynamic shapes do not occur: the shapes are those of the inputs.

    Raises GraphError with the reasons of both where neither works.
    """
    title = name or type(model).__name__
    traced = traced_call(model, args, kwargs, title)
    found = _read(traced, _owners(model), title)
    notes = (*traced.notes, *found.notes)
    return Graph(found.name, found.layers, found.edges, found.source, notes=notes)


def _owners(model: nn.Module) -> dict[str, bool]:
    """By qualified name, whether a module is a leaf."""
    return {name: not any(True for _ in each.children()) for name, each in model.named_modules()}


def _read(traced: Traced, owners: Mapping[str, bool], name: str) -> Graph:
    reader = _Reader(frozenset(traced.held), owners)
    for node in traced.graph.nodes:
        reader.read(node)
    if not reader.builder.values:
        raise GraphError(f"{name} computes nothing from its inputs; there is no layer to show")
    return merged(reader.builder.graph(name, traced.source))


class _Reader:
    """Goes through an fx graph of ATen operators."""

    def __init__(self, constants: frozenset[str], owners: Mapping[str, bool]) -> None:
        self.builder = GraphBuilder()
        self._constants = constants
        self._owners = owners
        self._functions: Counter[str] = Counter()

    def read(self, node: fx.Node) -> None:
        """Take one node in."""
        if node.op in {"placeholder", "get_attr"}:
            self._leaf(node)
        elif node.op == "call_function" and node.target is operator.getitem:
            self._item(node)
        elif node.op == "call_function":
            self._call(node)

    def _leaf(self, node: fx.Node) -> None:
        found = _tensor_types(node.meta.get("val"))
        if len(found) != 1:
            return
        held = node.op == "get_attr" or node.name in self._constants
        add = self.builder.add_constant if held else self.builder.add_input
        add(node.name, found[0])

    def _item(self, node: fx.Node) -> None:
        """One of several outputs; those of a layer that returns several are known by number."""
        source, number = node.args
        key = f"{source}[{number}]"
        known = key if key in self.builder.values else str(source)
        types = _tensor_types(node.meta.get("val"))
        if known in self.builder.values and len(types) == 1:
            self.builder.add_view(node.name, known, types[0])

    def _call(self, node: fx.Node) -> None:
        types = _tensor_types(node.meta.get("val"))
        call = self._bound(node, types)
        if call is None:
            return
        if canonical_name(call.operator) in CONSTANTS:
            for key, tensor in zip(_keys(node.name, types), types, strict=True):
                self.builder.add_constant(key, tensor)
        elif call.tensors and is_view(call):
            self._view(node, types)
        elif call.tensors:
            self._layer(node, call, types)

    def _bound(self, node: fx.Node, types: Sequence[TensorType]) -> Call | None:
        """The call with arguments by the name that the operator's schema gives them."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return None
        arguments: dict[str, Any] = {}
        for place, argument in enumerate(schema.arguments):
            if place < len(node.args):
                arguments[argument.name] = node.args[place]
            elif argument.name in node.kwargs:
                arguments[argument.name] = node.kwargs[argument.name]
            elif argument.has_default_value():
                arguments[argument.name] = argument.default_value
        filled = {key: self._value(each) for key, each in arguments.items()}
        return Call(schema.name.partition("::")[2], filled, types)

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.builder.values.get(argument.name)
        if isinstance(argument, list | tuple):
            return [self._value(each) for each in argument]
        return argument

    def _view(self, node: fx.Node, types: Sequence[TensorType]) -> None:
        of = next(each for each in node.all_input_nodes if each.name in self.builder.values)
        keys = _keys(node.name, types) if types else [node.name]
        for key, tensor in zip(keys, types, strict=False):
            self.builder.add_view(key, of.name, tensor)
        if types and node.name not in self.builder.values:
            self.builder.add_view(node.name, of.name, types[0])

    def _layer(self, node: fx.Node, call: Call, types: Sequence[TensorType]) -> None:
        found = operation_of(call)
        if found.operator == "identity":
            self._view(node, types)
            return
        name, owner = self._name(node, call)
        outputs = types or [found.operands[0].type]
        self.builder.add_layer(
            [node.name, *_keys(node.name, outputs)],
            found,
            [outputs[0], *outputs] if len(outputs) > 1 else outputs,
            name=name,
            source=str(node.target),
            owner=owner,
            layout=_layout(node),
        )

    def _name(self, node: fx.Node, call: Call) -> tuple[str, str]:
        """Its name, and the layer of a profile that it belongs to: a leaf module, else
        `module::function`, numbered as a profile does.
        """
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        paths = [str(each[0]) for each in stack if isinstance(each, tuple)]
        inner = [path.removeprefix("target").removeprefix(".") for path in paths]
        known = [path for path in inner if path in self._owners]
        module = known[-1] if known else ""
        if module and self._owners[module]:
            return module, module
        bare = call.operator.rstrip("_")
        function = f"{module}::{_PYTHON_NAMES.get(bare, bare)}"
        seen = self._functions[function]
        self._functions[function] += 1
        return function, f"{function}_{seen}" if seen else function


_PYTHON_NAMES = {
    "div": "truediv",
    "upsample_nearest2d": "interpolate",
    "upsample_bilinear2d": "interpolate",
    "upsample_bicubic2d": "interpolate",
}
"""Operators that a profile knows by the function that calls them."""


def _keys(name: str, types: Sequence[TensorType]) -> list[str]:
    """One output has the node's name, each of several its number behind."""
    return [name] if len(types) == 1 else [f"{name}[{place}]" for place in range(len(types))]


def _tensor_types(value: Any) -> list[TensorType]:
    tensors = [value] if isinstance(value, torch.Tensor) else value
    if not isinstance(tensors, list | tuple):
        return []
    return [
        TensorType(tuple(int(size) for size in each.shape), str(each.dtype).removeprefix("torch."))
        for each in tensors
        if isinstance(each, torch.Tensor)
    ]


def _layout(node: fx.Node) -> str:
    """CHANNELS_LAST where a four-dimensional result, or the first operand, lies so in memory."""
    for each in (node, *node.all_input_nodes[:1]):
        value = each.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            return CHANNELS_LAST if lies_channels_last(value) else CONTIGUOUS
    return CONTIGUOUS


__all__ = ["EXPORT", "TRACE", "graph_of"]
