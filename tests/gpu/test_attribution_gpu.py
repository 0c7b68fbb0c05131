"""Synthetic models whose layers launch known numbers of kernels: each kernel must be found under
its true layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from attribution import CASES, judged, kernels_by_layer
from torch import nn

import xsp

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _no_process_group_after() -> Iterator[None]:
    """A case of DistributedDataParallel makes one."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_is_found_under_its_true_layer(name: str) -> None:
    """Nested, shared, functional and in-place layers, backward and recomputation, layers on threads
    of the program.
    """
    assert judged(CASES[name], kernels_by_layer(CASES[name].make("cuda")))["wrong"] == []


def test_sleep_of_known_length_is_measured_as_such() -> None:
    """A layer that keeps the GPU busy for a known time is given that time, by an independent pair
    of events.
    """

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
    assert tree.loc[tree["level"] == "LAYER", "device_ms"].item() == pytest.approx(
        expected_ms, rel=0.01
    )
