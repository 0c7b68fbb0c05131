"""Bricks that are calls of a model's own modules, with the Python between their operators."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_models import Convolutional, HandWritten, Transformer, ready
from torch import Tensor, fx, nn

import xsp
from xsp.brickwork.calls import calls_in
from xsp.brickwork.cutting import decomposed
from xsp.brickwork.model import model_of
from xsp.brickwork.modules import SHELL, cut_along_modules
from xsp.brickwork.network import fresh
from xsp.brickwork.rounds import timed_call


class Block(nn.Module):
    """Two layers of its own module and one of its own; takes and returns more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor, *, both: tuple[Tensor, float]) -> dict[str, Tensor]:
        return {"sum": self.inner(x) + both[0] * both[1]}


class Blocks(nn.Module):
    """The same block twice, and layers that are in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        middle = self.first(x.exp(), both=(x, 2.0))["sum"]
        return F.gelu(self.second(middle, both=(x, 2.0))["sum"])


def blocks() -> tuple[Blocks, Tensor]:
    module = Blocks()
    module.eval()
    return module, torch.randn(3, 4)


@pytest.mark.parametrize("kind", [Convolutional, Transformer, HandWritten])
@pytest.mark.parametrize("granularity", [1, 3, 10])
def test_every_operator_is_in_one_brick(kind: type[nn.Module], granularity: int) -> None:
    """In a module that is small enough, or in the shell of the module that calls it."""
    module, inputs = ready(kind)
    cut = cut_along_modules(model_of(module, inputs), granularity)
    run: list[fx.Node] = []
    for brick in cut.bricks:
        assert brick.call is not None
        inside = {node for each in brick.call.children for node in each.nodes}
        is_shell = brick.layer.operator == SHELL
        run += [node for node in brick.call.nodes if not (is_shell and node in inside)]
    every = [node for node in cut.model.traced.graph.nodes if node.op == "call_function"]
    computed = [node for node in every if node.target is not operator.getitem]
    assert sorted(each.name for each in run) == sorted(each.name for each in computed)


def test_the_outermost_modules_that_are_small_enough_are_bricks() -> None:
    """At 4 layers the block, at 2 what is inside it, at 1 single layers, each with the shells
    around it; blocks that are equal are one brick.
    """
    module, x = blocks()
    model = model_of(module, (x,))
    names = {
        size: [
            (each.call.kind if each.call else "", each.layer.operator == SHELL)
            for each in cut_along_modules(model, size).bricks
        ]
        for size in (1, 2, 4)
    }
    shells = [("Block", True), ("Sequential", True)]
    single = [*shells, ("Linear", False), ("ReLU", False)]
    assert names[4] == [("Blocks", True), ("Block", False), ("Block", False)]
    assert names[2] == [("Blocks", True), *([("Block", True), ("Sequential", False)] * 2)]
    assert names[1] == [("Blocks", True), *single, *single]
    assert len({each.layer.digest for each in cut_along_modules(model, 2).bricks}) == 3


def test_calls_give_what_they_give_in_the_model() -> None:
    """Whole and as shells, with tensors in containers and by name; afterwards modules are in their
    places again.
    """
    module, x = blocks()
    before = list(module.modules())
    model = model_of(module, (x,))
    with torch.no_grad():
        wanted = module(x)
        middle = module.first(x.exp(), both=(x, 2.0))["sum"]
        for size in (1, 4):
            bricks = cut_along_modules(model, size).bricks
            calls = calls_in(model, bricks)
            outer = calls[bricks[0].layer.digest]
            torch.testing.assert_close(outer.calls[0](*outer.inputs[0]), wanted)
            block = calls[bricks[1].layer.digest]
            torch.testing.assert_close(block.calls[0](*block.inputs[0])["sum"], middle)
            assert len(block.calls) == 2
    assert list(module.modules()) == before


def test_a_shell_runs_none_of_its_modules() -> None:
    """They give at once what they gave, in their order, and else are what they stand for."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:1]:
                x = layer(layer(x)) * layer.in_features
            return x

    module, x = Twice().eval(), torch.randn(1, 2)
    model = model_of(module, (x,))
    bricks = cut_along_modules(model, 1).bricks
    shell = calls_in(model, bricks)[bricks[0].layer.digest]
    with torch.no_grad():
        wanted = module(x)
        for weight in module.parameters():
            weight.zero_()
        torch.testing.assert_close(shell.calls[0](*shell.inputs[0]), wanted)


def test_what_prepares_a_shell_is_not_in_its_time() -> None:
    """When the clock is read before and behind the call, modules have been replaced and arguments
    made already, and nothing has been put back.
    """
    module, x = blocks()
    bricks = cut_along_modules(model_of(module, (x,)), 4).bricks
    shell = calls_in(model_of(module, (x,)), bricks)[bricks[0].layer.digest]
    seen: list[bool] = []

    def clock() -> int:
        seen.append(isinstance(module.first, Block))
        return len(seen)

    taken = timed_call(shell.runnable("cpu", clock=clock), 0, fresh)
    assert taken.total_ns == 1
    assert seen == [False, False]
    assert isinstance(module.first, Block)


def test_a_module_is_another_brick_than_its_operators() -> None:
    """They take different times, so the database keeps them apart."""
    model = model_of(nn.Linear(2, 2).eval(), (torch.randn(1, 2),))
    (network,) = decomposed(model, 1).bricks
    module = cut_along_modules(model, 1).bricks[-1]
    assert network.layer.source == module.layer.source
    assert network.layer.digest != module.layer.digest


def test_modules_are_measured_beside_operators(tmp_path: Path) -> None:
    """A row for each rule, and none of the calls is left changed."""
    module, x = blocks()
    before = nn.Module.__call__
    found = xsp.bricks(
        (module, x),
        granularity=(1, 4),
        modules=True,
        database=tmp_path / "layers.sqlite",
        budget_s=0.0,
        progress=False,
    )
    assert nn.Module.__call__ is before
    assert not found.failures
    rows = found.models.set_index(["granularity", "rule"])
    count, latency_ms = rows["bricks"].to_dict(), rows["constructed_ms"].to_dict()
    assert count[4, "modules, sum"] == 3
    assert latency_ms[4, "modules, sum"] > 0
