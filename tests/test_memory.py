"""Bytes per layer are those the layer's tensors take, on the CPU here and by the same path on a
GPU.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from typing import Any

import pytest
import torch
from quick import LAYERS, TESTED, measured, profiled
from torch import nn

import xsp
from xsp.machine import torch_internals
from xsp.measuring.afterwards import memory

KIB = 1024


class Allocating(nn.Module):
    """Allocates scratch tensors of given sizes in bytes, one after the other, and returns its
    input.
    """

    def __init__(self, *sizes: int, together: bool = False) -> None:
        super().__init__()
        self.sizes, self.together = sizes, together

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held: list[Any] = []
        for size in self.sizes:
            scratch = torch.empty(size, dtype=torch.uint8)
            if self.together:
                held.append(scratch)
            del scratch
        return x


def rows(prof: xsp.Profile) -> Any:
    """The table of layers by name."""
    return prof.table("layers").set_index("name")


def test_layer_shows_the_bytes_it_allocates() -> None:
    """Allocations of known size are charged to the layer that makes them, and to no other."""
    model = nn.Sequential(Allocating(64 * KIB), Allocating(0), Allocating(16 * KIB, 32 * KIB))
    table = rows(profiled(model, torch.ones(1)))
    assert list(table.loc[["0", "1", "2"], "allocated_bytes"]) == [64 * KIB, 0, 48 * KIB]


def test_peak_counts_what_is_held_at_once() -> None:
    """Scratch that is held together raises the peak; scratch that is given back before the next
    does not.
    """
    one = Allocating(*[64 * KIB] * 4)
    many = Allocating(*[64 * KIB] * 4, together=True)
    table = rows(profiled(nn.Sequential(one, many), torch.ones(1)))
    assert table.loc["0", "allocated_bytes"] == table.loc["1", "allocated_bytes"] == 256 * KIB
    assert table.loc["1", "peak_bytes"] - table.loc["0", "peak_bytes"] == 192 * KIB


class Returning(nn.Module):
    """Allocates its output, which is all that it does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(64 * KIB, dtype=torch.uint8)


def test_peak_holds_what_a_layer_allocates_last() -> None:
    """From a layer's first change to its last one: the output that it ends with is in its peak."""
    table = rows(profiled(nn.Sequential(Allocating(0), Returning()), torch.ones(1)))
    assert table.loc["1", "peak_bytes"] - table.loc["0", "peak_bytes"] == 64 * KIB


class Elsewhere(nn.Module):
    """Calls its layer except while torch's profiler records."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.seldom = Allocating(KIB), Allocating(KIB)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.always(x)
        return x if torch_internals.is_profiling() else self.seldom(x)


def test_a_layer_that_did_not_run_then_is_not_known() -> None:
    """What a layer allocates is not known where the run that records memory lacks it."""
    table = rows(profiled(Elsewhere(), torch.ones(1)))
    assert table.loc["always", "allocated_bytes"] == KIB
    assert list(table.loc["seldom", ["allocated_bytes", "peak_bytes"]]) == [-1, -1]


def test_output_is_part_of_what_a_layer_allocates() -> None:
    """A linear layer allocates its output, and the peak while it runs is no less."""
    with torch.no_grad():
        table = rows(profiled(nn.Sequential(nn.Linear(64, 256)), torch.randn(32, 64)))
    output = 32 * 256 * 4
    assert table.loc["0", "allocated_bytes"] >= output
    assert table.loc["0", "peak_bytes"] >= output


def test_in_place_layer_allocates_nothing() -> None:
    """An in-place activation takes no memory of its own."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.ReLU())
    with torch.no_grad():
        table = rows(profiled(model, torch.randn(16, 8)))
    assert table.loc["1", "allocated_bytes"] == 0
    assert table.loc["2", "allocated_bytes"] == 16 * 8 * 4


def test_backward_allocates_the_gradients() -> None:
    """The backward of a linear layer allocates at least the gradient of its weights."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    table = measured(lambda x: model(x).sum().backward(), torch.randn(4, 64)).table("layers")
    backward = table[(table["name"] == "0") & (table["phase"] == "backward")]
    assert backward["allocated_bytes"].clip(lower=0).sum() >= 64 * 64 * 4


def test_memory_is_measured_on_a_run_that_leaves_no_profiler() -> None:
    """After a profile torch's own profiler can be used as before."""
    profiled(nn.Linear(4, 4), torch.randn(2, 4))
    with torch.profiler.profile() as profile:
        torch.ones(3) + 1
    assert any("add" in event.key for event in profile.key_averages())


def test_active_profiler_makes_memory_unknown_and_nothing_else() -> None:
    """While torch.profiler is running memory cannot be recorded: a sentence says so, times are
    there, -1 is not.
    """
    model = nn.Sequential(Allocating(64 * KIB))
    with torch.profiler.profile() as profile:
        prof = profiled(model, torch.ones(1))
    assert any("torch.profiler" in sentence and "stop it" in sentence for sentence in prof.warnings)
    assert rows(prof).loc["0", "allocated_bytes"] == -1
    assert prof.latency_ms > 0
    assert len(profile.key_averages()) > 0


def test_recording_that_fails_makes_memory_unknown_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A profile is not lost with its memory: a sentence says why memory is unknown, and times are
    there.
    """
    monkeypatch.setattr(memory, "record_function", None)
    with torch.no_grad():
        prof = profiled(nn.Sequential(nn.Linear(4, 4)), torch.ones(1, 4))
    assert any(
        "memory per layer is unknown" in sentence and "TypeError" in sentence
        for sentence in prof.warnings
    )
    assert rows(prof).loc["0", "allocated_bytes"] == -1
    assert prof.latency_ms > 0


def test_exception_of_the_target_in_the_memory_run_is_the_users() -> None:
    """What the program itself raises while memory is recorded passes through, with a note."""
    made: list[int] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return torch.relu(x)

    measured(counted, torch.ones(2))
    calls = count(1)

    def target(x: torch.Tensor) -> torch.Tensor:
        # The memory run is the last.
        return torch.relu(x) if next(calls) < len(made) else x @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size") as caught:
        measured(target, torch.ones(2))
    assert any("records memory" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("levels", ["M", "M/L"])
def test_memory_needs_no_gpu(levels: str) -> None:
    """Recording memory wakes up no CUDA context."""
    xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **{**LAYERS, "levels": levels})
    assert not torch.cuda.is_initialized()


def test_memory_is_recorded_without_the_compiler() -> None:
    """A first profile does not import inductor, which takes seconds and which a program that
    compiles nothing does not need.
    """
    program = (
        "import sys, torch, xsp\n"
        "model = torch.nn.Linear(4, 4)\n"
        "prof = xsp.measure(model, torch.ones(2, 4), levels='M/L', iterations=2, warmup=1,"
        " progress=False)\n"
        "known = (prof.table('layers')['allocated_bytes'] > 0).any()\n"
        "assert known and 'torch._inductor' not in sys.modules, known\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=TESTED)
