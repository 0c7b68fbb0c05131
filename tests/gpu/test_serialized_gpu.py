"""Layers that share the device are seen to, and measured alone in serialised runs, on a
real GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xsp

pytestmark = pytest.mark.gpu


class Sleep(nn.Module):
    """Keeps one block of the GPU busy for a while, on a stream of its own."""

    def __init__(self, cycles: int) -> None:
        super().__init__()
        self.cycles, self.stream = cycles, torch.cuda.Stream()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(self.cycles)
        return x


class TwoStreams(nn.Module):
    """Two sleeps at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.long = Sleep(2_000_000), Sleep(6_000_000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.long(self.short(x))
        return y


def test_overlapping_layers_are_counted_and_measured_alone() -> None:
    """Two sleeps of about 1 and 3 ms overlap: the profile says so and gives the time of
    each alone.
    """
    prof = xsp.measure(
        TwoStreams().cuda(), torch.zeros(1, device="cuda"), iterations=5, progress=False
    )
    assert any("overlapped" in sentence for sentence in prof.warnings)
    alone = prof.serialized.set_index("name")
    assert alone["overlapped"].tolist() == [1.0, 1.0]
    assert alone.loc["long", "device_ms"] == pytest.approx(
        3 * alone["device_ms"]["short"], rel=0.05
    )


def test_layers_on_one_stream_are_not_run_again() -> None:
    """Nothing overlaps on one stream, so nothing is serialised unless it is asked for."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).cuda()
    x = torch.zeros(8, 64, device="cuda")
    assert not len(xsp.measure(model, x, iterations=5, progress=False).serialized)
    asked = xsp.measure(model, x, iterations=5, progress=False, serialize=True)
    assert asked.serialized["name"].tolist() == ["0", "1"]
    assert (asked.serialized["overlapped"] == 0).all()
    assert asked.serialized["device_ms"].gt(0).all()
