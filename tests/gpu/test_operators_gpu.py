"""Operators on a GPU: as many as torch.profiler counts, and each kernel below the one that launched
it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import xsp
from xsp.analysis.spans.ancestors import nearest
from xsp.types import Level

pytestmark = pytest.mark.gpu

ENGINE = "autograd::engine::evaluate_function: "


def training() -> Callable[[], None]:
    """A small network with convolutions, normalisation and products, forward and backward."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 15 * 15, 32),
    ).cuda()
    x = torch.randn(8, 3, 32, 32, device="cuda")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()

    return step


def attention() -> Callable[[], None]:
    """An encoder in half precision."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).cuda().half().eval()
    x = torch.randn(4, 20, 64, device="cuda", dtype=torch.half)

    def call() -> None:
        with torch.no_grad():
            model(x)

    return call


PROGRAMS = {"training": training, "attention": attention}


@pytest.fixture(scope="module", params=PROGRAMS)
def found(request: pytest.FixtureRequest) -> tuple[Callable[[], None], xsp.Profile]:
    """A program and its profile with all five levels."""
    target = PROGRAMS[request.param]()
    return target, xsp.measure(target, levels="M/L/O/Lib/K", iterations=8, progress=False)


def recorded_by_torch(target: Callable[[], None], folder: Path) -> list[dict[str, Any]]:
    """Events of torch.profiler's trace of one execution."""
    for _ in range(2):
        target()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
        target()
        torch.cuda.synchronize()
    session.export_chrome_trace(str(folder / "trace.json"))
    events: list[dict[str, Any]] = json.loads((folder / "trace.json").read_text())["traceEvents"]
    return events


def test_operators_and_kernels_are_those_of_torchs_profiler(found: Any, tmp_path: Path) -> None:
    """In every run each operator, and each kernel, is there as often as torch.profiler has it."""
    target, prof = found
    events = recorded_by_torch(target, tmp_path)
    operators = Counter(event["name"] for event in events if event.get("cat") == "cpu_op")
    operators = Counter({k: n for k, n in operators.items() if not k.startswith(ENGINE)})
    kernels = sum(event.get("cat") == "kernel" for event in events)
    spans = prof.spans
    for _, run in spans[spans["level"] == "OP"].groupby("run"):
        mine = Counter(run["name"].astype(str))
        # The last synchronisation of each call is this test's.
        assert mine == operators, (mine - operators, operators - mine)
    is_kernel = (prof.table("kernels")["kind"] == "kernel").to_numpy()
    real = spans[spans["level"] == "KERNEL"]
    real = real[is_kernel[real["detail"]]]
    assert set(real.groupby("run").size()) == {kernels}
    assert prof.lost == 0


def test_every_kernel_is_below_the_operator_that_launched_it(found: Any, tmp_path: Path) -> None:
    """For every kernel's name, how often which operator launched it is what torch.profiler has by
    its external ids.
    """
    target, prof = found
    events = recorded_by_torch(target, tmp_path)
    names = {
        event["args"]["External id"]: event["name"]
        for event in events
        if event.get("cat") == "cpu_op" and "External id" in event["args"]
    }
    theirs = Counter(
        (event["name"], names.get(event["args"].get("External id")))
        for event in events
        if event.get("cat") == "kernel"
    )
    spans, raw = prof.spans, prof.table("raw_spans")
    level, parent = raw["level"].to_numpy(), raw["parent"].to_numpy()
    last = prof.runs.loc[prof.runs["rung"] == "M/L/O/Lib/K", "run"].max()
    is_kernel = (prof.table("kernels")["kind"] == "kernel").to_numpy()
    rows = np.flatnonzero((level == Level.KERNEL) & (raw["run"] == last).to_numpy())
    rows = rows[is_kernel[raw["detail"].to_numpy()[rows]]]
    above = nearest(parent, level == Level.OP, parent[rows])
    assert (above >= 0).all()
    operator = spans["name"].astype(str).to_numpy()[above]
    kernel = spans["name"].astype(str).to_numpy()[rows]
    mine = Counter(zip(kernel.tolist(), operator.tolist(), strict=True))
    assert mine == theirs, (mine - theirs, theirs - mine)


def test_rows_add_up(found: Any) -> None:
    """Operators, library calls, kernels and what is left add up to the row above, in the host's
    time, the device's and the cost.
    """
    tree = found[1].tree()
    inner = tree[~tree["level"].isin(["KERNEL"])]
    known = tree.set_index("node")
    for column in ("host_ms", "device_ms", "latency_ms"):
        part = inner if column == "host_ms" else tree
        sums = part.groupby("parent")[column].sum().drop(-1)
        whole = known.loc[sums.index]
        kept = whole["level"].isin(["MODEL", "MODULE", "LAYER", "OP"]) & whole[column].notna()
        expected = whole.loc[kept, column]
        np.testing.assert_allclose(sums[kept], expected, rtol=1e-6, atol=1e-9)


def test_the_rungs(found: Any) -> None:
    """Each level has a rung of its own, and operators are in those from M/L/O on."""
    prof = found[1]
    ladder = ["M", "M/L", "M/L/O", "M/L/O/Lib", "M/L/O/Lib/K"]
    assert sorted(prof.runs["rung"].unique(), key=len) == ladder
    assert isinstance(prof.closure_error, pd.DataFrame)
    assert list(prof.closure_error.index) == ladder[1:]
    assert "operator" in set(prof.costs["kind"])
