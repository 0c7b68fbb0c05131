"""Hardware counters on a real GPU, against work whose operations and bytes are known beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.analysis.work.counters import counted_work, quantity

pytestmark = pytest.mark.gpu

N = 2048
ELEMENTS = 1 << 26


def counted(target: Callable[[], object], *metrics: str) -> xsp.Profile:
    """A short profile with counters."""
    return xsp.measure(target, iterations=2, warmup=2, metrics=metrics, progress=False)


def facts(prof: xsp.Profile) -> dict[str, object]:
    """What the capture says about its counters."""
    found: dict[str, object] = prof._capture.meta["counters"]
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_matrix_product_has_two_operations_per_term(dtype: torch.dtype) -> None:
    """The tensor cores' counters give 2 n^3 for an n by n product, for every type that runs on
    them.
    """
    a, b = (
        torch.randn(N, N, device="cuda", dtype=dtype),
        torch.randn(N, N, device="cuda", dtype=dtype),
    )
    prof = counted(lambda: a @ b, "flops")
    assert facts(prof)["why"] is None
    work = counted_work(prof.table("counters"))
    assert work["flops_tensor"].sum() == pytest.approx(2 * N**3, rel=0.02)
    assert work["flops"].sum() == pytest.approx(2 * N**3, rel=0.05)


def test_single_precision_runs_on_the_cores() -> None:
    """A float32 product without TF32 is counted on the CUDA cores, not on the tensor cores."""
    a, b = torch.randn(N, N, device="cuda"), torch.randn(N, N, device="cuda")
    work = counted_work(counted(lambda: a @ b, "flops").table("counters"))
    assert work["flops_fp32"].sum() == pytest.approx(2 * N**3, rel=0.05)
    assert work["flops_tensor"].sum() == 0


def test_copy_reads_and_writes_its_bytes() -> None:
    """A copy of 256 MiB, five times the L2 cache, reads and writes that much DRAM."""
    source, target = torch.ones(ELEMENTS, device="cuda"), torch.empty(ELEMENTS, device="cuda")
    prof = counted(lambda: torch.mul(source, 1.5, out=target), "dram", "occupancy", "l2")
    work = counted_work(prof.table("counters")).iloc[0]
    assert work["dram_read_bytes"] == pytest.approx(4 * ELEMENTS, rel=0.05)
    # What still lies in the L2 cache when the kernel ends is written later.
    assert 0.7 * 4 * ELEMENTS < work["dram_write_bytes"] < 1.05 * 4 * ELEMENTS
    assert work["l2_bytes"] >= 0.95 * 8 * ELEMENTS
    assert 0 < work["occupancy"] <= 1


def network() -> tuple[torch.nn.Module, torch.Tensor]:
    """Ten equal blocks and one more."""
    torch.manual_seed(0)
    blocks = [layer for _ in range(10) for layer in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())]
    model = (
        torch.nn.Sequential(*blocks, torch.nn.Linear(1024, 512))
        .half()
        .cuda()
        .eval()
        .requires_grad_(False)
    )
    return model, torch.randn(512, 1024, device="cuda", dtype=torch.float16)


def test_operations_repeat_and_agree_with_the_shapes() -> None:
    """The operations of a network are those of its shapes, and repeated counts of them
    are equal.
    """
    model, x = network()
    prof = xsp.measure(model, x, iterations=2, warmup=2, metrics=("flops",), progress=False)
    found = facts(prof)
    assert found["measured"] == len(kernel_sequence(prof._capture.tables))
    work = counted_work(prof.table("counters"))
    assert work["flops_tensor"].sum() == pytest.approx(2 * 512 * 1024 * (10 * 1024 + 512), rel=0.02)
    spread: dict[str, float | None] = prof._capture.meta["counters"]["spread"]
    assert max(value for value in spread.values() if value is not None) < 0.001


def test_counting_changes_neither_results_nor_durations() -> None:
    """With counters a profile has the same kernels, and the model gives the same output
    afterwards.
    """
    model, x = network()
    before = model(x)
    plain = xsp.measure(model, x, iterations=3, progress=False)
    with_counters = xsp.measure(
        model, x, iterations=3, metrics=("dram", "occupancy"), progress=False
    )
    assert facts(with_counters)["why"] is None
    names = [list(kernel_sequence(prof._capture.tables)["name"]) for prof in (plain, with_counters)]
    assert names[0] == names[1]
    assert with_counters.latency_ms < 3 * plain.latency_ms
    assert torch.equal(model(x), before)


def test_other_profilers_work_afterwards() -> None:
    """After counting, torch.profiler sees every kernel, and xsp's own KERNEL level does."""
    model, x = network()
    prof = xsp.measure(model, x, iterations=2, metrics=("dram",), progress=False)
    model(x)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        model(x)
        torch.cuda.synchronize()
    kernels = [
        event
        for event in seen.events()
        if event.device_type.name == "CUDA" and not event.name.startswith("Mem")
    ]
    assert len(kernels) == len(kernel_sequence(prof._capture.tables))
    again = xsp.measure(model, x, iterations=2, progress=False)
    assert len(kernel_sequence(again._capture.tables)) == len(kernels)


FLUSHED = """
import json, torch, xsp
x, y = torch.ones(1 << 22, device="cuda"), torch.empty(1 << 22, device="cuda")
def twice():
    torch.mul(x, 2.0, out=y)
    torch.mul(x, 3.0, out=y)
told = {}
for caches in ("flushed", "in place", "flushed"):
    prof = xsp.measure(twice, iterations=2, warmup=2, metrics="dram", caches=caches, progress=False)
    facts = prof._capture.meta["counters"]
    counters = prof.table("counters")
    said = facts["why"] or counters["dram__bytes_read.sum"].tolist()
    told[caches] = [facts["cache"], said]
    told.setdefault("first", told["flushed"])
print(json.dumps(told))
"""


def test_flushed_caches_have_every_kernel_read_its_input(tmp_path: Path) -> None:
    """16 MiB that two kernels read come from memory twice with flushed caches, and from the cache
    in place.

    A process of its own: CUPTI tells one listener of launches, which torch.profiler stays once it
    was used, by xsp too.
    """
    done = subprocess.run(
        [sys.executable, "-c", FLUSHED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    policy, flushed = told["first"]
    assert policy == "flushed"
    assert flushed == [pytest.approx(4 << 22, rel=0.05)] * 2
    policy, in_place = told["in place"]
    assert policy == "in place"
    assert in_place[1] < 0.5 * (4 << 22)
    assert "torch.profiler" in told["flushed"][1]


def test_exception_while_counting_leaves_the_gpu_usable() -> None:
    """A target that fails while it is being counted fails as it would alone, and can be counted
    again.
    """
    x = torch.ones(1024, device="cuda")
    calls = []

    def fragile() -> torch.Tensor:
        calls.append(1)
        if len(calls) == failing:
            raise ValueError("broken on purpose")
        return x * 2

    failing = 10**9
    counted(fragile, "dram")
    failing, runs = len(calls), len(calls)
    calls.clear()
    with pytest.raises(ValueError, match="on purpose"):
        counted(fragile, "dram")
    assert len(calls) == runs
    failing = 10**9
    assert facts(counted(fragile, "dram"))["why"] is None


def test_unknown_metric_is_named_and_the_rest_collected() -> None:
    """A metric that the chip lacks is a warning with near names; the others are there."""
    x = torch.ones(1 << 20, device="cuda")
    prof = counted(lambda: x * 2, "dram__bytes_red.sum", "dram")
    assert any(
        "dram__bytes_red.sum" in sentence and "dram__bytes_read" in sentence
        for sentence in prof.warnings
    )
    assert counted_work(prof.table("counters"))["dram_read_bytes"].notna().all()


def test_metric_of_several_passes_gets_several_runs() -> None:
    """Operations on int8 take an H100 two passes; they are those of the shapes too."""
    a = torch.ones(N, N, device="cuda", dtype=torch.int8)
    prof = counted(lambda: torch._int_mm(a, a), "tensor")
    assert facts(prof)["why"] is None
    assert quantity(prof.table("counters"), "tensor_int8").sum() == pytest.approx(
        2 * N**3, rel=0.02
    )


def test_cuda_graphs_are_refused_with_a_reason() -> None:
    """A target that replays a CUDA graph has no counters, and a warning that says why."""
    x = torch.ones(1 << 20, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x * 2
    prof = counted(graph.replay, "dram")
    assert "CUDA graphs" in str(facts(prof)["why"])
    assert prof.table("counters").empty


def test_backward_is_counted() -> None:
    """A training step, whose backward kernels another thread launches, is counted: three products
    of forward size.
    """
    torch.manual_seed(0)
    layer = torch.nn.Linear(N, N, device="cuda", dtype=torch.float16)
    x = torch.randn(N, N, device="cuda", dtype=torch.float16, requires_grad=True)

    def step() -> None:
        layer(x).sum().backward()
        layer.zero_grad()
        x.grad = None

    prof = counted(step, "flops")
    assert facts(prof)["why"] is None
    work: pd.DataFrame = counted_work(prof.table("counters"))
    assert np.nansum(work["flops_tensor"]) == pytest.approx(3 * 2 * N**3, rel=0.02)
