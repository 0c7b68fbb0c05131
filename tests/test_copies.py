"""Copies of what a program passes around: equal, apart from it, and never of what is meant by
identity.
"""

from __future__ import annotations

import collections
import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xsp.measuring.copies import Copier, UsedOnceError, same


@dataclass
class Cache:
    """What a model keeps between calls."""

    keys: list[torch.Tensor]
    length: int = 0


class Slotted:
    """Without a dictionary."""

    __slots__ = ("more", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Packed:
    """Says itself what is copied."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": self.values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = state["packed"]


class Named(list[Any]):
    """A list with an attribute."""

    name = ""


def named() -> Named:
    made = Named([[1], [2]])
    made.name = "x"
    return made


def transposed() -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3).t()


MADE: dict[str, Any] = {
    "list": lambda: [1, [2, 3]],
    "dict": lambda: {"a": [1], "b": {"c": 2}},
    "set": lambda: {1, 2},
    "tuple with a list": lambda: (1, [2]),
    "tensor": transposed,
    "array": lambda: np.arange(6).reshape(2, 3),
    "array of objects": lambda: np.array([1, "a"], dtype=object),
    "generator of numbers": lambda: torch.Generator().manual_seed(3),
    "dataclass": lambda: Cache([torch.ones(2)], 2),
    "slots": lambda: Slotted(torch.ones(2)),
    "own state": lambda: Packed([1, 2]),
    "list of a class": named,
    "ordered dict": lambda: collections.OrderedDict(b=[1], a=[2]),
    "default dict": lambda: collections.defaultdict(list, {"a": [1]}),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "iterator of a list": lambda: iter([1, 2]),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_copy_is_another_object_that_holds_the_same(kind: str) -> None:
    """What can be written to is copied, and the copy is found to be the same."""
    value = MADE[kind]()
    made = Copier()(value)
    assert made is not value
    assert type(made) is type(value)
    assert same(value, made)
    assert same(made, value)


CHANGED: dict[str, Any] = {
    "list": lambda v: v[1].append(4),
    "dict": lambda v: v["b"].update(c=3),
    "set": lambda v: v.add(3),
    "tuple with a list": lambda v: v[1].append(3),
    "tensor": lambda v: v[0, 0].add_(1),
    "array": lambda v: v.__setitem__((0, 0), 7),
    "array of objects": lambda v: v.__setitem__(0, 7),
    "generator of numbers": lambda v: torch.rand(1, generator=v),
    "dataclass": lambda v: v.keys[0].add_(1),
    "slots": lambda v: v.tensor.add_(1),
    "own state": lambda v: v.values.append(3),
    "list of a class": lambda v: v[0].append(3),
    "ordered dict": lambda v: v["a"].append(3),
    "default dict": lambda v: v["a"].append(3),
    "deque": lambda v: v.append(3),
    "iterator of a list": next,
}


@pytest.mark.parametrize("kind", CHANGED)
def test_writing_to_a_copy_leaves_the_original(kind: str) -> None:
    """What is done to the copy, however deep, is not done to what it was made of, and is seen when
    the two are compared.
    """
    value, untouched = MADE[kind](), MADE[kind]()
    made = Copier()(value)
    CHANGED[kind](made)
    assert not same(value, made)
    assert same(value, untouched)


def test_attributes_of_a_list_of_a_class_are_copied() -> None:
    """A list with attributes keeps them, and they count when it is compared."""
    value = named()
    made = Copier()(value)
    assert (made, made.name) == ([[1], [2]], "x")
    made.name = "y"
    assert not same(value, made)


def test_an_empty_slot_stays_empty() -> None:
    """An attribute that was never set is not set in the copy."""
    assert not hasattr(Copier()(Slotted(torch.ones(1))), "more")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "a",
        3j,
        range(3),
        slice(1),
        ...,
        int,
        len,
        nn.Linear(1, 1),
        nn.Parameter(torch.ones(1)),
        torch.float32,
        torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0),
        (1, "a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_meant_by_identity_stays_itself(value: Any) -> None:
    """Modules, parameters, optimizers, functions and what nobody can write to are not copied."""
    copier = Copier()
    assert copier(value) is value
    assert copier([value])[0] is value


def test_what_refuses_to_be_copied_stays_itself() -> None:
    """A lock has no copy: the program's own is passed."""
    lock = threading.Lock()
    assert Copier()(lock) is lock


def test_one_object_in_two_places_is_one_in_the_copy() -> None:
    """What two arguments share, their copies share, and a list may hold itself."""
    shared = torch.ones(2)
    copier = Copier()
    one, other = copier([shared]), copier({"x": shared})
    assert one[0] is other["x"]
    assert one[0] is not shared
    circle: list[Any] = [1]
    circle.append(circle)
    made = copier(circle)
    assert made[1] is made
    assert same(circle, made)


def test_tensors_that_are_kept_stay_themselves() -> None:
    """A model's buffers, which are put back in another way, are not copied."""
    buffer = torch.ones(2)
    made = Copier([buffer])([buffer, torch.ones(2)])
    assert made[0] is buffer


def numbers() -> Iterator[int]:
    yield 1


class Asked:
    """Copies itself, and says so; what it holds is copied as `copy.deepcopy` does."""

    def __init__(self, held: list[int], copies: int = 0) -> None:
        self.held, self.copies = held, copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Asked:
        return Asked(copy.deepcopy(self.held, memo), self.copies + 1)


def test_who_copies_itself_is_asked() -> None:
    """A class's own way of being copied is taken, and what it shares with others stays shared."""
    held = [1, 2]
    one, other = Copier()([held, Asked(held)])
    assert one == [1, 2]
    assert one is not held
    assert other.copies == 1
    assert other.held is one


def test_what_is_its_own_copy_stays_itself() -> None:
    """A function of numpy is one wherever it is: pickle has its name alone."""
    assert Copier()([np.add])[0] is np.add


def test_what_can_be_used_once_is_refused_inside_objects_too() -> None:
    """A copy of the object would share the iterator, and each would take from it what the other
    needs.
    """
    with pytest.raises(UsedOnceError, match="generator"):
        Copier()(Slotted(number for number in range(3)))  # type: ignore[arg-type] # used once


def test_what_can_be_used_once_is_refused_with_its_kind() -> None:
    """A generator has no copy, and using it up would change the program."""
    with pytest.raises(UsedOnceError, match="generator"):
        Copier()([1, {"a": numbers()}])


@pytest.mark.parametrize("gradient", [False, True])
def test_tensors_keep_their_layout(gradient: bool) -> None:
    """Strides, type and whether a gradient is asked for are those of the original."""
    value = torch.empty_strided((3, 4), (2, 6), dtype=torch.float64).fill_(1)
    value.requires_grad_(gradient)
    made = Copier()(value)
    assert made.stride() == value.stride()
    assert (made.shape, made.dtype) == (value.shape, value.dtype)
    assert made.requires_grad is gradient
    assert made.data_ptr() != value.data_ptr()
    assert made.is_leaf


def test_tensors_without_a_faithful_copy_stay_themselves() -> None:
    """In the middle of a graph, expanded, sparse, without memory or of a class: what a copy would
    change is passed as it is.
    """
    leaf = torch.ones(2, requires_grad=True)
    values = [
        leaf * 2,
        torch.ones(1).expand(3),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
        nn.Buffer(torch.ones(1)).as_subclass(Own),
    ]
    copier = Copier()
    assert all(copier(value) is value for value in values)


class Own(torch.Tensor):
    """A tensor of a program's own class."""


def test_tensors_of_inference_mode_are_copied_as_such() -> None:
    """A copy can be used where the original can."""
    with torch.inference_mode():
        value = torch.ones(2)
    assert Copier()(value).is_inference()
    assert not Copier()(torch.ones(2)).is_inference()


def _gone_on(values: Iterator[Any]) -> Iterator[Any]:
    next(values)
    return values


SAME = [
    (float("nan"), float("nan")),
    (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")])),
    (np.array([float("nan")]), np.array([float("nan")])),
    ([], []),
    ({"a": (1,)}, {"a": (1,)}),
]
DIFFERENT = [
    (1, True),
    (1.0, 1),
    ([1], (1,)),
    ([1], [1, 2]),
    ([1, 2], [1]),
    ({"a": 1}, {"b": 1}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": 1}, {"a": 2}),
    ({1}, {2}),
    (torch.ones(2), torch.ones(3)),
    (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    (torch.ones(2), torch.tensor([1.0, 2.0])),
    (torch.ones(2), torch.tensor([1.0, float("nan")])),
    (torch.ones(2), torch.ones(2, device="meta")),
    (np.ones(2), np.ones((2, 1))),
    (np.ones(2), np.ones(2, np.float32)),
    (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
    (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    (Cache([], 1), Cache([], 2)),
    (iter([1, 2]), _gone_on(iter([1, 2]))),
    (zip([1, 2], [3, 4], strict=True), _gone_on(zip([1, 2], [3, 4], strict=True))),
    (map(abs, [1, 2]), _gone_on(map(abs, [1, 2]))),
    (nn.Linear(1, 1), nn.Linear(1, 1)),
    (np.add, np.multiply),
    (np.add, Cache([])),
]


def _kind(value: object) -> str:
    # Workers must agree on names, and some values print their address.
    return type(value).__name__


@pytest.mark.parametrize(("one", "other"), SAME, ids=_kind)
def test_equal_values_are_the_same(one: Any, other: Any) -> None:
    """NaN is the same as NaN: nothing has changed there."""
    assert same(one, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=_kind)
def test_values_that_differ_are_not(one: Any, other: Any) -> None:
    """Kind, size, order of keys and every value count."""
    assert not same(one, other)


class Incomparable:
    """Whose parts cannot be asked for."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise RuntimeError("no")


def test_what_cannot_be_compared_is_not_known_to_differ() -> None:
    """A program is not blamed for what nobody can see."""
    assert same(Incomparable(), Incomparable())
