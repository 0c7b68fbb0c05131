"""Synthetic models whose layers launch known numbers of kernels: each kernel must be found under its true layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import xsp

pytestmark = pytest.mark.gpu


class Scale(nn.Module):
    """Launches `times` kernels forward, and as many backward."""

    def __init__(self, times: int, inplace: bool = False) -> None:
        super().__init__()
        self.times, self.inplace = times, inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = x.mul_(1.5) if self.inplace else x * 1.5
        return x


class Sine(nn.Module):
    """Launches `times` kernels forward and twice as many backward, for which it keeps its inputs."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = x.sin()
        return x


def kernels_by_layer(target: Any, *args: Any) -> dict[tuple[str, str], int]:
    """Kernels of one run by (layer, phase), checked to be the same in every run."""
    prof = xsp.measure(target, *args, iterations=2, progress=False)
    assert prof.lost == 0
    tree = prof.tree()
    layers = tree[tree["level"] == "LAYER"]
    return {
        (row.name_, row.phase): row.kernels
        for row in layers.rename(columns={"name": "name_"}).itertuples()
        if row.kernels
    }


def test_nested_shared_and_functional_layers() -> None:
    """Nested modules, a module called twice and functional calls between them keep their own kernels."""

    class Block(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.scale = Scale(times)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale(x) + x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Block(3), nn.Sequential(Block(5), Scale(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.first(self.second(self.first(x))))

    with torch.no_grad():
        found = kernels_by_layer(Net(), torch.randn(64, device="cuda"))
    assert found == {
        ("first.scale", "forward"): 6,
        ("first::add", "forward"): 2,
        ("second.0.scale", "forward"): 5,
        ("second.0::add", "forward"): 1,
        ("second.1", "forward"): 2,
        ("::relu", "forward"): 1,
    }


def test_backward_kernels_lead_to_the_layer_that_made_them() -> None:
    """Backward runs on another thread: its kernels are found under the forward layer, in-place layers included."""
    model = nn.Sequential(Scale(3), Scale(4, inplace=True), Scale(2)).cuda()

    def step() -> None:
        x = torch.randn(64, device="cuda", requires_grad=True)
        model(x * 2.0).sum().backward()

    found = kernels_by_layer(step)
    for name, times in (("0", 3), ("1", 4), ("2", 2)):
        assert found[name, "forward"] == times
        assert found[name, "backward"] == times
    assert found["step::mul", "backward"] == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_recomputed_under_their_own_names(reentrant: bool) -> None:
    """Forward work that checkpointing repeats inside backward belongs to the layers that repeat it."""
    inner = nn.Sequential(Sine(3), Sine(2)).cuda()

    def step() -> None:
        x = torch.randn(64, device="cuda", requires_grad=True)
        checkpoint(inner, x, use_reentrant=reentrant).sum().backward()

    found = kernels_by_layer(step)
    assert found["0", "forward"] == 6
    assert found["0", "backward"] == 6
    assert found["1", "backward"] == 4
    # Without reentrance, recomputation stops early once everything that backward needs is there.
    assert found["1", "forward"] in ((4,) if reentrant else (3, 4))


def test_sleep_of_known_length_is_measured_as_such() -> None:
    """A layer that keeps the GPU busy for a known time is given that time, by an independent pair of events."""

    class Sleep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.cuda._sleep(4_000_000)
            return x

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    model, x = Sleep(), torch.randn(8, device="cuda")
    model(x)
    begin.record()
    for _ in range(10):
        model(x)
    end.record()
    torch.cuda.synchronize()
    expected_ms = begin.elapsed_time(end) / 10
    prof = xsp.measure(model, x, iterations=3, progress=False)
    tree = prof.tree()
    assert tree.loc[tree["level"] == "LAYER", "device_ms"].item() == pytest.approx(expected_ms, rel=0.01)
