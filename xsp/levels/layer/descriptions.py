"""What calls are called with and give, each description kept once: of the calls that a program
makes few differ, and a loop can make hundreds of thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from xsp.analysis.work.products import is_product
from xsp.levels.layer.arguments import Called, function_called, module_called
from xsp.levels.layer.functional import CompiledFunction, layer_type
from xsp.levels.layer.tensors import describe_tensors
from xsp.machine.torch_internals import without_torch_functions

MOST_KEPT = 4096
"""Descriptions of a kind; a program whose calls all differ must not have them kept for ever."""

_PLAIN = (bool, int, float, str, type(None))
_TENSORS = (torch.Tensor, nn.Parameter)

Described = tuple[list[list[int]], list[str]]
_Value = TypeVar("_Value")


class _UnlikeOthersError(Exception):
    """A value that has to be looked at whole."""


class Descriptions:
    """The descriptions of one structure run. What is returned is shared, and not to be changed."""

    def __init__(self) -> None:
        self._functions: dict[Hashable, Called] = {}
        self._modules: dict[str, Called] = {}
        self._tensors: dict[Hashable, Described] = {}

    def of_function(
        self,
        function: Callable[..., Any] | CompiledFunction,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Called:
        """As `function_called`."""
        values = is_product(layer_type(function))
        try:
            with without_torch_functions():
                given = tuple([_outline(value, values) for value in args])
                named = tuple([(name, _outline(each, values)) for name, each in kwargs.items()])
            key = (function, given, named)
            known = self._functions.get(key)
        except (_UnlikeOthersError, TypeError):
            return function_called(function, args, kwargs)
        if known is None:
            known = function_called(function, args, kwargs)
            _keep(self._functions, key, known)
        return known

    def of_module(
        self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Called:
        """As `module_called`, which also looks at the module as it is now."""
        called = module_called(module, args, kwargs)
        key = repr(called)
        return self._modules.get(key) or _keep(self._modules, key, called)

    def of_tensors(self, tensors: Sequence[torch.Tensor]) -> Described:
        """As `describe_tensors`."""
        try:
            with without_torch_functions():
                key = tuple([_outline(tensor, False) for tensor in tensors])
        except _UnlikeOthersError:
            return describe_tensors(tensors)
        return self._tensors.get(key) or _keep(self._tensors, key, describe_tensors(tensors))


def _keep(kept: dict[Any, _Value], key: Hashable, value: _Value) -> _Value:
    if len(kept) >= MOST_KEPT:
        kept.clear()
    kept[key] = value
    return value


def _outline(value: Any, values: bool) -> Hashable:
    """What is equal for two values that are described alike; `values` tells whether plain values
    themselves are told apart, or their types alone.
    """
    kind = type(value)
    if kind in _TENSORS:
        if value.layout is not torch.strided or value.is_nested:
            raise _UnlikeOthersError
        return value.dtype, *value.shape
    if kind in _PLAIN:
        return (kind, value) if values else (kind,)
    if kind in (list, tuple):
        return (kind, *[_outline(each, values) for each in value])
    raise _UnlikeOthersError
