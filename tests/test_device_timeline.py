"""The device's time, divided without rest."""

from __future__ import annotations

import pytest
import torch
from operations import operations_are_kernels
from torch import nn

import xsp


def test_timeline_of_several_calls_adds_up_to_their_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies between the calls of a block is in no row: rows add up to the corrected latency of
    the calls, and no interval is longer.
    """
    operations_are_kernels(monkeypatch)
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(8, 8)
    with xsp.profile(model, iterations=5, warmup=1, progress=False) as prof, torch.no_grad():
        for _ in range(3):
            model(x)
    timeline, corrected = prof.device_timeline(), prof.corrected
    assert corrected is not None
    spans = prof.spans.loc[corrected["row"], ["run", "level"]].reset_index(drop=True)
    by_run = corrected["duration_ns"][spans["level"] == "MODEL"].groupby(spans["run"]).sum() / 1e6
    assert timeline["busy_ms"].sum() + timeline["idle_before_ms"].sum() == pytest.approx(
        by_run.mean()
    )
    assert prof.tree()["device_interval_ms"].iloc[0] <= by_run.max()
