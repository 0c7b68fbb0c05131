"""The device's time, divided without rest."""

from __future__ import annotations

import pytest
import torch
from operations import operations_are_kernels
from torch import nn

import xsp
from xsp.analysis.spans.corrected_times import timeline_spans
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
