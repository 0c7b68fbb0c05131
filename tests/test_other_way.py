"""A re-run that goes another way than the call in the block is refused, with where they part."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quick import LAYERS
from torch import nn

import xsp

FRESH: list[int] = []
"""The calls that were made: out of a re-run's sight, which cannot put it back."""


class Parting(nn.Module):
    """Calls its first layer, and then what depends on whether it was called before."""

    def __init__(self, then: Callable[[Parting, torch.Tensor, bool], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        FRESH.append(1)
        return self.then(self, self.first(x), len(FRESH) == 1)


def profiled(then: Any, **options: Any) -> xsp.Profile:
    """A block that calls the model once."""
    FRESH.clear()
    model = Parting(then)
    with xsp.profile(model, **LAYERS, **options) as prof:
        model(torch.ones(2, 4))
    return prof


PARTINGS: dict[str, tuple[Any, str]] = {
    "another layer": (
        lambda net, x, first: net.second(x) if first else net.third(x),
        "layer 'third' (Linear) was called instead of layer 'second' (Linear), which the block "
        "called",
    ),
    "fewer layers": (
        lambda net, x, first: net.second(x) if first else x,
        "layer 'second' (Linear) was called in the block only",
    ),
    "more layers": (
        lambda net, x, first: x if first else net.norm(x),
        "layer 'norm' (LayerNorm) was called in a re-run only",
    ),
    "other shapes": (
        lambda net, x, first: net.second(x if first else x[:1]),
        "layer 'second' (Linear) was given inputs of ((1, 4),), but of ((2, 4),) in the block",
    ),
    "a new layer instead of its own": (
        lambda net, x, first: net.second(x) if first else nn.Linear(4, 4)(x),
        "Linear was called instead of layer 'second' (Linear), which the block called",
    ),
    "its own layer instead of a new one": (
        lambda net, x, first: nn.Linear(4, 4)(x) if first else net.second(x),
        "layer 'second' (Linear) was called instead of Linear, which the block called",
    ),
    "a new layer of another kind": (
        lambda _net, x, first: nn.ReLU()(x) if first else nn.GELU()(x),
        "GELU was called instead of ReLU, which the block called",
    ),
}


@pytest.mark.parametrize("parting", PARTINGS)
def test_where_a_re_run_parts_from_the_call_is_told(parting: str) -> None:
    """The first module call that differs is named, with how, and nothing is profiled."""
    then, said = PARTINGS[parting]
    with pytest.raises(
        xsp.TargetError, match=f"Parting cannot be run again as the block ran it: {re.escape(said)}"
    ):
        profiled(then)


def test_a_re_run_that_parts_can_be_accepted() -> None:
    """With `accept_changed=True` what the re-runs do is profiled, and the profile says so."""
    then, said = PARTINGS["another layer"]
    prof = profiled(then, accept_changed=True)
    [warning] = [each for each in prof.warnings if "[changed-call]" in each]
    assert said in warning
    assert {"first", "third"} <= set(prof.tree()["name"])
    assert "second" not in set(prof.tree()["name"])


def test_layers_that_a_model_makes_anew_are_the_same_way() -> None:
    """A module that `forward` makes is another object in each run, of the same kind."""
    prof = profiled(lambda net, x, _first: net.second(nn.ReLU()(x)))
    assert not [each for each in prof.warnings if "[changed-call]" in each]
