"""Kernels of compiled programs on a GPU are led to source layers, and those do the work that they
do in eager mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from source_flops import eager_flops, source_flops
from torch import nn

import xsp
from xsp.analysis.spans.sequence import activity_sequence
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


def led_share(prof: Profile) -> float:
    """Share of the time of all kernels that is led to source layers."""
    every_ns = activity_sequence(prof._capture.tables)["duration_ns"].sum()
    layers = prof.compiled_layers()
    led = layers[~layers["layer"].str.startswith("(")]
    return float(led["device_ms"].sum() * 1e6 / every_ns)


def assert_same_flops(compiled: Profile, eager: Profile) -> None:
    """Products and convolutions of each layer compute what they do in eager mode."""
    expected, found = eager_flops(eager), source_flops(compiled)
    assert set(expected.index) == set(found.index)
    assert found.reindex(expected.index).to_numpy() == pytest.approx(expected.to_numpy())


@pytest.mark.parametrize("before", [False, True], ids=["compiled by it", "compiled before"])
@pytest.mark.parametrize("program", list(PROGRAMS))
def test_every_kernel_is_led_to_its_layers(program: str, before: bool) -> None:
    """Every kernel of a compiled step finds its launch, but for what autograd runs around a graph,
    and at least 95 % of the GPU's time is led to source layers; the products of each layer compute
    what they do in eager mode.
    """
    eager, compiled = profiles(program, before=before)
    sure = set(compiled.table("compiled_launches")["confidence"])
    assert sure == {"verified" if before else "exact"}
    rows = compiled.compiled()
    assert set(rows.loc[rows["ordinal"] < 0, "layer"]) <= {"(around compiled graphs)"}
    assert led_share(compiled) >= LEAST_LED
    assert not [each for each in compiled.warnings if "[recompiled]" in each]
    assert_same_flops(compiled, eager)


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


def recorded() -> str:
    """How many CUDA graphs the compiler has recorded so far."""
    from torch._inductor.cudagraph_trees import get_container

    return repr(get_container(0).get_tree_manager().graph_counter)


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_replayed_kernels_are_led_to_their_layers(program: str) -> None:
    """What the compiler's own CUDA graphs replay is led like what it launches, with copies and
    sets, by a run that leaves the graphs out; afterwards they are replayed as before.
    """
    make, shape = PROGRAMS[program]
    torch.manual_seed(0)
    net, x = make().cuda(), torch.randn(*shape, device="cuda")
    eager = xsp.measure(_step(net, x), iterations=3, warmup=3)
    step = _step(torch.compile(net, mode="reduce-overhead"), x)
    for _ in range(4):
        step()
    prof = xsp.measure(step, iterations=3, warmup=3)
    step()
    before = recorded()
    step()
    assert recorded() == before
    assert len(prof.table("graph_nodes"))
    no_layers = {name for name in prof.compiled()["layer"] if name.startswith("(")}
    assert no_layers <= {"(inputs of CUDA graphs)", "(around compiled graphs)"}
    assert_same_flops(prof, eager)
    assert not [each for each in prof.warnings if "not-led" in each or "[recompiled]" in each]


def test_what_was_compiled_before_under_other_modes_is_verified() -> None:
    """Code that has run before under no_grad or autocast is led to its layers as well."""
    net, x = Transformer().cuda().eval(), torch.randn(8, 256, 512, device="cuda")
    compiled = torch.compile(net)

    def infer() -> None:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            compiled(x)

    infer()
    prof = xsp.measure(infer, iterations=3, warmup=3)
    assert set(prof.table("compiled_launches")["confidence"]) == {"verified"}
    assert led_share(prof) >= LEAST_LED


def test_compiled_code_along_a_loop_is_led_to_its_layers() -> None:
    """Steps of the user's own loop, forward and backward, compiled before: at least 95 % of the
    GPU's time of compiled code is led to source layers, whose products are those of eager mode.
    """
    torch.manual_seed(0)
    net, x = Transformer().cuda(), torch.randn(8, 256, 512, device="cuda")
    eager = xsp.measure(_step(net, x), iterations=3, warmup=3)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    net.compile()
    step = _step(net, x)
    step()
    with xsp.profile(net, optimizer=optimizer, iterations=3, warmup=2) as prof:
        for _ in range(60):
            step()
            optimizer.step()
            prof.step()
    assert not [each for each in prof.warnings if "not-led" in each or "[recompiled]" in each]
    layers = prof.compiled_layers()
    assert layers.loc[~layers["layer"].str.startswith("("), "share"].sum() >= LEAST_LED
    assert_same_flops(prof, eager)
