"""Work that the profiled call did not launch is none of its own, wherever it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import xsp

pytestmark = pytest.mark.gpu

QUICK: dict[str, Any] = {"iterations": 3, "progress": False}
LONG = 40_000_000
"""Cycles of the GPU's clock: some 20 ms, much longer than the model takes."""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Some microseconds of work."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).cuda().eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Its input."""
    return torch.randn(8, 64, device="cuda")


@pytest.fixture(scope="module")
def alone(model: nn.Module, x: torch.Tensor) -> xsp.Profile:
    """The model's profile on an idle GPU."""
    torch.cuda.synchronize()
    return xsp.measure(model, x, **QUICK)


def device_ms(prof: xsp.Profile) -> float:
    """Time for which the GPU is busy with the model."""
    tree = prof.tree()
    return float(tree.loc[tree["level"] == "MODEL", "device_ms"].iloc[0])


def on_this_stream() -> None:
    """Launch a long kernel and do not wait."""
    torch.cuda._sleep(LONG)


def on_a_side_stream() -> None:
    """The same on a stream of its own."""
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(LONG)


@pytest.mark.parametrize("launch", [on_this_stream, on_a_side_stream])
def test_kernel_launched_before_measure_is_none_of_the_models(
    launch: Callable[[], None], model: nn.Module, x: torch.Tensor, alone: xsp.Profile
) -> None:
    """A kernel that still runs when `xsp.measure` is called is in no count and no time."""
    launch()
    prof = xsp.measure(model, x, **QUICK)
    assert prof.kernel_count == alone.kernel_count
    assert device_ms(prof) < 2 * device_ms(alone)
    assert prof.latency_ms < 10


@pytest.mark.parametrize("launch", [on_this_stream, on_a_side_stream])
def test_kernel_launched_in_the_block_is_none_of_the_models(
    launch: Callable[[], None], model: nn.Module, x: torch.Tensor, alone: xsp.Profile
) -> None:
    """A kernel that runs while the block calls the model is in no count and no time."""
    with xsp.profile(model, **QUICK) as prof:
        launch()
        model(x)
        launch()
    assert prof.kernel_count == alone.kernel_count
    assert device_ms(prof) < 2 * device_ms(alone)
    assert not [sentence for sentence in prof.warnings if "other-launches" in sentence]


def test_kernel_launched_before_the_loop_is_in_no_step(model: nn.Module, x: torch.Tensor) -> None:
    """A kernel that still runs when a loop begins, or that was launched by a step, is in no other
    step's time.
    """
    on_a_side_stream()
    with xsp.profile(model, warmup=1, **QUICK) as prof:
        on_a_side_stream()
        for _ in range(40):
            model(x)
            prof.step()
    assert device_ms(prof) < 1
    assert prof.kernel_count < 20


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that keeps a stream of its own busy with kernels of some 0.5 ms."""
    ended = threading.Event()

    def keep_busy() -> None:
        stream = torch.cuda.Stream()
        while not ended.is_set():
            with torch.cuda.stream(stream):
                torch.cuda._sleep(1_000_000)
            stream.synchronize()

    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_launches_of_another_thread_are_told(
    model: nn.Module, x: torch.Tensor, alone: xsp.Profile
) -> None:
    """What another thread runs meanwhile is in no layer's time, and the profile tells of it."""
    with busy_thread():
        prof = xsp.measure(model, x, **QUICK)
    assert any("other-launches" in sentence for sentence in prof.warnings)
    layers = prof.tree().query("level == 'LAYER' and name != '(outside layers)'")
    expected = alone.tree().query("level == 'LAYER'")
    assert layers["kernels"].sum() == expected["kernels"].sum()


def test_an_idle_gpu_is_told_of_nothing(alone: xsp.Profile) -> None:
    """Nothing is said where all was launched by the call."""
    assert not [sentence for sentence in alone.warnings if "other-launches" in sentence]
