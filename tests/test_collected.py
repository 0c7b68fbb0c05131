"""What a program's forward hooks collect is what they collect without xsp."""

from __future__ import annotations

import copy
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from quick import LAYERS, measured
from torch import nn

import xsp

FEATURES: list[torch.Tensor] = []
calls = 0
TABLE: dict[str, int] = {}
OTHERS = {"constant": 1}


def into_globals(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
    """Collect in a list of this module, and count in a variable of it."""
    global calls
    calls += 1
    FEATURES.append(output)


def into_a(store: Any, add: Callable[[Any], None]) -> Callable[..., None]:
    """Collect in a container of the closure."""

    def hook(*_: Any) -> None:
        add(store)

    return hook


class Recorder:
    """Collects in what it has: a list for each module, a number and a running mean."""

    def __init__(self) -> None:
        self.features: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.calls, self.mean = 0, torch.zeros(4)

    def hook(self, _module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        """A forward hook."""
        self.features["layer"].append(output)
        self.calls += 1
        self.mean += output.detach().mean(0)

    def look(self) -> Any:
        """All of it."""
        return len(self.features["layer"]), self.calls, self.mean.tolist()


def ones() -> torch.Tensor:
    """An input."""
    return torch.ones(2, 4)


def model_with(hook: Callable[..., None]) -> nn.Module:
    """A layer inside another module, with a hook."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_hook(hook)
    return model


CONTAINERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "list": ([], lambda store: store.append(1)),
    "deque": (deque(maxlen=2), lambda store: store.append(len(store))),
    "dict": ({"n": 0}, lambda store: store.update(n=store["n"] + 1)),
    "ordered": (OrderedDict(a=1, b=2), lambda store: store.move_to_end("a")),
    "counter": (Counter("a"), lambda store: store.update("a")),
    "set": (set(), lambda store: store.add(len(store))),
    "nested": ({"a": [[]]}, lambda store: store["a"][0].append(1)),
    "tensor": (torch.zeros(2), lambda store: store.add_(1)),
}


@pytest.mark.parametrize(("store", "add"), CONTAINERS.values(), ids=CONTAINERS)
def test_containers_hold_what_the_blocks_own_call_added(
    store: Any, add: Callable[[Any], Any]
) -> None:
    """The very same container is as after one call; every re-run found it as that call did."""
    found: set[str] = set()

    def looked(held: Any) -> None:
        found.add(str(held))
        add(held)

    other = copy.deepcopy(store)
    add(other)
    model = model_with(into_a(store, looked))
    with xsp.profile(model, **LAYERS):
        model(ones())
    assert str(store) == str(other)
    assert len(found) == 1


def test_globals_of_a_hook_are_as_after_one_call() -> None:
    """A list of the module that the hook is written in, and a number that it counts up."""
    FEATURES.clear()
    model = model_with(into_globals)
    before = calls
    with xsp.profile(model, **LAYERS):
        output = model(ones())
    assert len(FEATURES) == 1
    assert torch.equal(torch.relu(FEATURES[0]), output)
    assert calls == before + 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_objects_whose_methods_are_hooks_are_as_after_one_call(wrapped: bool) -> None:
    """Their attributes and what these hold, also where a function calls the method."""
    one, other = Recorder(), Recorder()
    for recorder, profiled in ((one, False), (other, True)):
        torch.manual_seed(0)
        hook = partial(Recorder.hook, recorder) if wrapped else recorder.hook
        model = model_with(hook)
        with xsp.profile(model, **LAYERS) if profiled else nullcontext():
            model(ones())
    assert one.look() == other.look()


def test_a_variable_of_a_closure_is_as_after_one_call() -> None:
    """One that is assigned anew by every call, and one that is not bound yet before it."""
    number = 0
    last: int

    def hook(*_: Any) -> None:
        nonlocal number, last
        number += 1
        last = number

    model = model_with(hook)
    with xsp.profile(model, **LAYERS):
        model(ones())
    assert (number, last) == (1, 1)


def test_measuring_leaves_nothing_in_what_hooks_collect() -> None:
    """No call is the program's own there."""
    features: list[int] = []
    xsp.measure(model_with(into_a(features, lambda store: store.append(1))), ones(), **LAYERS)
    assert features == []


def test_a_hook_that_the_block_took_off_keeps_what_it_collected() -> None:
    """Re-runs do not call it, and what it had collected stays."""
    features: list[int] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with xsp.profile(model, **LAYERS):
        handle = model[0].register_forward_hook(into_a(features, lambda store: store.append(1)))
        model(ones())
        handle.remove()
    assert features == [1]


def test_what_other_threads_add_is_kept() -> None:
    """Only what the hooks themselves change is put back, not what another thread adds meanwhile to
    a list that a hook could reach.
    """
    features: list[int] = []
    of_others: list[int] = []
    runs = count()

    def hook(*_: Any) -> None:
        features.append(len(of_others))
        if next(runs) == 3:
            other = threading.Thread(target=of_others.append, args=[1])
            other.start()
            other.join()

    model = model_with(hook)
    with xsp.profile(model, **LAYERS):
        model(ones())
    assert features == [0]
    assert of_others == [1]


class Counting(nn.Module):
    """Counts its calls in a dictionary of its module, and reads another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        TABLE["n"] = TABLE.get("n", 0) + OTHERS["constant"]
        output: torch.Tensor = self.layer(x)
        return output


class Filling(Counting):
    """Makes a table once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        TABLE.setdefault("filled", 1)
        output: torch.Tensor = self.layer(x)
        return output


def test_globals_that_a_forward_changes_are_told() -> None:
    """By name; those that it reads, or fills once, are not."""
    told = [each for each in measured(Counting(), ones()).warnings if "modified-in-place" in each]
    assert len(told) == 1
    assert "(global TABLE)" in told[0]
    warnings = measured(Filling(), ones()).warnings
    assert not [each for each in warnings if "modified-in-place" in each]
