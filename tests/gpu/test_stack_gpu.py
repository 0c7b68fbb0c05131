"""All levels together on a real GPU, on the three programs whose captures are bundled."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.profiler import ProfilerActivity

import xsp

sys.path.append(str(Path(__file__).parents[2] / "examples"))
resnet50, train_step, transformer = (
    importlib.import_module(name) for name in ("resnet50", "train_step", "transformer")
)

pytestmark = pytest.mark.gpu


def _inference(module: Any, **options: Any) -> Callable[[], torch.Tensor]:
    model, inputs = module.target(device="cuda", dtype=torch.float16, **options)

    def call() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        return output

    call.model, call.inputs = model, inputs  # type: ignore[attr-defined]
    return call


TARGETS: dict[str, Callable[[], Callable[[], Any]]] = {
    "resnet50 b32": lambda: _inference(resnet50, batch=32),
    "gpt2 b1": lambda: _inference(transformer, batch=1),
    "train step b32": lambda: train_step.target(batch=32, device="cuda"),
}


@pytest.fixture(scope="module", params=list(TARGETS))
def measured(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[str, Callable[[], Any], xsp.Profile]]:
    """A target and its profile."""
    target = TARGETS[request.param]()
    yield request.param, target, xsp.measure(target, iterations=4, progress=False)
    torch.cuda.empty_cache()


def _torch_profiler_kernels(call: Callable[[], Any]) -> pd.Series:
    """Kernel names of one call as torch.profiler sees it, with their counts."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]
    ) as profile:
        call()
        torch.cuda.synchronize()
    # Ranges such as `Optimizer.step#SGD.step` are shown on the GPU's track too, and run nothing.
    on_gpu = [
        event.name
        for event in profile.events()
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    return pd.Series([name for name in on_gpu if not name.startswith(("Memcpy", "Memset"))])


def test_every_level_is_traced_and_nothing_is_lost(measured: Any) -> None:
    """On a GPU all four levels are traced, without lost, orphaned or unmatched events."""
    _, _, prof = measured
    levels = prof.levels.set_index("level")["status"]
    assert set(levels.drop("OP")) == {"traced"}, prof.levels.to_dict("records")
    assert prof.lost == 0
    assert prof.runs["unmatched"].sum() == 0, prof.warnings


def test_as_many_kernels_as_torch_profiler_sees(measured: Any) -> None:
    """Every run holds exactly the kernels that torch.profiler reports for the same call, which
    works afterwards too.
    """
    _, target, prof = measured
    seen = _torch_profiler_kernels(target).value_counts()
    assert len(seen) > 0
    kernels = prof.table("kernels")
    spans = prof.spans[prof.spans["level"] == "KERNEL"]
    real = spans[kernels["kind"].to_numpy()[spans["detail"]] == "kernel"]
    for _, run in real.groupby("run"):
        counts = run["name"].astype(object).value_counts()
        difference = counts.sub(seen, fill_value=0)
        assert int(counts.sum()) == int(seen.sum()), difference[difference != 0].to_dict()


def test_every_kernel_has_its_chain_of_parents(measured: Any) -> None:
    """Each kernel leads through a library call, where there is one, and a layer to the model call
    of its run.
    """
    name, _, prof = measured
    spans = prof.spans
    row = pd.Series(np.arange(len(spans)), index=spans["span_id"])
    kernels = spans[spans["level"] == "KERNEL"]
    assert len(kernels)
    levels, names = spans["level"].to_numpy(), spans["name"].to_numpy(dtype=object)
    current = row[kernels["parent_id"]].to_numpy()
    current = np.where(
        levels[current] == "LIBRARY",
        row.reindex(spans["parent_id"].to_numpy()[current]).to_numpy(),
        current,
    )
    current = current.astype(int)
    assert (levels[current] == "LAYER").all()
    outside = kernels["name"].to_numpy(dtype=object)[names[current] == "(outside layers)"]
    assert not len(outside), (name, sorted(set(outside)))
    while (levels[current] == "LAYER").any():
        inner = levels[current] == "LAYER"
        current[inner] = row[spans["parent_id"].to_numpy()[current[inner]]].to_numpy()
    assert (levels[current] == "MODEL").all()
    assert (spans["run"].to_numpy()[current] == kernels["run"].to_numpy()).all()


def test_resnet_library_calls_have_the_models_arithmetic() -> None:
    """ResNet-50 makes 53 cuDNN convolutions that multiply out to the model's 8.2 GFLOP an image,
    and one GEMM.
    """
    batch = 32
    prof = xsp.measure(_inference(resnet50, batch=batch), iterations=1, progress=False)
    calls = prof.table("library_calls")
    spans = prof.spans
    deepest = spans[
        (spans["run"] == prof.runs.query("deepest == 'KERNEL'")["run"].iloc[0])
        & (spans["level"] == "LIBRARY")
    ]
    made = calls.loc[deepest["detail"]]
    convolutions = made[made["name"] == "cudnnBackendExecute"]
    gemms = made[made["name"] == "cublasLtMatmul"]
    assert len(convolutions) == 53
    assert len(gemms) == 1
    arguments = json.loads(gemms["arguments"].iloc[0])
    assert sorted([arguments["m"], arguments["n"], arguments["k"]]) == sorted(
        [1000, batch, 2048]
    ), arguments
    total = float(made["flops"].sum())
    assert total == pytest.approx(8.2e9 * batch, rel=0.01)


def test_outputs_are_identical_with_and_without_xsp() -> None:
    """A profiled model computes the same bits before, inside and after, and keeps its buffers and
    random state.
    """
    model, inputs = resnet50.target(batch=8, device="cuda", dtype=torch.float16)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = inputs[0] if isinstance(inputs, tuple) else inputs
    with torch.no_grad():
        expected = model(x)
    model.load_state_dict(state)
    with xsp.profile(model, iterations=1, progress=False) as prof, torch.no_grad():
        inside = model(x)
    after_once = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.cuda.get_rng_state()
    assert torch.equal(inside, expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in after_once.items())
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert prof.kernel_count > 0


def test_kernels_start_after_their_launch(measured: Any) -> None:
    """On the common clock no kernel starts before the API call that launched it by more than the
    clock's error.
    """
    _, _, prof = measured
    spans = prof.spans[prof.spans["level"] == "KERNEL"]
    launches = prof.table("api_calls").drop_duplicates(["run", "correlation_id"])
    joined = spans.merge(launches, on=["run", "correlation_id"], suffixes=("", "_launch"))
    assert len(joined) == len(spans)
    early = (joined["start_ns_launch"] - joined["start_ns"]).max()
    assert early <= (prof.clock or {})["error_ns"]
