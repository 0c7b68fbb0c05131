"""Bricks that are calls of a model's own modules, with the Python between their operators."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_models import Convolutional, HandWritten, Transformer, ready
from torch import Tensor, nn

import xsp
from xsp.brickwork.cutting import decomposed
from xsp.brickwork.model import model_of
from xsp.brickwork.modules import calls_in, cut_along_modules


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


def blocks() -> tuple[nn.Module, Tensor]:
    return Blocks().eval(), torch.randn(3, 4)


@pytest.mark.parametrize("kind", [Convolutional, Transformer, HandWritten])
@pytest.mark.parametrize("granularity", [1, 3, 10])
def test_modules_and_what_is_between_them_are_every_layer_once(
    kind: type[nn.Module], granularity: int
) -> None:
    """In order, and none of more layers than the granularity."""
    module, inputs = ready(kind)
    cut = cut_along_modules(model_of(module, inputs), granularity)
    places = [place for each in cut.bricks for place in range(each.begin, each.end)]
    assert places == list(range(len(cut.model.parts)))
    assert max(each.end - each.begin for each in cut.bricks) <= granularity


def test_the_outermost_modules_that_are_small_enough_are_bricks() -> None:
    """At 4 layers the block, at 2 what is inside it, at 1 single layers; equal calls are one
    brick, and what no module runs is a brick of operators.
    """
    module, x = blocks()
    model = model_of(module, (x,))
    by_size = {size: cut_along_modules(model, size) for size in (1, 2, 4)}
    called = {
        size: [each.end - each.begin if each.call else 0 for each in cut.bricks]
        for size, cut in by_size.items()
    }
    assert called == {
        1: [0, 1, 1, 0, 0, 1, 1, 0, 0, 0],
        2: [0, 2, 0, 0, 2, 0, 0],
        4: [0, 4, 4, 0],
    }
    assert len({each.layer.digest for each in by_size[4].bricks}) == 3


def test_calls_have_real_arguments() -> None:
    """Tensors in containers and by name; what is called gives what the model's own call gave."""
    module, x = blocks()
    model = model_of(module, (x,))
    cut = cut_along_modules(model, 4)
    (calls,) = calls_in(model, cut.bricks).values()
    assert len(calls.calls) == len(calls.inputs) == 2
    with torch.no_grad():
        first = calls.calls[0](*calls.inputs[0])["sum"]
        second = calls.calls[1](*calls.inputs[1])["sum"]
        torch.testing.assert_close(F.gelu(second), module(x))
    torch.testing.assert_close(calls.inputs[1][0], first)


def test_a_module_is_another_brick_than_its_operators() -> None:
    """They take different times, so the database keeps them apart."""
    model = model_of(nn.Sequential(nn.Linear(2, 2)).eval(), (torch.randn(1, 2),))
    (network,), (module,) = decomposed(model, 1).bricks, cut_along_modules(model, 1).bricks
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
    assert count[4, "modules, sum"] == 4
    assert latency_ms[4, "modules, sum"] > 0
    assert count[1, "sum"] == count[1, "modules, sum"]
