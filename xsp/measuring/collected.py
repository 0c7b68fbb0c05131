"""What a program's own forward hooks collect, such as `features.append(output)`: it is put back in
place, since the program may hold the same list elsewhere.
"""

from __future__ import annotations

import argparse
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from xsp.levels.layer.naming import names_in
from xsp.measuring.copies import same
from xsp.measuring.places import Place, cell_place, place_of, variable_place

MOST_PLACES = 10_000
"""So many containers and variables are put back at most."""

MOST_FUNCTIONS = 100
"""Hooks, and functions that they use, in which these are looked for."""

LARGEST = 10_000
"""Entries of a container up to which what is inside them is put back too."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_NOT_OURS = ("torch", "xsp", "builtins", "numpy")


class Collected:
    """What a model's forward hooks can reach, as it is now: containers, variables of their
    closures and modules, and attributes of the objects whose methods they are.

    Args:
        model: the model.
        also: what was reached before, of which the same places are read again.

    """

    def __init__(self, model: nn.Module, also: Collected | None = None) -> None:
        self._places: dict[Any, Place] = {} if also is None else dict(also._places)
        for place in _places_of(_hooks_of(model)):
            self._places.setdefault(place.key, place)
            if len(self._places) >= MOST_PLACES:
                break
        self._held = {key: place.read() for key, place in self._places.items()}

    def put_back(self, only: set[Any] | None = None) -> None:
        """Everything as it was read, or some of the places."""
        for key in self.changed() if only is None else only & set(self._places):
            self._places[key].write(self._held[key])

    def changed(self) -> set[Any]:
        """Places that hold something else now."""
        return {
            key for key, place in self._places.items() if not _alike(self._held[key], place.read())
        }


class HookState:
    """What hooks collect, put back before every run and after the last.

    Args:
        model: the model.
        start: as runs find it; as it is now by default.

    """

    def __init__(self, model: nn.Module, start: Collected | None = None) -> None:
        self._own = Collected(model, also=start)
        self._start = start or self._own
        self._changing: set[Any] | None = None

    def prepare(self) -> None:
        """Before a run."""
        self._start.put_back(self._changing)

    def note_changes(self) -> None:
        """After the first run: only what it changed is the hooks'; others write elsewhere."""
        self._changing = self._start.changed() | self._own.changed()

    def restore(self) -> None:
        """As the user left it."""
        self._own.put_back(self._changing)


class Globals:
    """Variables of modules that the methods `forward` of a model's own classes name, with what
    containers in them hold: others may use them at the same time, so nothing puts them back.
    """

    def __init__(self, model: nn.Module) -> None:
        kinds = {type(module) for module in model.modules()}
        forwards = [kind.forward for kind in kinds if _is_users(kind)]
        self._places = [place for each in forwards for place in _globals_of(each)]
        self._held = [[one.read() for one in places] for _, places in self._places]

    def changed(self) -> list[str]:
        """Names of the variables that are another value now, or hold another."""
        return sorted(
            {
                name
                for (name, places), held in zip(self._places, self._held, strict=True)
                if not all(_alike(was, one.read()) for was, one in zip(held, places, strict=True))
            }
        )


def _globals_of(function: Any) -> Iterator[tuple[str, list[Place]]]:
    if not isinstance(function, types.FunctionType):
        return
    known = function.__globals__
    for name in names_in(function.__code__):
        if name in known:
            inside = place_of(known[name])
            variable = variable_place(known, name)
            yield name, [variable] if inside is None else [variable, inside]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return same(one, other)
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


# ---- what hooks reach ----


def _hooks_of(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        held = vars(module)
        for hooks in _HOOKS:
            yield from list(held.get(hooks, {}).values())
        if "forward" in held:
            yield held["forward"]


def _places_of(functions: Iterator[Any]) -> Iterator[Place]:
    waiting, known = deque(functions), set[int]()
    while waiting and len(known) < MOST_FUNCTIONS:
        function = waiting.popleft()
        if id(function) in known or not _is_users(function):
            continue
        known.add(id(function))
        for place, value in _variables(function):
            if place is not None:
                yield place
            if callable(value) and not isinstance(value, type | nn.Module):
                waiting.append(value)
            yield from _inside(value, set())


def _is_users(value: Any) -> bool:
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.partition(".")[0] not in _NOT_OURS


def _variables(function: Any) -> Iterator[tuple[Place | None, Any]]:
    """Values that a function uses, with the variable where it may be assigned."""
    if isinstance(function, functools.partial):
        yield from ((None, each) for each in (function.func, *function.args))
        yield from ((None, each) for each in function.keywords.values())
        return
    yield None, getattr(function, "__self__", None)
    yield None, getattr(function, "__wrapped__", None)
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        yield None, function
        return
    yield from ((None, each) for each in function.__defaults__ or ())
    for cell in function.__closure__ or ():
        place = cell_place(cell)
        yield place, place.read()[0] if place.read() else None
    known = function.__globals__
    for name in names_in(function.__code__):
        if name in known:
            yield variable_place(known, name), known[name]


def _inside(value: Any, known: set[int]) -> Iterator[Place]:
    """The containers in a value, and the attributes of an object."""
    if id(value) in known:
        return
    known.add(id(value))
    place = place_of(value)
    if place is not None:
        yield place
        held = place.read()
        if not isinstance(held, torch.Tensor) and len(held) <= LARGEST:
            for each in held:
                yield from _inside(each, known)
    elif len(known) == 1 and _has_attributes(value):
        yield from _inside(vars(value), known)


def _has_attributes(value: Any) -> bool:
    """An object of the program's own; those of Python's library, such as locks and queues, may be
    another thread's at the same time.
    """
    if isinstance(value, type | nn.Module | types.ModuleType | types.FunctionType):
        return False
    package = type(value).__module__.partition(".")[0]
    is_ours = _is_users(value) and package not in sys.stdlib_module_names
    known = is_ours or type(value) in (types.SimpleNamespace, argparse.Namespace)
    return known and type(getattr(value, "__dict__", None)) is dict
