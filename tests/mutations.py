"""A small model and twenty changes to it, each with the layer that a report must name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Change = Callable[["Net"], None]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def mixed(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output: tuple[torch.Tensor, ...] = self.qkv(x).chunk(3, dim=-1)
        return output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(self.mixed(*self.split(x)))
        return output


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.act, self.down = (
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
        )

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.between(self.act(self.up(x)))
        output: torch.Tensor = self.down(hidden)
        return output


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return self.after(x + self.mlp(self.norm2(x)))


class Net(nn.Module):
    """Convolutions, three blocks in a list, and a head: what layers of real models are made of."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, width, 4, 4),
        )
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        output: torch.Tensor = self.head(x.mean(1))
        return output


class Cast(nn.Linear):
    """A linear layer in another precision than its surroundings."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


@dataclass(frozen=True)
class Mutation:
    """`change` mutates a copy of the model; the first sentence must hold `named`."""

    what: str
    named: str
    change: Change


def _set(path: str, make: Callable[[Any], Any]) -> Change:
    def change(net: Net) -> None:
        above, _, name = path.rpartition(".")
        parent = net.get_submodule(above)
        setattr(parent, name, make(getattr(parent, name)))

    return change


def _method(path: str, name: str, function: Callable[..., Any]) -> Change:
    def change(net: Net) -> None:
        setattr(net.get_submodule(path), name, function)

    return change


def _linear(
    old: nn.Linear, inputs: int | None = None, outputs: int | None = None, **options: Any
) -> nn.Linear:
    return nn.Linear(inputs or old.in_features, outputs or old.out_features, **options)


def _wider(net: Net) -> None:
    mlp: Any = net.blocks[1].mlp
    mlp.up, mlp.down = _linear(mlp.up, outputs=96), _linear(mlp.down, inputs=96)


def _more_channels(net: Net) -> None:
    net.stem = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 32, 4, 4)
    )


def _bfloat16(net: Net) -> None:
    mlp: Any = net.blocks[2].mlp
    old: nn.Linear = mlp.down
    mlp.down = Cast(old.in_features, old.out_features).bfloat16()


def _half_stem(net: Net) -> None:
    class Cast2d(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.bfloat16()).float()

    net.stem[3] = Cast2d(16, 32, 4, 4).bfloat16()


def _inserted(net: Net) -> None:
    net.stem = nn.Sequential(*list(net.stem)[:3], nn.Dropout(0.0), *list(net.stem)[3:])


def _inserted_block(net: Net) -> None:
    net.blocks.insert(1, Mlp(32))


def _dropped_block(net: Net) -> None:
    del net.blocks[2]


def _renamed(net: Net) -> None:
    mlp: Any = net.blocks[0].mlp
    mlp.widen = mlp.up
    del mlp.up
    mlp.forward = lambda x: mlp.down(mlp.act(mlp.widen(x)))


def _broken_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    return weights @ v


def _waits(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum().item() < 1e9 else -x


class Manual(nn.Module):
    """Layer normalisation as three operations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)


def _no_activation(net: Net) -> None:
    mlp: Any = net.blocks[1].mlp
    mlp.forward = lambda x: mlp.down(mlp.up(x))


def _twice(net: Net) -> None:
    attention: Any = net.blocks[2].attention
    attention.split = lambda x: (attention.qkv(x), attention.qkv(x).chunk(3, dim=-1))[1]


def _round_trip(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


MUTATIONS = (
    Mutation("a layer computes in bfloat16", "blocks.2.mlp.down", _bfloat16),
    Mutation("a convolution computes in bfloat16", "stem.3", _half_stem),
    Mutation(
        ".contiguous() on a transposed copy", "blocks.1", _method("blocks.1", "after", _round_trip)
    ),
    Mutation(".item() in a block", "blocks.2", _method("blocks.2", "after", _waits)),
    Mutation(".item() in an MLP", "blocks.0.mlp", _method("blocks.0.mlp", "between", _waits)),
    Mutation(
        "fused attention broken up",
        "blocks.1.attention",
        _method("blocks.1.attention", "mixed", _broken_attention),
    ),
    Mutation("layer norm broken up", "blocks.0.norm1", _set("blocks.0.norm1", lambda _: Manual())),
    Mutation("wider hidden layer", "blocks.1.mlp.up", _wider),
    Mutation("more channels", "stem.0", _more_channels),
    Mutation("a layer inserted into a Sequential", "stem.3", _inserted),
    Mutation("a block inserted into a list", "blocks.1", _inserted_block),
    Mutation("the last block dropped", "blocks.2", _dropped_block),
    Mutation("activation dropped", "blocks.1.mlp.act", _no_activation),
    Mutation("a layer renamed", "blocks.0.mlp.widen", _renamed),
    Mutation(
        "another activation", "blocks.2.mlp.act", _set("blocks.2.mlp.act", lambda _: nn.GELU())
    ),
    Mutation(
        "an extra copy", "blocks.0.mlp", _method("blocks.0.mlp", "between", lambda x: x.clone())
    ),
    Mutation(
        "no bias",
        "blocks.0.attention.out",
        _set("blocks.0.attention.out", lambda old: _linear(old, bias=False)),
    ),
    Mutation("larger kernel", "stem.0", _set("stem.0", lambda _: nn.Conv2d(3, 16, 5, padding=2))),
    Mutation("wider head", "head", _set("head", lambda old: _linear(old, outputs=1000))),
    Mutation("a projection computed twice", "blocks.2.attention.qkv", _twice),
)


def mutated(net: Net, mutation: Mutation) -> Net:
    """A copy of the model with the mutation."""
    other = copy.deepcopy(net)
    mutation.change(other)
    return other.eval()
