"""Programs on another GPU than the current one, and on two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import xsp
from xsp.analysis.work.counters import counted_work

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.device_count() < 2, reason="this machine has fewer than two GPUs"
    ),
]

N = 1024


class Asleep(nn.Module):
    """Keeps its input's GPU busy for about `ms`, whichever GPU is the current one."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.cycles = int(ms * 1.9e6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.cuda.device(x.device):
            torch.cuda._sleep(self.cycles)
        return x


class TwoStages(nn.Module):
    """A pipeline over two GPUs; its output is on the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(N, N), nn.ReLU()).to("cuda:0")
        self.second = nn.Sequential(nn.Linear(N, N), Asleep(20.0)).to("cuda:1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(self.first(x).to("cuda:1"))
        return output


def test_another_gpu_than_the_current_one_is_waited_for() -> None:
    """A model on GPU 1 takes as long as its kernels, though GPU 0 is the current one, which it
    stays.
    """
    model, x = (
        nn.Sequential(nn.Linear(N, N), Asleep(30.0)).to("cuda:1").half(),
        torch.randn(N, N).half().to("cuda:1"),
    )
    with torch.no_grad():
        prof = xsp.measure(model, x, iterations=5, metrics="tensor", progress=False)
    busy = prof.tree()["device_ms"].iloc[0]
    assert busy > 20
    assert prof.latency_ms == pytest.approx(busy, rel=0.1)
    assert prof.lost == 0
    assert torch.cuda.current_device() == 0
    assert prof._capture.meta["counters"]["why"] is None
    assert counted_work(prof.table("counters"))["flops_tensor"].sum() == pytest.approx(
        2 * N**3, rel=0.02
    )


def test_two_gpus_are_waited_for_and_told() -> None:
    """Kernels of both GPUs are under their layers; a warning says what cannot be told apart, and
    none are counted.
    """
    with torch.no_grad():
        prof = xsp.measure(
            TwoStages(),
            torch.randn(N, N, device="cuda:0"),
            iterations=5,
            metrics="dram",
            progress=False,
        )
    layers = prof.tree().query("level == 'LAYER'").set_index("name")
    assert layers["device_ms"]["second.1"] > 15
    assert (layers.loc[["first.0", "first.1", "second.0"], "kernels"] > 0).all()
    assert prof.latency_ms > 15
    assert any(sentence.endswith("[several-gpus]") for sentence in prof.warnings)
    assert "2 CUDA contexts" in prof._capture.meta["counters"]["why"]
    assert prof.table("raw_spans").query("level == 3")["context"].nunique() == 2


ONLY_THE_SECOND = """
import json, torch, xsp
model, x = torch.nn.Linear(64, 64, device="cuda:1"), torch.ones(64, 64, device="cuda:1")
def woken():
    return torch._C._cuda_hasPrimaryContext(0)
before = woken()
prof = xsp.measure(model, x, iterations=2, progress=False)
print(json.dumps([before, woken(), prof.kernel_count]))
"""


def test_a_gpu_that_the_program_leaves_alone_is_left_alone(tmp_path: Path) -> None:
    """Profiling a model on GPU 1 creates no context on GPU 0, which would take memory there."""
    done = subprocess.run(
        [sys.executable, "-c", ONLY_THE_SECOND],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    before, after, kernels = json.loads(done.stdout.splitlines()[-1])
    assert not before
    assert not after
    assert kernels > 0
