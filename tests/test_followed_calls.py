"""Functional calls of timed runs, told by the calls of torch's bindings: the same as a torch
function mode sees, unseen by the program, and never guessed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quick import LAYERS, measured
from torch import nn
from torch.overrides import (
    TorchFunctionMode,
    has_torch_function_unary,
    has_torch_function_variadic,
)
from torch.utils.checkpoint import checkpoint

import xsp
from xsp.levels.layer import hotpath

pytestmark = pytest.mark.skipif(hotpath.extension() is None, reason="the extension was not built")

Function = Callable[[torch.Tensor], Any]


def operators(x: torch.Tensor) -> torch.Tensor:
    """What Python calls by type slots, methods and functions, forwards and reflected."""
    y = 2 - x * x + 1 / (x.abs() + 1)
    y[0] = y[1]
    y += torch.add(x, 1, alpha=2)
    result: torch.Tensor = torch.cat([y[1:], -y[:1]]) @ x.T
    return result


def in_python(x: torch.Tensor) -> Any:
    """Functions that are written in Python, some of which call several in C."""
    first, second = x.split(2)
    y = F.layer_norm(F.softmax(torch.vstack([first, second]), dim=-1), (4,))
    return (
        torch.einsum("ij,kj->ik", F.gelu(y), F.relu(x, inplace=False)).norm()
        + x.unflatten(0, (2, 2)).sum()
    )


def attention(x: torch.Tensor) -> torch.Tensor:
    """A function in Python that gives what its last call gave as one item of a tuple."""
    weight, bias = torch.eye(4).repeat(3, 1).requires_grad_(), torch.zeros(12)
    out, _ = F.multi_head_attention_forward(
        x, x, x, 4, 2, weight, bias, None, None, False, 0.0, torch.eye(4), None, need_weights=False
    )
    return out.sum()


def operators_of_the_library(x: torch.Tensor) -> Any:
    """`torch.ops`, by packet and by overload."""
    return torch.ops.aten.mul(x, torch.ops.aten.add.Tensor(x, x))


def by_other_ways(x: torch.Tensor) -> Any:
    """Functions in C that are called through what they have, or by functions in C."""
    several: Any = has_torch_function_variadic
    one: Any = has_torch_function_unary
    doubling = x.as_subclass(Doubling)
    assert several.__call__(x, doubling)
    assert one.__call__(doubling)
    first, second = map(torch.neg, (x, x))
    return partial(torch.add, alpha=2)(first, second) + F.softmax(*(x,), dim=-1)


def with_an_error(x: torch.Tensor) -> Any:
    """A call that fails and is caught."""
    try:
        torch.mm(x, x[:, :1].flatten())
    except RuntimeError:
        return x.sin()
    raise AssertionError("a product of matrices took a vector")


def recomputed(x: torch.Tensor) -> Any:
    """Recomputed in the backward pass."""
    kept = checkpoint(lambda value: F.silu(value) * value.tanh(), x, use_reentrant=False)
    return kept.sum()


def of_second_order(x: torch.Tensor) -> torch.Tensor:
    """A gradient of a gradient."""
    (slope,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
    return slope.square().sum()


class Doubling(torch.Tensor):
    """A subclass with an override of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        base: Any = super()
        result = base.__torch_function__(func, types, args, kwargs or {})
        return result * 2 if func is torch.Tensor.add else result


def overridden(x: torch.Tensor) -> torch.Tensor:
    """Calls that an override sees and answers with calls of its own."""
    doubled: torch.Tensor = x.as_subclass(Doubling) + 1
    return F.relu(doubled).as_subclass(torch.Tensor)


class Negative(TorchFunctionMode):
    """A mode of the program's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return -result if func is torch.sin else result


def in_a_mode(x: torch.Tensor) -> torch.Tensor:
    """Calls that the program's mode sees too."""
    with Negative():
        return torch.sin(x) + F.softmax(x, dim=-1)


FORWARD: tuple[Function, ...] = (
    operators,
    in_python,
    attention,
    operators_of_the_library,
    by_other_ways,
    with_an_error,
    overridden,
)
BACKWARD: tuple[Function, ...] = (in_python, attention, recomputed, of_second_order)


def trained(function: Function) -> Function:
    """With a backward pass to a copy of its input."""

    def step(x: torch.Tensor) -> None:
        copy = x.clone().requires_grad_()
        function(copy).sum().backward()

    return step


def rows(prof: xsp.Profile) -> list[tuple[str, str, int]]:
    """Each layer's name, phase and calls, in their order."""
    tree = prof.tree().query("level == 'LAYER'")
    return list(tree[["name", "phase", "calls"]].itertuples(index=False, name=None))


def how(prof: xsp.Profile) -> tuple[str, str]:
    """What served the LAYER level, and why it was not something better."""
    layer = prof.levels.set_index("level").loc["LAYER"]
    return str(layer["tracer"]), str(layer["reason"])


PROGRAMS = [*FORWARD, *map(trained, BACKWARD)]
NAMES = [each.__name__ for each in FORWARD] + [f"{each.__name__}, trained" for each in BACKWARD]


@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_the_rows_are_those_that_a_mode_sees(
    program: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, phases, order and calls of all layers, with nothing unknown, missing or lost."""
    followed = measured(program, torch.rand(4, 4))
    assert how(followed) == ("module calls, torch's bindings, autograd hooks (C)", "")
    assert not followed.lost
    assert not followed.runs["unmatched"].any()
    assert not [each for each in followed.warnings if "unknown" in each or "missing" in each]
    monkeypatch.setattr(hotpath, "extension", lambda: None)
    assert rows(followed) == rows(measured(program, torch.rand(4, 4)))


def test_a_mode_of_the_programs_own_is_seen_through() -> None:
    """What it calls itself lies inside a call of torch's: xsp's mode has to be there to see it."""
    prof = measured(in_a_mode, torch.rand(4, 4))
    assert how(prof)[1]
    assert [name for name, _, _ in rows(prof)][:3] == [
        "in_a_mode::sin",
        "in_a_mode::neg",
        "in_a_mode::softmax",
    ]


class Asking(nn.Module):
    """Notes what a program can see of a profiler that looks at functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.known = {torch.add: 1, torch.nn.functional.linear: 2, has_torch_function_unary: 3}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.known.get(each) for each in (torch.add, F.linear, has_torch_function_unary)]
        depth = torch._C._len_torch_function_stack()
        self.seen.append((depth, has_torch_function_unary(x), found, hash(torch.add)))
        return torch.add(x, 1) * 2


def test_the_program_sees_nothing_of_it() -> None:
    """In timed runs no torch function mode is on, and functions are found in the program's own
    dictionaries.
    """
    seen: list[Any] = []

    def program(x: torch.Tensor) -> torch.Tensor:
        asking = Asking()
        result: torch.Tensor = asking(x)
        seen.extend(asking.seen)
        return result

    outside = hash(torch.add)
    prof = measured(program, torch.rand(4, 4))
    assert how(prof)[1] == ""
    # All but those of the structure run and of the one that records memory.
    without = [each for each in seen if each[0] == 0]
    assert len(without) == len(seen) - 2
    assert without == [(0, False, [1, 2, 3], outside)] * len(without)
    assert {tuple(each[2]) for each in seen} == {(1, 2, 3)}


def test_a_run_that_calls_something_else_is_made_again_with_a_mode() -> None:
    """A call that could not be told is in no run of the profile, and what changed is said."""
    made = {"runs": 0}

    def program(x: torch.Tensor) -> torch.Tensor:
        made["runs"] += 1
        return torch.sin(x) if made["runs"] < 12 else torch.cos(torch.sin(x))

    prof = xsp.measure(program, torch.rand(4), **{**LAYERS, "iterations": 6})
    assert how(prof) == (
        "module calls, torch function mode, autograd hooks (C)",
        "cos was called at call 1 of torch's functions in C",
    )
    assert not prof.lost
    assert prof.runs["round"].max() == 5
    cosines = prof.runs["unmatched"]
    assert set(cosines) == {0, 1}


def test_calls_of_other_threads_are_not_taken_for_the_programs() -> None:
    """A thread that computes all the while, as one that loads data does, changes nothing."""
    ended = threading.Event()

    def load() -> None:
        x = torch.rand(8)
        while not ended.is_set():
            F.softmax(x + 1, dim=-1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        prof = measured(in_python, torch.rand(4, 4))
    finally:
        ended.set()
        thread.join()
    assert how(prof)[1] == ""
    assert not prof.runs["unmatched"].any()


def test_a_type_that_is_made_meanwhile_works_afterwards() -> None:
    """A subclass inherits how items are got, and keeps that when nobody watches any more."""
    kinds: list[type[torch.Tensor]] = []

    def program(x: torch.Tensor) -> torch.Tensor:
        kinds.append(type("Made", (torch.Tensor,), {}))
        return x.as_subclass(kinds[-1])[1:]

    measured(program, torch.rand(4))
    for kind in kinds:
        made = torch.arange(4.0).as_subclass(kind)
        made[0] = 7
        assert made[:2].tolist() == [7, 1]


def test_an_error_of_the_program_closes_everything() -> None:
    """Functions are called directly again when the program raises in a timed run."""
    made = {"runs": 0}

    def program(x: torch.Tensor) -> torch.Tensor:
        made["runs"] += 1
        if made["runs"] > 5:
            raise ValueError("enough")
        return torch.sin(x)

    with pytest.raises(ValueError, match="enough"):
        xsp.measure(program, torch.rand(4), **LAYERS)
    assert not hotpath.extension().bindings_are_open()
