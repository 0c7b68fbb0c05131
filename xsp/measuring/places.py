"""Places in which a program keeps values: how what they hold is read, and written back."""

from __future__ import annotations

import functools
import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xsp.machine.torch_internals import without_torch_functions

SMALL_BYTES = 1 << 20
"""A tensor of up to this size, such as a running mean, is written back; features are larger."""

_LISTS = (list, deque)
_DICTS = (dict, OrderedDict, defaultdict, Counter)


@dataclass(frozen=True)
class Place:
    """Something that holds others: a list of what it holds (a copy, for a tensor), and how to write
    that back. Two of one key are the same place.
    """

    key: Any
    read: Callable[[], Any]
    write: Callable[[Any], object]


def cell_place(cell: types.CellType) -> Place:
    """A variable of a closure."""

    def read() -> list[Any]:
        try:
            return [cell.cell_contents]
        except ValueError:  # a variable that is not bound yet
            return []

    def write(held: list[Any]) -> None:
        if held:
            cell.cell_contents = held[0]
        elif read():
            del cell.cell_contents

    return Place(id(cell), read, write)


def variable_place(known: dict[str, Any], name: str) -> Place:
    """A variable of a module."""

    def read() -> list[Any]:
        return [known[name]] if name in known else []

    def write(held: list[Any]) -> None:
        for each in held:
            known[name] = each

    return Place((id(known), name), read, write)


def place_of(value: Any) -> Place | None:
    """A container or a small tensor; None for anything else."""
    if type(value) in _LISTS:
        return Place(id(value), lambda: list(value), functools.partial(_refill, value))
    if type(value) is set:
        return Place(id(value), lambda: list(value), functools.partial(_refill_set, value))
    if type(value) in _DICTS:
        return Place(
            id(value),
            lambda: [*value.keys(), *value.values()],
            functools.partial(_refill_dict, value),
        )
    if type(value) is torch.Tensor and _is_small(value):
        return tensor_place(value)
    return None


def tensor_place(value: torch.Tensor) -> Place:
    """A tensor's own memory."""
    return Place(id(value), lambda: _copy(value), functools.partial(_write, value))


def generator_place(value: Any) -> Place | None:
    """The state of a random generator; None for anything else."""
    if isinstance(value, torch.Generator):
        return Place(id(value), value.get_state, value.set_state)
    if isinstance(value, random.Random):
        return Place(id(value), value.getstate, value.setstate)
    if isinstance(value, np.random.RandomState):
        return Place(id(value), value.get_state, value.set_state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return Place(id(value), lambda: bits.state, functools.partial(setattr, bits, "state"))
    return None


def _refill(value: Any, held: list[Any]) -> None:
    value.clear()
    value.extend(held)


def _refill_set(value: set[Any], held: list[Any]) -> None:
    value.clear()
    value.update(held)


def _refill_dict(value: dict[Any, Any], held: list[Any]) -> None:
    value.clear()
    half = len(held) // 2
    for key, each in zip(held[:half], held[half:], strict=True):
        value[key] = each


def _is_small(value: torch.Tensor) -> bool:
    with without_torch_functions():
        is_plain = value.layout is torch.strided and not value.is_nested and not value.is_meta
        return is_plain and value.grad_fn is None and value.nbytes <= SMALL_BYTES


def _copy(value: torch.Tensor) -> torch.Tensor:
    with without_torch_functions():
        return value.detach().clone()


def _write(value: torch.Tensor, held: torch.Tensor) -> None:
    with without_torch_functions(), torch.inference_mode(value.is_inference()), torch.no_grad():
        value.copy_(held)
