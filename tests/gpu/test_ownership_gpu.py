"""On a GPU: fast paths stay on, and compiled and distributed work stands under what did it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

import xsp

pytestmark = pytest.mark.gpu

QUICK: dict[str, Any] = {"iterations": 3, "progress": False}


def kernels_by_row(prof: xsp.Profile) -> pd.DataFrame:
    """Name, phase and kernels of each layer that has kernels."""
    layers = prof.tree().query("level == 'LAYER' and kernels > 0")
    return layers[["name", "phase", "kernels"]]


def test_encoder_runs_the_kernels_that_it_runs_unwatched() -> None:
    """nn.TransformerEncoder launches as many kernels with all levels traced as with KERNEL alone:
    its fast path stays on.
    """
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda().eval()
    x = torch.randn(4, 16, 64, device="cuda")

    def infer() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = model(x)
            return output

    alone = xsp.measure(infer, levels="M/K", **QUICK)
    every = xsp.measure(infer, **QUICK)
    assert every.kernel_count == alone.kernel_count
    assert not [sentence for sentence in every.warnings if "changed-work" in sentence]
    fused = kernels_by_row(every)["name"].str.contains("transformer_encoder_layer_fwd")
    assert fused.sum() == 2


def test_compiled_backward_stands_under_its_forward() -> None:
    """Every kernel of a compiled backward is its compiled forward's, in phase backward, and none
    is without an owner.
    """
    torch._dynamo.reset()

    @torch.compile
    def between(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x @ x) @ x

    first = nn.Linear(64, 64, device="cuda")

    def step() -> None:
        between(first(torch.ones(64, 64, device="cuda"))).sum().backward()

    rows = kernels_by_row(xsp.measure(step, **QUICK))
    between_rows = rows[rows["name"] == "step::between"]
    forward = between_rows[between_rows["phase"] == "forward"]
    backward = between_rows[between_rows["phase"] == "backward"]
    assert forward["kernels"].sum() >= 3
    assert backward["kernels"].sum() >= 4
    assert not rows["name"].str.contains("::mm|no owner").any()


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone."""
    store = dist.HashStore()  # type: ignore[attr-defined] # public, and exported silently
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradient_buckets_hold_their_kernels() -> None:
    """With DistributedDataParallel a linear layer's backward has the kernels that computing its
    gradients takes; keeping them, buckets and their reduction have rows of their own, and no kernel
    is in none.
    """
    plain = nn.Linear(64, 64, device="cuda")
    parallel = nn.parallel.DistributedDataParallel(nn.Linear(64, 64, device="cuda"))
    x = torch.randn(8, 64, device="cuda")

    def gradients() -> None:
        # No accumulator runs here, so that these kernels are the layer's alone.
        torch.autograd.grad(plain(x).sum(), list(plain.parameters()))

    def step() -> None:
        parallel(x).sum().backward()

    alone = xsp.measure(step, levels="M/K", **QUICK)
    whole = xsp.measure(step, **QUICK)
    rows = kernels_by_row(whole)
    assert rows["kernels"].sum() == whole.kernel_count == alone.kernel_count
    own = backward_kernels(rows, "module")
    assert own == backward_kernels(kernels_by_row(xsp.measure(gradients, **QUICK)), "plain") > 0
    shared = ["(gradient buckets)", "(gradient synchronization)"]
    # Adding each of two gradients to the one that is there, and its copy into the bucket.
    assert sum(backward_kernels(rows, name) for name in shared) >= 4


def backward_kernels(rows: pd.DataFrame, name: str) -> int:
    """Backward kernels of the layer with this name."""
    of_layer = rows[(rows["name"] == name) & (rows["phase"] == "backward")]
    return int(of_layer["kernels"].sum())
