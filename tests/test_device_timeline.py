"""The device's time, divided without rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from operations import operations_are_kernels
from torch import nn

import xsp
from xsp.analysis.spans.corrected_times import timeline_spans
from xsp.analysis.spans.statistics import trimmed
from xsp.types import Level


def test_timeline_of_several_calls_adds_up_to_their_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies between the calls of a block is in no row: rows add up to the latency of the calls,
    corrected if the correction holds, and no interval is longer.
    """
    operations_are_kernels(monkeypatch)
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(8, 8)
    with xsp.profile(model, iterations=5, warmup=1, progress=False) as prof, torch.no_grad():
        for _ in range(3):
            model(x)
    timeline, spans = (
        prof.device_timeline(),
        timeline_spans(prof.table("raw_spans"), prof.corrected),
    )
    calls = spans[spans["level"] == Level.MODEL]
    by_run = calls["duration_ns"].groupby(calls["run"]).sum() / 1e6
    assert timeline["busy_ms"].sum() + timeline["idle_before_ms"].sum() == pytest.approx(
        by_run.mean()
    )
    assert prof.tree()["device_interval_ms"].iloc[0] <= by_run.max()


RESNET = Path(__file__).parents[1] / "examples" / "captures" / "h100_resnet50.xsp"


def test_interval_of_a_module_holds_the_kernels_of_layers_at_every_depth() -> None:
    """The model's interval goes from the first kernel of a run to its last, though its layers lie
    one to three modules deep, and no module's is shorter than its device time.
    """
    prof = xsp.load(RESNET)
    spans = timeline_spans(prof.table("raw_spans"), prof.corrected)
    kernels = spans[spans["level"] == Level.KERNEL]
    start, end = kernels["start_ns"], kernels["start_ns"] + kernels["duration_ns"]
    of_run = end.groupby(kernels["run"]).max() - start.groupby(kernels["run"]).min()
    tree = prof.tree()
    whole, _ = trimmed(of_run.to_numpy() / 1e6)
    assert tree["device_interval_ms"].iloc[0] == pytest.approx(float(whole))
    modules = tree[tree["level"] == "MODULE"]
    assert (modules["device_interval_ms"] >= modules["device_ms"]).all()
    deeper = modules.set_index("name")["device_interval_ms"]
    assert deeper["layer1"] >= deeper["layer1.0"] >= deeper["layer1.0.downsample"]
