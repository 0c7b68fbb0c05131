"""Copies of what a program passes around, so that a re-run starts from what the first call was
given and writes to nothing of the user's.

`copy.deepcopy` would copy models, and refuses tensors in the middle of a graph. Here modules,
parameters, optimizers and functions stay the very same objects; so does what cannot be copied,
unless it can only be used once.
"""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from xsp.machine.torch_internals import without_torch_functions

_ATOMS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    range,
    slice,
    type(Ellipsis),
    type(NotImplemented),
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    types.CodeType,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
_SHARED = (nn.Module, nn.Parameter, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
"""What a program means by identity: a copy of it would be another program."""


class UsedOnceError(Exception):
    """A value can be used once only and not be copied, such as a generator; its type's name."""


class Copier:
    """Copies values; one object that is met several times has one copy.

    Args:
        kept: tensors that stay the same objects, such as a model's buffers, which are put back in
            another way.

    """

    def __init__(self, kept: Iterable[torch.Tensor] = ()) -> None:
        self._kept = list(kept)
        self._memo: dict[int, Any] = {id(each): each for each in self._kept}
        self._alive: list[Any] = []
        self.bytes = 0
        """Memory of the tensors and arrays that were copied."""

    def __call__(self, value: Any) -> Any:
        """A copy of `value`, or `value` itself where that cannot be written to or not be copied.

        Raises UsedOnceError for an iterator that cannot be copied.
        """
        if isinstance(value, _ATOMS + _SHARED):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        made = self._made(value)
        self._memo[id(value)] = made
        # An id may be used again once its object is gone.
        self._alive.append(value)
        return made

    def _made(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            made = _tensor(value)
            with without_torch_functions():
                self.bytes += 0 if made is value else made.nbytes
            return made
        if isinstance(value, torch.Generator):
            return _generator(value)
        if isinstance(value, np.ndarray):
            self.bytes += value.nbytes
            return value.copy()
        if type(value) is tuple:
            return self._tuple(value)
        if type(value) in (list, dict, set):
            return self._container(value)
        return self._object(value)

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        made = tuple(map(self, value))
        same = all(one is other for one, other in zip(made, value, strict=True))
        return value if same else made

    def _container(self, value: Any) -> Any:
        made: Any = type(value)()
        # Before what is inside, which can refer to it.
        self._memo[id(value)] = made
        self._alive.append(value)
        if isinstance(value, dict):
            made.update((self(key), self(each)) for key, each in value.items())
        elif isinstance(value, list):
            made.extend(map(self, value))
        else:
            made.update(map(self, value))
        return made

    def _object(self, value: Any) -> Any:
        try:
            if hasattr(type(value), "__deepcopy__"):
                return value.__deepcopy__(self._memo)
            return self._rebuilt(value, _parts(value))
        except UsedOnceError:
            raise
        except Exception as error:  # whatever a class does where it is copied
            if hasattr(type(value), "__next__"):
                raise UsedOnceError(type(value).__name__) from error
            return value

    def _rebuilt(self, value: Any, parts: tuple[Any, ...] | None) -> Any:
        if parts is None:
            return value
        make, given, state, items, pairs, set_state = parts
        made = make(*map(self, given))
        self._memo[id(value)] = made
        if state is not None:
            set_state(made, self(state))
        for each in items:
            made.append(self(each))
        for key, each in pairs:
            made[self(key)] = self(each)
        return made


def same(one: Any, other: Any) -> bool:
    """Whether two values, one of which may be a copy of the other, hold the same throughout."""
    return _Comparison()(one, other)


class _Comparison:
    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._alive: list[Any] = []

    def __call__(self, one: Any, other: Any) -> bool:
        if one is other:
            return True
        if type(one) is not type(other):
            return False
        if isinstance(one, _ATOMS + _SHARED):
            return bool(one == other or (one != one and other != other))  # noqa: PLR0124 - NaN
        pair = (id(one), id(other))
        if pair in self._seen:
            return True
        self._seen.add(pair)
        self._alive += [one, other]
        try:
            return self._inside(one, other)
        except Exception:  # what cannot be compared is not known to differ
            return True

    def _inside(self, one: Any, other: Any) -> bool:
        for kind, alike in _ALIKE.items():
            if isinstance(one, kind):
                return alike(one, other)
        if type(one) in (tuple, list):
            return len(one) == len(other) and all(map(self, one, other))
        if type(one) is dict:
            return list(one) == list(other) and all(map(self, one.values(), other.values()))
        return self._same_parts(one, other)

    def _same_parts(self, one: Any, other: Any) -> bool:
        mine, yours = _parts(one), _parts(other)
        if mine is None or yours is None:
            # Each is the only one of its kind that there is, and they are two.
            return False
        return all(map(self, _listed(mine), _listed(yours)))


_Parts = tuple[Callable[..., Any], Any, Any, Iterable[Any], Iterable[Any], Any]


def _parts(value: Any) -> _Parts | None:
    """What an object is made from, by the protocol of pickle and copy: function, arguments, state,
    list items, dict items, setter of the state; None where it is its own copy.
    """
    reducer = copyreg.dispatch_table.get(type(value))
    reduced = reducer(value) if reducer else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return None
    make, given, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    return make, given, state, items or (), pairs or (), setter or _set_state


def _set_state(made: Any, state: Any) -> None:
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    plain, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if plain:
        vars(made).update(plain)
    for name, value in (slots or {}).items():
        setattr(made, name, value)


def _listed(parts: _Parts) -> list[Any]:
    make, given, state, items, pairs, setter = parts
    return [make, given, state, list(items), list(pairs), setter]


def _tensor(value: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, so that the same kernels run on it; the tensor itself where it
    has no such copy (in the middle of a graph, expanded, without memory of its own).
    """
    with without_torch_functions():
        if value.grad_fn is not None or value.layout is not torch.strided or value.is_nested:
            return value
        if type(value) is not torch.Tensor or value.is_meta or 0 in value.stride():
            return value
        with torch.inference_mode(value.is_inference()), torch.no_grad():
            made = torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device=value.device
            )
            made.copy_(value)
        return made.requires_grad_() if value.requires_grad else made


def _same_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    with without_torch_functions(), torch.no_grad():
        if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
            return False
        equal = (one == other) | ((one != one) & (other != other))  # noqa: PLR0124 - NaN
        return bool(equal.all())


def _same_arrays(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.hasobject:
        return bool(np.array_equal(one, other))
    return one.tobytes() == other.tobytes()


def _generator(value: torch.Generator) -> torch.Generator:
    made = torch.Generator(value.device)
    made.set_state(value.get_state())
    return made


_ALIKE: dict[type, Callable[[Any, Any], bool]] = {
    torch.Tensor: _same_tensors,
    torch.Generator: lambda one, other: torch.equal(one.get_state(), other.get_state()),
    np.ndarray: _same_arrays,
    set: lambda one, other: bool(one == other),
}
"""How values are compared that hold no others."""
