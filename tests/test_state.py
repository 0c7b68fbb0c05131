"""What runs change is put back: flags and gradients of modules, random generators, and objects that
a step changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from quick import LAYERS
from torch import nn

import xsp
from xsp.measuring.copies import Copier
from xsp.measuring.python_state import PythonState, attributes
from xsp.measuring.restoring import Restored
from xsp.measuring.state import GENERATORS, ModelState, RandomState

DRAW: dict[str, Callable[[], object]] = {
    "Python's": random.random,
    "NumPy's": np.random.random,
    "torch's": lambda: torch.rand(1),
}


# ---- random generators ----


def test_generators_that_were_drawn_from_are_known() -> None:
    """Each apart, and none where nothing was drawn."""
    for name, draw in DRAW.items():
        before = RandomState.current()
        assert RandomState.current().changed(before) == frozenset()
        draw()
        assert RandomState.current().changed(before) == {name}
    assert set(DRAW) == set(GENERATORS) - {"torch's CUDA"}


def test_seeding_counts_as_drawing() -> None:
    """A generator that is set to where it was has not changed."""
    before = RandomState.current()
    torch.manual_seed(5)
    assert RandomState.current().changed(before) == {"torch's"}
    np.random.normal()
    assert "NumPy's" in RandomState.current().changed(before)
    before.restore(GENERATORS)
    assert RandomState.current().changed(before) == frozenset()


@pytest.mark.parametrize("name", DRAW)
def test_only_the_named_generators_are_put_back(name: str) -> None:
    """The others go on where they are."""
    before = RandomState.current()
    for draw in DRAW.values():
        draw()
    before.restore([name])
    assert RandomState.current().changed(before) == set(DRAW) - {name}
    before.restore([])
    assert RandomState.current().changed(before) == set(DRAW) - {name}


# ---- models ----


class Noting(nn.Module):
    """Notes what a run finds, then changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        FOUND.append((self.norm.training, self.layer.weight.grad is None))
        self.norm.eval()
        output: torch.Tensor = self.norm(self.layer(x))
        return output


FOUND: list[tuple[bool, bool]] = []


def test_every_run_finds_flags_and_no_gradients() -> None:
    """A model that ends its own training begins each run in training, and without gradients, which
    it has again afterwards.
    """
    model = Noting()
    gradient = torch.ones(4, 4)
    model.layer.weight.grad = gradient
    FOUND.clear()
    xsp.measure(model, torch.ones(3, 4), **LAYERS)
    assert len(FOUND) > 4
    assert set(FOUND) == {(True, True)}
    assert model.norm.training
    assert model.training
    assert model.layer.weight.grad is gradient


def test_a_model_is_put_back_any_number_of_times() -> None:
    """Flags, buffers and their versions, each time."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    state = ModelState(model)
    for _ in range(3):
        norm.running_mean.add_(1)
        model.eval()
        norm.weight.requires_grad_(False)
        norm.weight.grad = torch.ones(2)
        state.restore()
        assert norm.running_mean.tolist() == [0, 0]
        assert [module.training for module in model.modules()] == [True] * 3
        assert norm.weight.requires_grad
        assert norm.weight.grad is None


@pytest.mark.parametrize("names", [3, 4])
def test_models_without_shapes_are_refused_with_three_names(names: int) -> None:
    """Where there are more, that is shown."""
    model = nn.ModuleDict(
        {f"lazy{number}": nn.LazyLinear(2, bias=False) for number in range(names)}
    )
    shown = "lazy0.weight, lazy1.weight, lazy2.weight" + (", …" if names > 3 else "")
    with pytest.raises(xsp.TargetError, match=rf"without a shape \({shown}\) until"):
        ModelState(model)


class Keeping(nn.Module):
    """Keeps in Python what calls change, and what they only read."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.history, self.settings = 0, [1], {"rate": [0.5]}
        self.gone = "here"

    def forward(self) -> None:
        self.count += 1
        self.history.append(self.count)
        self.extra = self.count
        del self.gone


def test_attributes_are_put_back_before_every_run_and_after_the_last() -> None:
    """What runs change they change in copies; what they leave alone is the program's own object
    from the second run on.
    """
    model = Keeping()
    own = dict(vars(model))
    state = PythonState(model)
    for run in range(3):
        state.prepare(Copier())
        assert (model.count, model.history, model.settings) == (0, [1], {"rate": [0.5]})
        assert model.gone == "here"
        assert not hasattr(model, "extra")
        assert model.history is not own["history"]
        assert (model.settings is own["settings"]) is (run > 0)
        model()
        if run == 0:
            state.note_changes()
    state.restore()
    assert vars(model) == own
    assert all(vars(model)[name] is value for name, value in own.items())
    assert (model.count, model.history) == (0, [1])


def test_attributes_that_the_block_changed_begin_as_they_were_before_it() -> None:
    """Runs start from the copies that were made before the block's call, also of attributes that it
    added or that it alone changed.
    """
    model = Keeping()
    start = attributes(model, Copier())
    model()
    model.settings["rate"].append(0.25)
    state = PythonState(model, start)
    for run in range(2):
        state.prepare(Copier())
        assert (model.count, model.history, model.settings) == (0, [1], {"rate": [0.5]})
        assert model.gone == "here"
        assert not hasattr(model, "extra")
        if run == 0:
            state.note_changes()
    state.restore()
    assert (model.count, model.history, model.extra) == (1, [1, 1], 1)
    assert model.settings == {"rate": [0.5, 0.25]}
    assert not hasattr(model, "gone")


# ---- what a step changes ----


class Schedule:
    """Keeps its state in attributes, as schedulers do."""

    def __init__(self) -> None:
        self.rate, self.history = 1.0, [1.0]

    def step(self) -> None:
        """Change, add and delete."""
        self.rate /= 2
        self.history.append(self.rate)
        self.last = self.rate


def test_objects_are_put_back_before_every_run_and_after_the_last() -> None:
    """Values, what lists hold, and attributes that were added; the object's own list is its own
    afterwards.
    """
    schedule = Schedule()
    history = schedule.history
    restored = Restored([schedule])
    for _ in range(2):
        restored.prepare()
        assert vars(schedule) == {"rate": 1.0, "history": [1.0]}
        assert schedule.history is not history
        schedule.step()
        assert schedule.history == [1.0, 0.5]
    restored.restore()
    assert vars(schedule) == {"rate": 1.0, "history": [1.0]}
    assert schedule.history is history


def test_parameters_are_put_back_in_place() -> None:
    """A training step's parameters are the same objects with the values that they had, and
    gradients are the user's.
    """
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    own = torch.ones(2, 2)
    parameters[0].grad = own
    restored = Restored([model, optimizer])
    for _ in range(2):
        restored.prepare()
        assert parameters[0].grad is None
        assert not optimizer.state
        model(torch.randn(3, 2)).pow(2).sum().backward()
        optimizer.step()
        assert not torch.equal(parameters[0], before["0.weight"])
    restored.restore()
    assert list(model.parameters()) == parameters
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert parameters[0].grad is own
    assert not optimizer.state


def _state_of(generator: torch.Generator) -> list[int]:
    state: list[int] = generator.get_state().tolist()
    return state


PUT_BACK: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tensor": (torch.zeros(2), lambda it: it.add_(1), torch.Tensor.tolist),
    "parameter": (nn.Parameter(torch.zeros(2)), lambda it: it.data.add_(1), torch.Tensor.tolist),
    "list": ([[1]], lambda it: it[0].append(2), str),
    "dict": ({"a": {"n": 0}}, lambda it: it["a"].update(n=it["a"]["n"] + 1), str),
    "torch's": (torch.Generator(), lambda it: torch.rand(1, generator=it), _state_of),
    "numpy's": (
        np.random.default_rng(0),
        lambda it: it.random(),
        lambda it: it.bit_generator.state,
    ),
    "numpy's older": (np.random.RandomState(0), lambda it: it.rand(), lambda it: it.get_state()[2]),
    "Python's": (random.Random(0), lambda it: it.random(), random.Random.getstate),
}


@pytest.mark.parametrize(("value", "change", "look"), PUT_BACK.values(), ids=PUT_BACK)
def test_tensors_containers_and_generators_are_put_back_in_place(
    value: Any, change: Callable[[Any], Any], look: Callable[[Any], Any]
) -> None:
    """Before every run and after the last, also what a container in a container holds."""
    before = str(look(value))
    restored = Restored([value])
    for _ in range(2):
        restored.prepare()
        assert str(look(value)) == before
        change(value)
        assert str(look(value)) != before
    restored.restore()
    assert str(look(value)) == before


@pytest.mark.parametrize("wrong", [3, Schedule, "model"])
def test_what_keeps_nothing_cannot_be_put_back(wrong: Any) -> None:
    """It is refused with what it is."""
    with pytest.raises(xsp.TargetError, match=f"restore must be .* not .* {type(wrong).__name__}"):
        Restored([wrong])


def test_attributes_that_can_be_used_once_stay_the_programs_own() -> None:
    """A generator has no copy: runs are given the very one, as the program has it."""
    model = nn.Identity()
    model.numbers = (number for number in range(3))  # type: ignore[assignment] # used once
    own = model.numbers
    state = PythonState(model)
    state.prepare(Copier())
    assert model.numbers is own
    state.restore()
    assert model.numbers is own
