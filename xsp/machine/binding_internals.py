"""torch's bindings: the functions in C through which Python reaches its operators. Nothing public
lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

_HOLDERS = (
    torch._C._VariableFunctionsClass,  # type: ignore[attr-defined] # no stub
    torch._C.TensorBase,
    *(
        getattr(torch._C, name)
        for name in ("_nn", "_fft", "_linalg", "_special", "_sparse", "_nested")
        if hasattr(torch._C, name)
    ),
)
"""Functions of `torch`, methods of tensors, and what the modules of functions call."""

OVERRIDE_QUESTIONS: tuple[Callable[..., bool], ...] = (
    torch._C._has_torch_function,
    torch._C._has_torch_function_unary,
    torch._C._has_torch_function_variadic,
)
"""Asked first by every function in Python that a torch function mode sees: where such a function
begins can be told by them.
"""

ITEM_ACCESS: tuple[Any, Any] = (
    vars(torch._C.TensorBase)["__getitem__"],
    vars(torch._C.TensorBase)["__setitem__"],
)
"""Slot wrappers: `x[i]` goes through the type, not through a table of methods."""


def bindings() -> Iterator[Callable[..., Any]]:
    """Every function in C that a torch function mode can see, some of them twice."""
    for holder in _HOLDERS:
        for name in dir(holder):
            found = getattr(holder, name)
            if callable(found) and not isinstance(found, type):
                yield found


def operator_binding(function: Any) -> Any:
    """What a call of an operator in `torch.ops` calls, None of anything else."""
    return getattr(function, "_op", None)


def tensor_types() -> tuple[type, ...]:
    """The base of all tensors, and every class below it that there is now."""
    found = [torch._C.TensorBase]
    for each in found:
        found += each.__subclasses__()
    return tuple(dict.fromkeys(found))
