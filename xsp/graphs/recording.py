"""One call of a PyTorch model as a list of the operators that it really runs, written down on the
way.

`tracing` reads a model in a state in which torch says that it is traced, and libraries then run
other operators: transformers makes attention masks that it leaves out otherwise, and
`torch.nn.MultiheadAttention` does not take its fast path. Here nothing says so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from xsp.errors import GraphError
from xsp.graphs.tracing import ModuleCall, Traced
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.torch_internals import (
    MODULE_CALL,
    leaves_of,
    operators_called,
    preserving_version,
    version_of,
)

CALL = "a call"
_BY_VALUES = "shapes or conditions depend on values ({}), and are those of these inputs"


def recorded_call(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> Traced:
    """The operators of `model(*args, **kwargs)` as Python calls them: `linear`, and not the
    products and views that torch makes of it. The model is run once, without gradients. What
    depends on values, such as a condition or a shape, is as these inputs make it.

    Raises GraphError under autocast, whose casts are not among the operators, and whatever the
    model raises.
    """
    given = dict(kwargs or {})
    passed = [each for each in leaves_of((tuple(args), given)) if isinstance(each, torch.Tensor)]
    recorder = _Recorder(model, passed)
    unwritten = _unwritten([*passed, *model.buffers()])
    modules = module_calls(recorder.enter, recorder.leave)
    with torch.no_grad(), unwritten, modules, operators_called(recorder.add):
        returned = model(*args, **given)
    return recorder.finished(tensors_in(returned))


Entered = Callable[[int, nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""What is told of a call of a module: its place in order, the module, its arguments."""


@contextmanager
def module_calls(entered: Entered, left: Callable[[Any], None]) -> Iterator[None]:
    """A block in which `entered` is told of every call of a module before it, and `left` of what it
    returned, None where it raised. No module is changed, and none can see it.
    """
    original, places = MODULE_CALL.value, count()

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        entered(next(places), module, args, kwargs)
        result = None
        try:
            result = original(module, *args, **kwargs)
        finally:
            left(result)
        return result

    undo = MODULE_CALL.replace(called)
    try:
        yield
    finally:
        undo()


@contextmanager
def _unwritten(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """A block after which these have the values that they had before it."""
    before = [(each, each.clone(), version_of(each)) for each in tensors]
    try:
        yield
    finally:
        for tensor, values, version in before:
            if version_of(tensor) != version:
                with preserving_version(tensor):
                    tensor.copy_(values)


class _Recorder:
    """Writes down operators, and which results they read."""

    def __init__(self, model: nn.Module, passed: Sequence[torch.Tensor]) -> None:
        self._graph = fx.Graph()
        # Weak keys: a result that the model drops is freed as always.
        self._node_of = WeakTensorKeyDictionary()
        self._held: dict[str, torch.Tensor] = {}
        self._given: dict[str, torch.Tensor] = {}
        self._first: fx.Node | None = None
        self._names: dict[int, str] = {}
        self._parts: list[fx.Node] = []
        self._by_values: dict[str, None] = {}
        self._open: list[ModuleCall] = []
        self._calls: list[ModuleCall] = []
        every = [*model.named_parameters(), *model.named_buffers()]
        for name, tensor in every:
            self._names.setdefault(id(tensor), name.replace(".", "_"))
        for tensor in passed:
            if tensor not in self._node_of:
                node = self._leaf("input", tensor)
                self._given[node.name] = tensor

    def add(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """One operator that ran, with what it returned."""
        if _is_cast(args, kwargs):
            raise GraphError(
                f"{function} runs under autocast, whose casts are not seen; call the model without "
                "autocast, or convert it to the type that it should run in"
            )
        if function is torch.ops.aten.detach_.default:
            return  # nothing without gradients, and no view of a brick's input could be detached
        read_args, read_kwargs = self._read(args), self._read(kwargs)
        name = function.overloadpacket.__name__
        node = self._graph.create_node("call_function", function, read_args, read_kwargs, name)
        if _depends_on_values(function, args):
            self._by_values[name] = None
        self._first = self._first or node
        for call in self._open:
            call.nodes.append(node)
        self._shown(node, result)

    def enter(self, place: int, module: nn.Module, *_: Any) -> None:
        """A module is called."""
        call = ModuleCall(place, type(module).__qualname__)
        (self._open[-1].children if self._open else self._calls).append(call)
        self._open.append(call)

    def leave(self, _: Any) -> None:
        """The last one that was called and has not returned yet does."""
        self._open.pop()

    def finished(self, returned: Sequence[torch.Tensor]) -> Traced:
        """What was written down, of a call that returned these tensors."""
        self._graph.output(tuple(self._node(each) for each in returned))
        for part in self._parts:
            if not part.users:
                self._graph.erase_node(part)
        notes = (_BY_VALUES.format(", ".join(self._by_values)),) if self._by_values else ()
        calls = tuple(self._calls)
        return Traced(self._graph, self._held, self._given, CALL, notes, calls)

    def _read(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._node(value)
        if isinstance(value, dict):
            return {key: self._read(each) for key, each in value.items()}
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            return type(value)([self._read(each) for each in value])
        return value

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        """What made a tensor; one that no operator made is a constant of the model."""
        found: fx.Node | None = self._node_of.get(tensor)
        if found is None:
            found = self._leaf(self._names.get(id(tensor), "constant"), tensor)
            self._held[found.name] = tensor
        return found

    def _leaf(self, name: str, tensor: torch.Tensor) -> fx.Node:
        if self._first is None:
            node = self._graph.placeholder(name)
        else:
            with self._graph.inserting_before(self._first):
                node = self._graph.placeholder(name)
        self._shown(node, tensor)
        return node

    def _shown(self, node: fx.Node, result: Any) -> None:
        """Remember what a node gave: a tensor, or several of which each gets a node."""
        node.meta["val"] = _without_data(result)
        if isinstance(result, torch.Tensor):
            self._node_of[result] = node
        elif isinstance(result, list | tuple):
            for place, each in enumerate(result):
                if isinstance(each, torch.Tensor):
                    part = self._graph.call_function(operator.getitem, (node, place))
                    self._parts.append(part)
                    self._shown(part, each)


def _is_cast(args: Any, kwargs: Any) -> bool:
    """Whether autocast may convert what an operator reads."""
    kinds = {each.device.type for each in leaves_of((args, kwargs)) if torch.is_tensor(each)}
    return any(torch.is_autocast_enabled(kind) for kind in kinds)


def _depends_on_values(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether the shape of its result, or what Python does with it, depends on values."""
    if torch.Tag.data_dependent_output in function.tags:
        return True
    by_mask = [each for each in leaves_of(args) if torch.is_tensor(each)][1:]
    if function.overloadpacket is torch.ops.aten.index:
        return any(each.dtype in {torch.bool, torch.uint8} for each in by_mask)
    return torch.Tag.dynamic_output_shape in function.tags


def _without_data(result: Any) -> Any:
    """A tensor's shape, type and strides; lists of them."""
    if isinstance(result, list | tuple):
        return [_without_data(each) for each in result]
    if not isinstance(result, torch.Tensor) or result.layout != torch.strided:
        return result.detach() if isinstance(result, torch.Tensor) else result
    size, stride = result.shape, result.stride()
    return torch.empty_strided(size, stride, dtype=result.dtype, device="meta")
