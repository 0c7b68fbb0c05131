"""Modules whose forward is a function, for tests of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Function(nn.Module):
    """A model whose forward is any function."""

    def __init__(self, function: Any, **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def with_child(function: Any) -> Function:
    """A model that is no leaf, so that what its forward calls counts as layers."""
    return Function(function, linear=nn.Linear(4, 4))


class Watching(nn.Module):
    """Hands every forward call's view of the world to a function, then applies a linear layer and
    dropout.
    """

    def __init__(self, watch: Callable[[Watching], object] = lambda _self: None) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.watch = watch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.watch(self)
        output: torch.Tensor = self.dropout(self.norm(self.linear(x)))
        return output
