"""Benchmarks of layers, bounds and what-if on a GPU, each against an independent measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Convolutional, Transformer, ready
from timed_calls import timed
from torch import nn
from torch.nn import functional as F

import xsp
from xsp.bounds.algorithms import candidates, has_eight_bits, precisions, tools
from xsp.bounds.lower_bound import lower_bound
from xsp.bounds.running import measure_missing
from xsp.bounds.timers import GraphTimer, KernelTimer, timer_for
from xsp.bounds.torch_calls import operands
from xsp.bounds.variants import in_eight_bits
from xsp.bounds.wanted import Wanted, wanted_of
from xsp.database.store import Store
from xsp.graphs.from_export import graph_of
from xsp.graphs.layer import Layer, TensorType

pytestmark = pytest.mark.gpu


def linear(rows: int, columns: int, dtype: str = "float16") -> Layer:
    shape = TensorType((rows, columns), dtype)
    return Layer("", "linear", (shape,), (TensorType((columns, columns), dtype),), (shape,))


def convolution(dtype: str = "float16") -> Layer:
    return Layer(
        "",
        "convolution",
        (TensorType((8, 64, 56, 56), dtype),),
        (TensorType((64, 64, 3, 3), dtype),),
        (TensorType((8, 64, 56, 56), dtype),),
        {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1},
    )


def by_events_us(call: Any, calls: int = 200) -> float:
    """Mean of many calls between two events: right for kernels longer than their launch."""
    for _ in range(20):
        call()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    elapsed_ms: float = first.elapsed_time(last)
    return elapsed_ms * 1e3 / calls


def on_gpu(kind: type[nn.Module]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    model, inputs = ready(kind)
    return model.cuda(), tuple(each.cuda() for each in inputs)


def test_kernel_records_are_the_timer_here() -> None:
    """With CUPTI at hand kernels are timed by their records."""
    assert isinstance(timer_for("cuda"), KernelTimer)


def test_a_long_kernel_takes_what_events_say() -> None:
    """A product of 4096 x 4096 matrices: by kernel records within 10 % of two events around 200."""
    (candidate, *_) = candidates(linear(4096, 4096), "fp16", "cuda")
    call = candidate.prepare()
    found = timed(timer_for("cuda"), call, "warm", budget_s=5)
    assert found.time_ns / 1e3 == pytest.approx(by_events_us(call), rel=0.1)


def test_a_captured_graph_takes_no_less() -> None:
    """The graph's time has the gaps between kernels in it, the records' time has not."""
    (candidate, *_) = candidates(linear(1024, 1024), "fp16", "cuda")
    call = candidate.prepare()
    records = timed(timer_for("cuda"), call, "warm", budget_s=2)
    graph = timed(GraphTimer(), call, "warm", budget_s=2)
    assert records.time_ns < 1.05 * graph.time_ns


def test_cold_caches_are_slower() -> None:
    """A ReLU over 8 MB that must come from memory takes longer than one from the cache."""
    kind = TensorType((4 << 20,), "float16")
    (candidate, *_) = candidates(Layer("", "relu", (kind,), (), (kind,)), "fp16", "cuda")
    timer, call = timer_for("cuda"), candidate.prepare()
    cold, warm = (timed(timer, call, caches, budget_s=2).time_ns for caches in ("cold", "warm"))
    assert cold > 1.2 * warm


@pytest.mark.parametrize("kind", [Convolutional, Transformer])
def test_every_layer_runs_through_every_algorithm(kind: type[nn.Module], tmp_path: Path) -> None:
    """Of a model's layers, in all variants, each has an algorithm that runs; failures say why."""
    model, inputs = on_gpu(kind)
    graph = graph_of(model, inputs)
    with Store(tmp_path / "layers.sqlite") as store:
        wanted = wanted_of([graph], "cuda")
        measure_missing(store, wanted, "cuda", each_s=0.05, progress=False)
        entries = store.entries()
    ran = {entry.layer.digest for entry in entries if entry.time_ns is not None}
    assert {layer.digest for layer in graph.layers} <= ran
    assert all(e.failure or e.time_ns or e.algorithm == "(all algorithms)" for e in entries)


def test_algorithms_of_a_convolution_agree() -> None:
    """PyTorch's choice, its trials and every plan of cuDNN give the same result; flags are as
    before afterwards.
    """
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    results = []
    for each in candidates(convolution(), "fp16", "cuda"):
        if each.algorithm.startswith("torch"):
            torch.manual_seed(0)
            with each.under(), torch.inference_mode():
                results.append(each.prepare()())
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1e-1)
    assert before == (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)


@pytest.mark.skipif(
    not (torch.cuda.is_available() and has_eight_bits("cuda")), reason="the GPU has no 8-bit floats"
)
def test_eight_bits_are_faster_and_compute_the_same() -> None:
    """A product of 4096 x 4096 matrices in 8 bits is faster than in 16, and is that of its rounded
    inputs.
    """
    layer = linear(4096, 4096)
    short = in_eight_bits(layer)
    assert short is not None
    torch.manual_seed(0)
    (candidate,) = candidates(short, "fp8", "cuda")
    call = candidate.prepare()
    torch.manual_seed(0)
    (source, *_), (weight, *_) = operands(short, "cuda")
    exact = source.float() @ weight.float().t()
    torch.testing.assert_close(call().float(), exact, rtol=2e-2, atol=1.0)
    (sixteen, *_) = candidates(layer, "fp16", "cuda")
    timer = timer_for("cuda")
    times = [timed(timer, each, "warm").time_ns for each in (call, sixteen.prepare())]
    assert times[0] < 0.8 * times[1]


def test_tf32_is_another_precision() -> None:
    """float32 products are offered with and without TF32, and TF32 is faster."""
    layer = linear(4096, 4096, "float32")
    assert precisions(layer, "cuda") == ["fp32", "tf32"]
    times = {}
    for precision in precisions(layer, "cuda"):
        (candidate, *_) = candidates(layer, precision, "cuda")
        with candidate.under():
            times[precision] = timed(timer_for("cuda"), candidate.prepare(), "warm").time_ns
    assert times["tf32"] < 0.7 * times["fp32"]


@pytest.mark.skipif(
    tools()["nvidia-cudnn-frontend"] is None, reason="nvidia-cudnn-frontend is not installed"
)
def test_plans_compute_in_the_precision_that_they_stand_for() -> None:
    """Of a float32 convolution no plan of "fp32" rounds its inputs, and each of "tf32" does: its
    error against float64 is a thousandth, not a millionth.
    """
    layer = convolution("float32")
    torch.manual_seed(0)
    (x, *_), (w, *_) = operands(layer, "cuda")
    exact = F.conv2d(x.double(), w.double(), padding=1)
    errors: dict[str, list[float]] = {}
    for precision in ("fp32", "tf32"):
        torch.manual_seed(0)
        offered = [
            each for each in candidates(layer, precision, "cuda") if "cuDNN" in each.algorithm
        ]
        for each in offered:
            try:
                result = each.prepare()()
            except Exception:  # a plan that cannot run says so in the database
                continue
            error = float((result - exact).abs().max() / exact.abs().max())
            errors.setdefault(precision, []).append(error)
    assert max(errors["fp32"]) < 3e-5
    assert min(errors["tf32"]) > 5e-5


@pytest.mark.skipif(
    tools()["nvidia-cudnn-frontend"] is None, reason="nvidia-cudnn-frontend is not installed"
)
def test_cudnn_offers_many_plans(tmp_path: Path) -> None:
    """cuDNN's plans run and the best is no slower than PyTorch's choice."""
    with Store(tmp_path / "layers.sqlite") as store:
        measure_missing(store, [Wanted(convolution(), "fp16")], "cuda", progress=False)
        entries = [entry for entry in store.entries() if entry.time_ns is not None]
    plans = [entry for entry in entries if entry.algorithm.startswith("cuDNN")]
    choice = next(entry for entry in entries if entry.algorithm == "torch")
    assert len(plans) > 3
    assert min(entry.time_ns or 0 for entry in plans) < 1.05 * (choice.time_ns or 0)


@pytest.mark.skipif(tools()["nvmath-python"] is None, reason="nvmath-python is not installed")
def test_cublaslt_offers_many_algorithms(tmp_path: Path) -> None:
    """cuBLASLt's algorithms run and the best is no slower than PyTorch's choice."""
    with Store(tmp_path / "layers.sqlite") as store:
        measure_missing(store, [Wanted(linear(1024, 1024), "fp16")], "cuda", progress=False)
        entries = [entry for entry in store.entries() if entry.time_ns is not None]
    offered = [entry for entry in entries if entry.algorithm.startswith("cuBLASLt")]
    choice = next(entry for entry in entries if entry.algorithm == "torch")
    assert len(offered) > 3
    assert min(entry.time_ns or 0 for entry in offered) < 1.05 * (choice.time_ns or 0)


def test_the_bound_is_below_the_gpus_busy_time(tmp_path: Path) -> None:
    """Layers at their best, alone, take no longer than the model keeps the GPU busy."""
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(6)], nn.ReLU()).eval().cuda()
    x = torch.randn(2048, 2048, device="cuda")
    with torch.no_grad():
        prof = xsp.measure(model, x, iterations=10, progress=False)
    graph = graph_of(model, (x,))
    with Store(tmp_path / "layers.sqlite") as store:
        measure_missing(store, wanted_of([graph], "cuda"), "cuda", progress=False)
        found = lower_bound(prof, store, graph=graph)
    busy = float(prof.tree()["device_ms"].iloc[0])
    assert found.sequential_ms < 1.03 * busy
    assert found.sequential_ms > 0.5 * busy


def in_turn_ms(*calls: Callable[[], Any], rounds: int = 60) -> list[float]:
    """Medians from the call to the end of the wait, of calls made in turn."""
    took: list[list[int]] = [[] for _ in calls]
    for _ in range(rounds):
        for place, call in enumerate(calls):
            torch.cuda.synchronize()
            begin = time.perf_counter_ns()
            call()
            torch.cuda.synchronize()
            took[place].append(time.perf_counter_ns() - begin)
    return [float(np.median(each)) / 1e6 for each in took]


def test_a_cuda_graph_gains_what_was_predicted() -> None:
    """Forty small layers in one CUDA graph: what is predicted to be gained is the difference from a
    replay and the wait for it, to 20 % or 0.1 ms.
    """
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(40)]).eval().cuda().half()
    x = torch.randn(64, 256, device="cuda").half()
    with torch.no_grad():
        prof = xsp.measure(model, x, iterations=15, progress=False)
        predicted = prof.what_if(cuda_graph="*").predicted_ms
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(x)
        eager, took = in_turn_ms(lambda: model(x), graph.replay)
    assert abs(predicted - took) < max(0.2 * (eager - took), 0.1)
