"""Programs that make many events of one kind, and next to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

EVENTS = 300


class Chain(nn.Module):
    """Calls one thing again and again."""

    def __init__(self, *modules: nn.Module, function: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.modules_called = nn.ModuleList(modules)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.modules_called:
            x = module(x)
        if self.function is not None:
            for _ in range(EVENTS):
                x = self.function(x)
        return x


@dataclass(frozen=True)
class Program:
    """`model(x)` makes the events, or its backward pass does."""

    model: Chain
    x: torch.Tensor
    backward: bool = False

    def prepare(self) -> Callable[[], object]:
        """The timed part."""
        if not self.backward:
            return partial(self._forward)
        output = self.model(self.x)
        return lambda: torch.autograd.grad(output, self.x, torch.ones_like(output))

    def _forward(self) -> None:
        with torch.set_grad_enabled(self.x.requires_grad):
            self.model(self.x)

    def whole(self) -> None:
        """Everything, once."""
        self.prepare()()


def layer_programs(device: str) -> dict[str, Program]:
    """One for each kind of event of LAYER."""
    x = torch.ones(4, device=device)
    needs_gradient = x.clone().requires_grad_()
    add = Chain(function=lambda value: torch.add(value, 1))
    return {
        "module call": Program(Chain(*[nn.Identity() for _ in range(EVENTS)]), x),
        "functional call": Program(add, x),
        "functional call that makes a node": Program(add, needs_gradient),
        "backward node": Program(add, needs_gradient, backward=True),
        "training: a range": Program(Chain(function=in_a_range), x),
        "training: a part": Program(Chain(function=scaling(device)), x),
        "training: an optimizer": Program(Chain(function=stepping(device)), x),
    }


def in_a_range(value: torch.Tensor) -> torch.Tensor:
    """A range around nothing."""
    with torch.profiler.record_function("range"):
        return value


def scaling(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A loss that is scaled by 1."""
    scaler = torch.amp.GradScaler(device, 1.0)

    def scaled(value: torch.Tensor) -> torch.Tensor:
        # The method is asked for at each call, as programs do: one that was kept has no stand-in.
        result: torch.Tensor = scaler.scale(value)
        return result

    return scaled


def stepping(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A step without gradients."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1, device=device))], lr=0.1)

    def step(value: torch.Tensor) -> torch.Tensor:
        optimizer.step()
        return value

    return step
