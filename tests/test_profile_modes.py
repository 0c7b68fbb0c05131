"""Re-runs happen under the modes that the calls in the block had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from function_modules import Watching
from quick import LAYERS, profiled
from torch import nn

import xsp

AMBIENT: dict[str, Callable[[], Any]] = {
    "none": lambda: torch.enable_grad(),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast without cache": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
}


def modes() -> tuple[Any, ...]:
    """The ambient modes as forward sees them."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    )


@pytest.mark.parametrize("ambient", AMBIENT)
def test_re_runs_happen_under_the_modes_of_the_call(ambient: str) -> None:
    """Grad, inference and autocast modes of the recorded call hold in every re-run, and outputs
    have the same type.
    """
    seen: list[Any] = []

    class Looking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((x.dtype, x.requires_grad))
            return x

    model = nn.Sequential(Watching(lambda _self: seen.append(modes())), Looking())
    with xsp.profile(model, **LAYERS), AMBIENT[ambient]():
        model(torch.randn(8, 4))
    assert len(seen) > 8
    assert set(seen[0::2]) == {seen[0]}
    assert set(seen[1::2]) == {seen[1]}


def test_calls_under_different_modes_keep_their_own() -> None:
    """Each recorded call is repeated under its own modes."""
    seen: list[bool] = []
    model = Watching(lambda _self: seen.append(torch.is_grad_enabled()))
    with xsp.profile(model, **LAYERS):
        model(torch.randn(8, 4))
        with torch.no_grad():
            model(torch.randn(8, 4))
    assert seen == [True, False] * (len(seen) // 2)


def test_measuring_inside_a_no_grad_block_leaves_the_mode() -> None:
    """The caller's modes are the same after the profile as before."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = modes()
        profiled(nn.Linear(4, 4), torch.randn(2, 4))
        assert modes() == before
