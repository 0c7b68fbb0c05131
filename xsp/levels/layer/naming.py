"""What modules are called: their place in a model, or the variable that holds them."""

from __future__ import annotations

import functools
import inspect
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from xsp.machine.dynamo_internals import is_compiled
from xsp.machine.torch_internals import COMPILED_CALL

DEEPEST = 2
"""Collections in collections in which modules are looked for."""

LARGEST_INSIDE = 1_000
"""Entries of a collection in another up to which modules are looked for in it."""

MOST_FUNCTIONS = 100
"""Functions among those that a callable uses in which modules are looked for."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a module counts as one layer: it has no children, or Python hooks cannot look inside
    it.
    """
    opaque = isinstance(module, torch.jit.ScriptModule) or is_compiled(module)
    return (
        opaque
        or getattr(module, COMPILED_CALL, None) is not None
        or next(module.children(), None) is None
    )


def qualified_names(
    roots: list[nn.Module], variables: Mapping[nn.Module, str] | None = None
) -> dict[nn.Module, str]:
    """Names of all modules below `roots`.

    With one root that has children, names are as `named_modules` gives them. Several such roots,
    and roots without children, are told apart by a prefix: the variable that holds them
    (`variables_of`), else their class.
    """
    names: dict[nn.Module, str] = {}
    taken: Counter[str] = Counter()
    # A module called on its own (recomputed in backward, say) is still known by its place in a
    # larger one.
    inner = {module for root in roots for module in root.modules() if module is not root}
    roots = [root for root in dict.fromkeys(roots) if root not in inner]
    several = sum(not is_leaf(root) for root in roots) > 1
    for root in roots:
        kind = (variables or {}).get(root, type(root).__name__)
        prefix = kind if several or is_leaf(root) else ""
        taken[prefix] += 1
        if taken[prefix] > 1:
            prefix = f"{prefix or kind}_{taken[prefix] - 1}"
        for name, module in root.named_modules(prefix=prefix):
            names.setdefault(module, name)
    return names


def variables_of(function: Callable[..., Any]) -> dict[nn.Module, str]:
    """Modules that a callable reaches, named by the variable of its closure, globals, defaults or
    bound object that holds them, alone or in a list, tuple, dictionary or attribute; or of those of
    a function that it uses.

    `blocks.0` for the first of a list `blocks`; modules inside such modules likewise.
    """
    names: dict[nn.Module, str] = {}
    for variable, value in _reached(function):
        for name, module in _modules_in(variable, value):
            names.setdefault(module, name)
    for module, name in list(names.items()):
        for below, child in module.named_modules(prefix=name):
            names.setdefault(child, below)
    return names


def _reached(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Names and values that the callable can use, and then those of the functions among these,
    nearest first.
    """
    waiting: deque[Any] = deque([function])
    known: set[Any] = set()
    while waiting and len(known) < MOST_FUNCTIONS:
        now = waiting.popleft()
        for name, value in _variables(now):
            yield name, value
            if _is_users(value) and value not in known:
                known.add(value)
                waiting.append(value)


def _is_users(value: Any) -> bool:
    own = isinstance(value, types.FunctionType | types.MethodType)
    return own and not (value.__module__ or "").startswith("torch")


def _variables(function: Any) -> Iterator[tuple[str, Any]]:
    """Names and values that the callable can use; what it holds itself comes first."""
    if isinstance(function, functools.partial):
        yield from _variables(function.func)
        yield from ((f"argument_{place}", each) for place, each in enumerate(function.args))
        yield from function.keywords.items()
        return
    bound = getattr(function, "__self__", None)
    if bound is not None:
        yield from _attributes(bound)
    inner = getattr(function, "__wrapped__", None)
    if inner is not None:
        yield from _variables(inner)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        yield from _attributes(function)
        yield "__call__", inspect.getattr_static(type(function), "__call__", None)
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that is not bound yet
            continue
    yield from (function.__kwdefaults__ or {}).items()
    known = function.__globals__
    yield from ((name, known[name]) for name in names_in(code) if name in known)


def names_in(code: types.CodeType) -> Iterator[str]:
    """Also in functions that are defined inside."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from names_in(each)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()


def _modules_in(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The module, or those in a collection, in collections in it, or in the attributes of an
    object.
    """
    if isinstance(value, nn.Module):
        yield name, value
        return
    if isinstance(value, type) or callable(value) or _is_torch(value):
        return
    if (parts := _entries(name, value)) is None:
        parts = [(f"{name}.{key}", each) for key, each in _attributes(value)]
    for part, each in parts:
        if isinstance(each, nn.Module):
            yield part, each
        elif depth < DEEPEST and _is_searched(each):
            yield from _modules_in(part, each, depth + 1)


def _is_searched(value: Any) -> bool:
    return type(value) in (list, tuple, dict) and len(value) <= LARGEST_INSIDE


def _entries(name: str, value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", each) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"{name}.{place}", each) for place, each in enumerate(value)]
    return None


def _is_torch(value: Any) -> bool:
    """It holds no module of the program, and some of its variables warn when looked at."""
    return isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] == "torch"
