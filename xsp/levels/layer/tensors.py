"""The tensors inside what a program passes around: which there are, their shapes, how often they
were written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from xsp.machine.torch_internals import (
    leaves_of,
    stored_values,
    version_of,
    without_torch_functions,
)


class StepKind(IntEnum):
    """What leads from a value to one inside it."""

    ITEM = 0
    ATTRIBUTE = 1
    LEAF = 2
    """The key counts the tensors that `tensors_in` finds: for containers that only pytree opens."""


Steps = tuple[tuple[int, Any], ...]
"""(StepKind, key) from a value to a tensor inside it."""


@dataclass(frozen=True)
class Located:
    """A tensor, and where it is in what a call gave."""

    tensor: torch.Tensor
    steps: Steps


# A model's output has few tensors close to its surface; an object that leads to the whole program
# is not searched to its end.
_DEEPEST = 5
_MOST = 4096
_CLOSED = (nn.Module, type, FunctionType, ModuleType, str, bytes, int, float, complex)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Tensors inside nested containers, in order; dataclasses and mappings registered with pytree
    included.
    """
    # Nearly every layer takes and gives a tensor or a flat tuple: pytree, at 10 us a call, is kept
    # for the rest.
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value) is tuple:
        plain = [item for item in value if isinstance(item, torch.Tensor)]
        if len(plain) == len(value):
            return plain
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)]


def locate_tensors(value: Any) -> list[Located]:
    """Tensors inside nested containers, dataclasses and any other object's attributes, each once,
    with the way to each. What a container registered with pytree hides otherwise comes last.
    """
    if isinstance(value, torch.Tensor):
        return [Located(value, ())]
    found: dict[int, Located] = {}
    for each in _searched(value, (), set()):
        found.setdefault(id(each.tensor), each)
    for place, tensor in enumerate(tensors_in(value)):
        found.setdefault(id(tensor), Located(tensor, ((StepKind.LEAF, place),)))
    return list(found.values())


def _searched(value: Any, steps: Steps, seen: set[int]) -> Iterator[Located]:
    if isinstance(value, torch.Tensor):
        yield Located(value, steps)
        return
    if value is None or isinstance(value, _CLOSED) or id(value) in seen:
        return
    if len(steps) == _DEEPEST or len(seen) == _MOST:
        return
    seen.add(id(value))
    for kind, key, inner in _inside(value):
        yield from _searched(inner, (*steps, (int(kind), key)), seen)


def _inside(value: Any) -> list[tuple[StepKind, Any, Any]]:
    if isinstance(value, (tuple, list)):
        return [(StepKind.ITEM, place, inner) for place, inner in enumerate(value)]
    if isinstance(value, dict):
        return [(StepKind.ITEM, key, inner) for key, inner in value.items()]
    own = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                own.setdefault(name, getattr(value, name))
    return [(StepKind.ATTRIBUTE, name, inner) for name, inner in own.items()]


def describe_tensors(value: Any) -> tuple[list[list[int]], list[str]]:
    """Shapes and dtypes of the tensors inside `value`; a nested tensor counts as the tensors that
    it consists of.
    """
    given = tensors_in(value)
    # Reading an attribute is a torch function: no mode or tensor subclass of the user's may see it.
    with without_torch_functions():
        tensors = [
            one for tensor in given for one in (_parts(tensor) if tensor.is_nested else [tensor])
        ]
        shapes = [list(tensor.shape) for tensor in tensors]
        return shapes, [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]


def _parts(nested: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(nested.detach().unbind())


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def stored_elements(value: Any) -> int | None:
    """How many elements a sparse tensor stores, those of its blocks included; None for others."""
    if not isinstance(value, torch.Tensor):
        return None
    with without_torch_functions():
        if value.layout is torch.sparse_coo:
            return stored_values(value).numel()
        return value.values().numel() if value.layout in _COMPRESSED else None


def versions(value: Any) -> list[int]:
    """How often each tensor inside `value` was written to so far, as autograd counts it."""
    with without_torch_functions():
        return [version_of(tensor) for tensor in tensors_in(value)]
