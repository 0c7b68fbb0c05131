"""Parts of a training step on a GPU: each has the kernels, copies and sets that torch.profiler
counts within it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from training_steps import (
    OPTIMIZERS,
    SCALING,
    Event,
    Step,
    counted_by_torch,
    counted_by_xsp,
    mixed_precision,
)

import xsp
from xsp.types import Level

pytestmark = pytest.mark.gpu

DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")


def launched(step: Step, folder: Path) -> Counter[str]:
    """Kernels, copies and sets of one step, by the part that they are launched in."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
        step()
        torch.cuda.synchronize()
    session.export_chrome_trace(str(folder / "trace.json"))
    events: list[Event] = json.loads((folder / "trace.json").read_text())["traceEvents"]
    launches = {
        event["args"]["correlation"]: event for event in events if event.get("cat") in LAUNCHES
    }
    device = [event for event in events if event.get("cat") in DEVICE]
    return counted_by_torch(events, [launches[each["args"]["correlation"]] for each in device])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_part_has_the_kernels_that_torchs_profiler_counts(kind: str, tmp_path: Path) -> None:
    """In every run: the optimizer, clipping, scaling and `zero_grad` each, what lies in none of
    them together; and a copy of data is a row.
    """
    step = mixed_precision(OPTIMIZERS[kind], "cuda")
    theirs = launched(step, tmp_path)
    prof = xsp.measure(step, levels="M/L/Lib/K", iterations=4, progress=False)
    optimizer = "SGD" if kind == "single tensor" else "AdamW"
    parts = {f"{optimizer}.zero_grad", f"{optimizer}.step", "clip_grad_norm_"}
    assert {*parts, *SCALING, "step::to"} <= set(prof.tree()["name"])
    assert parts <= set(theirs)
    for mine in counted_by_xsp(prof, Level.KERNEL):
        assert mine == theirs, (mine - theirs, theirs - mine)
    assert prof.lost == 0
    assert not prof.runs["unmatched"].any()


def test_kernels_of_an_optimizer_are_below_its_operator() -> None:
    """And that is below the optimizer."""
    step = mixed_precision(OPTIMIZERS["fused"], "cuda")
    prof = xsp.measure(step, levels="M/L/O/Lib/K", iterations=4, progress=False)
    tree = prof.tree()
    fused = tree[(tree["name"] == "aten::_fused_adamw_") & (tree["kernels"] > 0)]
    assert len(fused)
    assert fused["path"].str.contains("/AdamW.step/", regex=False).all()
