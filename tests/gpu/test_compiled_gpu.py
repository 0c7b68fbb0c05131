"""Kernels of compiled programs on a GPU are led to source layers, and those do the work that they
do in eager mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.profiles import Profile

pytestmark = pytest.mark.gpu

LEAST_LED = 0.95
"""Share of the GPU's time that must be led to source layers."""


class Attending(nn.Module):
    """A block of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention, then two products."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        inner: torch.Tensor = self.down(F.gelu(self.up(self.norm_2(x))))
        return x + inner


class Residual(nn.Module):
    """A block of a ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_1, self.norm_2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two convolutions and what they are added to."""
        inner = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(x + self.norm_2(self.conv_2(inner)))


class Transformer(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attending(512, 8) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(512), nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every block."""
        for block in self.blocks:
            x = block(x)
        output: torch.Tensor = self.head(self.norm(x))
        return output


class ResNet(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.blocks = nn.ModuleList(Residual(64) for _ in range(2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every block, and a mean at the root."""
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        output: torch.Tensor = self.fc(x.mean((2, 3)))
        return output


PROGRAMS = {"transformer": (Transformer, (8, 256, 512)), "resnet": (ResNet, (16, 3, 128, 128))}


def _step(net: Callable[..., Any], x: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        net.zero_grad(set_to_none=True)  # type: ignore[attr-defined] # a compiled module has it
        net(x).sum().backward()

    return step


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def profiles(program: str, *, before: bool) -> tuple[Profile, Profile]:
    """The step eager and compiled; with `before`, compiled before it is measured."""
    make, shape = PROGRAMS[program]
    torch.manual_seed(0)
    net, x = make().cuda(), torch.randn(*shape, device="cuda")
    eager = xsp.measure(_step(net, x), iterations=3, warmup=3)
    step = _step(torch.compile(net), x)
    if before:
        step()
    return eager, xsp.measure(step, iterations=3, warmup=3)


def flops_of(prof: Profile, layers: pd.DataFrame) -> pd.Series:
    """FLOPs of library calls by layer and phase, from `layers`: position, layer, phase."""
    tables = prof._capture.tables
    sequence = kernel_sequence(tables)
    called = sequence[sequence["call_span"] >= 0].drop_duplicates("call_span")
    flops = tables["library_calls"]["flops"].iloc[called["library_call"]].to_numpy()
    known = called.assign(flops=flops).merge(layers, on="position")
    sums = known.groupby(["layer_name", "phase"])["flops"].sum()
    return sums[sums > 0].astype(float)


def eager_layers(prof: Profile) -> pd.DataFrame:
    tables = prof._capture.tables
    sequence = kernel_sequence(tables)
    layers = tables["layers"].iloc[sequence["layer"]]
    return pd.DataFrame(
        {
            "position": sequence["position"],
            "layer_name": layers["name"].to_numpy(),
            "phase": layers["phase"].to_numpy(),
        }
    )


def source_layers(prof: Profile) -> pd.DataFrame:
    """The layer of each kernel that has one only."""
    tables = prof._capture.tables
    owners = tables["compiled_origins"].query("share > 0.999").set_index("launch")["layer"]
    known = tables["compiled_kernels"].query("launch >= 0")
    known = known[known["launch"].isin(owners.index)]
    names = owners.reindex(known["launch"]).to_numpy()
    phases = tables["compiled_launches"]["phase"].iloc[known["launch"]].to_numpy()
    return pd.DataFrame({"position": known["position"], "layer_name": names, "phase": phases})


def led_share(prof: Profile) -> float:
    """Share of the time of all kernels that is led to source layers."""
    every_ns = kernel_sequence(prof._capture.tables)["duration_ns"].sum()
    layers = prof.compiled_layers()
    return layers.loc[layers["layer"] != "(unknown)", "device_ms"].sum() * 1e6 / every_ns


@pytest.mark.parametrize("before", [False, True], ids=["compiled by it", "compiled before"])
@pytest.mark.parametrize("program", list(PROGRAMS))
def test_every_kernel_is_led_to_its_layers(program: str, before: bool) -> None:
    """Every kernel of a compiled step finds its launch, and at least 95 % of the GPU's time is led
    to source layers; the products of each layer compute what they do in eager mode.
    """
    eager, compiled = profiles(program, before=before)
    sure = set(compiled.table("compiled_launches")["confidence"])
    assert sure == {"verified" if before else "exact"}
    assert not (compiled.compiled()["ordinal"] < 0).any()
    assert led_share(compiled) >= LEAST_LED
    assert not [each for each in compiled.warnings if "[recompiled]" in each]
    expected = flops_of(eager, eager_layers(eager))
    found = flops_of(compiled, source_layers(compiled))
    assert set(expected.index) == set(found.index)
    assert found.reindex(expected.index).to_numpy() == pytest.approx(expected.to_numpy())


def test_kernels_of_a_compiled_forward_pass() -> None:
    """The same of a model that is compiled in place and only run forward: its layers have the names
    that they have in the model.
    """
    net = Transformer().cuda().eval()
    net.compile()
    x = torch.randn(8, 256, 512, device="cuda")
    with torch.no_grad():
        prof = xsp.measure(net, x, iterations=3, warmup=3)
    names = set(prof.compiled_layers()["layer"])
    assert {"blocks.0.qkv", "blocks.1.down", "head", "blocks.0::gelu"} <= names
    assert not (prof.compiled()["ordinal"] < 0).any()
