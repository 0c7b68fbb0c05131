"""What calls are called with and give, each description kept once: of the calls that a program
makes few differ, and a loop can make hundreds of thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from xsp.analysis.work.products import is_product
from xsp.levels.layer.arguments import Called, constants_of, module_called
from xsp.levels.layer.functional import CompiledFunction, layer_type
from xsp.levels.layer.layer_rows import Described, keep
from xsp.levels.layer.tensors import describe_tensors
from xsp.machine.torch_internals import without_torch_functions

_PLAIN = (bool, int, float, str, type(None), type(...), torch.dtype, torch.device)
_TENSORS = (torch.Tensor, nn.Parameter)


class _UnlikeOthersError(Exception):
    """A value that has to be looked at whole."""


class Descriptions:
    """The descriptions of one structure run. What is returned is shared, and not to be changed."""

    def __init__(self) -> None:
        self._modules: dict[Hashable, Called] = {}
        self._takes_values: dict[Hashable, bool] = {}
        """Of which functions the plain values that they are given are described."""
        self._tensors: dict[Hashable, Described] = {}

    def key_of_function(
        self,
        function: Callable[..., Any] | CompiledFunction,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Hashable:
        """What is equal for calls of a function for which `function_called` says the same; None
        where that has to be asked.
        """
        values = self._takes_values.get(function)
        if values is None:
            values = keep(self._takes_values, function, is_product(layer_type(function)))
        try:
            with without_torch_functions():
                if not kwargs:
                    return _outlines(args, values)
                named = _outlines(kwargs.values(), values)
                return _outlines(args, values), tuple(kwargs), named
        except _UnlikeOthersError:
            return None

    def of_module(
        self,
        module: nn.Module,
        own: Mapping[str, nn.Parameter],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Called:
        """As `module_called`, which also looks at the module as it is now; `own` are the parameters
        that it holds itself.
        """
        try:
            with without_torch_functions():
                key = _outline_of_call(module, own, args, kwargs)
            known = self._modules.get(key)
        except (_UnlikeOthersError, TypeError):
            called = module_called(module, args, kwargs)
            key = repr((called.shapes, called.dtypes, called.arguments))
            return self._modules.get(key) or keep(self._modules, key, called)
        return known or keep(self._modules, key, module_called(module, args, kwargs))

    def of_tensors(self, tensors: Sequence[torch.Tensor]) -> Described:
        """As `describe_tensors`."""
        try:
            with without_torch_functions():
                key = _outlines(tensors, values=False)
        except _UnlikeOthersError:
            return Described(*describe_tensors(tensors))
        known = self._tensors.get(key)
        return known or keep(self._tensors, key, Described(*describe_tensors(tensors)))


def _outline_of_call(
    module: nn.Module,
    own: Mapping[str, nn.Parameter],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Hashable:
    """What is equal for two calls of modules that are described alike."""
    if any(each.layout is not torch.strided for each in own.values()):
        raise _UnlikeOthersError
    given = *_outlines(args, values=False), *kwargs, *_outlines(kwargs.values(), values=False)
    constants = constants_of(module)
    options = *constants, *_outlines(constants.values(), values=True)
    forward = module.forward
    return type(module), getattr(forward, "__func__", forward), given, options


def _outlines(given: Iterable[Any], values: bool) -> tuple[Hashable, ...]:
    """Of each, what is equal for two that are described alike; `values` tells whether plain values
    themselves are told apart, or their types alone.
    """
    found: list[Hashable] = []
    for value in given:
        kind = type(value)
        if kind in _TENSORS:
            if value.layout is not torch.strided or value.is_nested:
                raise _UnlikeOthersError
            found.append((value.dtype, value.shape))
        elif kind in _PLAIN:
            found.append((kind, value) if values else (kind,))
        elif kind is slice and not values:
            found.append((kind,))
        elif kind in (list, tuple):
            found.append((kind, *_outlines(value, values)))
        else:
            raise _UnlikeOthersError
    return tuple(found)
