"""Every re-run is the call that the user made; what is the user's is not written to."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from quick import LAYERS
from torch import nn

import xsp


@dataclass
class Cache:
    """Grows with every call, as the caches of transformers do."""

    keys: list[torch.Tensor] = field(default_factory=list)
    calls: int = 0

    def update(self, key: torch.Tensor) -> torch.Tensor:
        self.keys.append(key)
        self.calls += 1
        return torch.cat(self.keys, dim=1)


class Attention(nn.Module):
    """One head over everything that was cached."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.mix = nn.Linear(4, 4), nn.Linear(4, 4)
        self.lengths: list[int] = []

    def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        keys = cache.update(self.key(x))
        self.lengths.append(keys.shape[1])
        weights = torch.softmax(x @ keys.transpose(1, 2), dim=-1)
        output: torch.Tensor = self.mix(weights @ keys)
        return output


def decoded(model: nn.Module, *, profile: bool) -> tuple[list[torch.Tensor], Cache]:
    """A prefill, profiled or not, and three further steps on the same cache."""
    cache, x = Cache(), torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    outputs = []
    if profile:
        with xsp.profile(model, **LAYERS):
            outputs.append(model(x, cache))
    else:
        outputs.append(model(x, cache))
    for _ in range(3):
        outputs.append(model(outputs[-1][:, -1:], cache))
    return outputs, cache


def test_a_cache_that_grows_is_as_the_call_found_it() -> None:
    """Decoding after the block gives what it gives without xsp, and the cache holds as much."""
    torch.manual_seed(0)
    model = Attention().eval()
    plain, profiled = copy.deepcopy(model), copy.deepcopy(model)
    expected, one = decoded(plain, profile=False)
    outputs, other = decoded(profiled, profile=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs, strict=True))
    assert (one.calls, len(one.keys)) == (other.calls, len(other.keys)) == (4, 4)
    assert profiled.lengths == plain.lengths


def test_re_runs_see_the_lengths_of_the_call() -> None:
    """What is measured is attention over the prefill, not over all that re-runs have added."""
    seen: set[int] = set()

    class Watching(Attention):
        def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            output = super().forward(x, cache)
            seen.add(sum(key.shape[1] for key in cache.keys))
            return output

    cache = Cache()
    xsp.measure(Watching(), torch.randn(1, 8, 4), cache, **LAYERS)
    assert seen == {8}
    assert cache.calls == 0, "the user's own cache was not touched"


def count(given: Any) -> float:
    given["n"] += 1
    result: float = given["n"]
    return result


def grow(given: Any) -> float:
    given.append(1.0)
    return len(given)


def add(given: Any) -> float:
    given += 1
    return float(given.sum())


CHANGED: dict[str, tuple[Any, Any, Any]] = {
    "dict": (lambda: {"n": 0}, count, dict),
    "list": (lambda: [1.0], grow, list),
    "static": (lambda: torch.zeros(4), add, torch.Tensor.tolist),
    "array": (lambda: np.zeros(3), add, np.ndarray.tolist),
    "generator": (
        lambda: torch.Generator().manual_seed(3),
        lambda given: float(torch.rand((), generator=given)),
        lambda given: given.get_state().tolist(),
    ),
    "random": (lambda: random.Random(3), random.Random.random, random.Random.getstate),
}


@pytest.mark.parametrize(("make", "use", "look"), CHANGED.values(), ids=CHANGED)
def test_arguments_of_any_kind_are_given_afresh(make: Any, use: Any, look: Any) -> None:
    """Dictionaries, lists, tensors written in place, arrays and random generators: every re-run
    finds what the call finds, and the user's own is left alone.
    """
    seen: set[float] = set()

    class Model(nn.Module):
        def forward(self, x: torch.Tensor, given: Any) -> torch.Tensor:
            seen.add(use(given))
            return x * 2

    given = make()
    prof = xsp.measure(Model(), torch.ones(2), given, **LAYERS)
    assert seen == {use(make())}
    assert look(given) == look(make())
    assert not [each for each in prof.warnings if "modified" in each]


ITERATORS: dict[str, Callable[[list[torch.Tensor]], Iterator[Any]]] = {
    "list": iter,
    "enumerate": lambda batches: map(itemgetter(1), enumerate(batches)),
    "zip": lambda batches: map(itemgetter(0), zip(batches, range(3), strict=True)),
    "filter": lambda batches: filter(torch.is_tensor, batches),
}


@pytest.mark.parametrize("iterated", ITERATORS.values(), ids=ITERATORS)
def test_an_iterator_is_where_the_call_left_it(
    iterated: Callable[[list[torch.Tensor]], Iterator[torch.Tensor]],
) -> None:
    """Each re-run gets the batch that the call got; afterwards the user's iterator goes on."""
    batches = iterated([torch.ones(2), torch.ones(2) * 2, torch.ones(2) * 3])
    seen: set[float] = set()

    class Next(nn.Module):
        def forward(self, stream: Iterator[torch.Tensor]) -> torch.Tensor:
            batch = next(stream)
            seen.add(float(batch[0]))
            return batch * 2

    model = Next()
    with xsp.profile(model, **LAYERS):
        model(batches)
    assert seen == {1.0}
    assert [float(batch[0]) for batch in batches] == [2.0, 3.0]


def test_a_generator_is_refused_after_the_block() -> None:
    """What can be used once only cannot be given again: the error names it and the way out, and the
    user's own result is there.
    """

    class Sum(nn.Module):
        def forward(self, stream: Iterator[torch.Tensor]) -> torch.Tensor:
            return torch.stack(list(stream)).sum()

    model, outputs = Sum(), []
    with (
        pytest.raises(xsp.TargetError, match=r"argument 0 has a generator.*pass a list"),
        xsp.profile(model, **LAYERS),
    ):
        outputs.append(model(torch.ones(2) for _ in range(3)))
    assert float(outputs[0]) == 6.0
    with pytest.raises(xsp.TargetError, match="generator"):
        xsp.measure(model, (torch.ones(2) for _ in range(3)), **LAYERS)


class Counting(nn.Module):
    """Keeps its place in Python, as position counters and ring buffers do."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0
        self.history: list[int] = []
        self.table = torch.arange(6.0)
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x) * self.table[self.position]
        self.position += 1
        self.history.append(self.position)
        self.table[0] += 1
        self.last = x.detach()
        return x


def test_python_state_of_modules_is_put_back() -> None:
    """Counters, lists, plain tensors and new attributes are what they are without xsp, and no
    re-run sees another position.
    """
    torch.manual_seed(0)
    model = Counting()
    plain = copy.deepcopy(model)
    history, table = model.history, model.table
    x = torch.ones(1, 2)
    with xsp.profile(model, **LAYERS) as prof:
        first = model(x)
    second = model(x)
    assert torch.equal(first, plain(x))
    assert torch.equal(second, plain(x))
    assert (model.position, model.history) == (plain.position, plain.history)
    assert torch.equal(model.table, plain.table)
    assert torch.equal(model.last, plain.last)
    assert model.history is history
    assert model.table is table
    assert prof.latency_ms > 0


class Secret(nn.Module):
    """Goes another way the second time, for a reason that is out of sight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        OUTSIDE["calls"] += 1
        output: torch.Tensor = self.first(x) if OUTSIDE["calls"] == 1 else self.other(x)
        return output


OUTSIDE = {"calls": 0}


def test_a_re_run_that_goes_another_way_is_refused() -> None:
    """The first layer that differs is named; an explicit option goes on and says so."""
    model = Secret()
    OUTSIDE["calls"] = 0
    with (
        pytest.raises(xsp.TargetError, match=r"layer 'other' .*instead of .*'first'"),
        xsp.profile(model, **LAYERS),
    ):
        model(torch.ones(1, 2))
    OUTSIDE["calls"] = 0
    with xsp.profile(model, **LAYERS, accept_changed=True) as prof:
        model(torch.ones(1, 2))
    assert any("changed-call" in each for each in prof.warnings)


def test_inputs_changed_after_the_call_are_given_as_they_were() -> None:
    """A buffer that the program reuses for the next batch is no problem."""
    seen: set[float] = set()

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add(float(x.sum()))
            return x * 2

    model, x = Model(), torch.ones(3)
    with xsp.profile(model, **LAYERS):
        model(x)
        x.fill_(7)
    assert seen == {3.0}
    assert float(x.sum()) == 21.0


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Dropout()], ids=["draws nothing", "draws"])
def test_what_the_block_draws_besides_is_not_drawn_again(model: nn.Module) -> None:
    """Sampling outside the model, as `generate` does, goes on where it was after the block."""
    found = []
    for profile in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        with xsp.profile(model, **LAYERS) if profile else nullcontext():
            model(torch.ones(1, 2))
            drawn = [float(torch.rand(())), float(np.random.rand())]
        found.append([*drawn, float(torch.rand(())), float(np.random.rand()), random.random() >= 0])
    assert found[0] == found[1]


def test_strides_of_an_input_are_kept() -> None:
    """A copy of a transposed input is transposed: other strides run other kernels."""
    strides: set[tuple[int, ...]] = set()

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            strides.add(x.stride())
            return x.add_(1)

    xsp.measure(Model(), torch.ones(3, 4).t(), **LAYERS)
    assert strides == {(1, 4)}


def test_calls_from_several_threads_are_recorded_and_told() -> None:
    """Four threads' calls are all in the profile, with a sentence on how they are made again."""
    model, barrier = nn.Linear(2, 2), Barrier(4)

    def call(size: int) -> None:
        barrier.wait(20)
        model(torch.ones(size, 2))

    with xsp.profile(model, **LAYERS) as prof, ThreadPoolExecutor(4) as pool:
        list(pool.map(call, [1, 2, 3, 4]))
    assert sorted(prof.table("calls")["batch_size"]) == [1, 2, 3, 4]
    assert any("from 4 threads" in each for each in prof.warnings)
