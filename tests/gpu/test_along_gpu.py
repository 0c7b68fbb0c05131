"""Profiling along the user's own loop on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import xsp

pytestmark = pytest.mark.gpu


def trained(*, profiled: bool) -> tuple[dict[str, torch.Tensor], xsp.Profile | None]:
    """Train from a fixed seed; the parameters that are left, and the profile if there is one."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 256), nn.Dropout(0.2), nn.ReLU(), nn.Linear(256, 10))
    model.cuda()
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        images, labels = torch.randn(32, 64).cuda(), torch.randint(10, (32,)).cuda()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    prof = None
    if profiled:
        with xsp.profile(model, optimizer=optimizer, iterations=3, warmup=2) as prof:
            for _ in range(60):
                step()
                prof.step()
    else:
        for _ in range(60):
            step()
    return copy.deepcopy(model.state_dict()), prof


def test_training_along_the_loop_is_the_same_and_has_kernels_in_every_part() -> None:
    """Parameters are bit for bit those without xsp, and forward, backward and the optimizer have
    kernels.
    """
    with_xsp, prof = trained(profiled=True)
    without, _ = trained(profiled=False)
    torch.testing.assert_close(with_xsp, without, rtol=0, atol=0)
    assert prof is not None
    layers = xsp.analysis.kernels_by_layer(prof)
    busy = layers[layers["kernel_latency_ms"] > 0]
    assert "Adam.step" in set(busy["layer"])
    assert {"forward", "backward"} <= set(busy["phase"])
