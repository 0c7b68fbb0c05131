"""Kernels of different layers that ran at the same time are counted, and layers can be measured
alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick import LAYERS
from torch import nn

import xsp
from xsp.analysis.spans.overlap import (
    find_overlaps,
    layer_busy,
    overlapping_in_a_run,
    serialized_layers,
)
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.tracer import LayerTracer
from xsp.machine import devices
from xsp.measuring.afterwards.serialized import SerializingRecorder
from xsp.types import Level

Activity = tuple[int, int, int, int]


def tables(activities: list[Activity], layers: int = 3) -> dict[str, pd.DataFrame]:
    """Spans of activities (run, layer, start, end), each below a LAYER span of its own below the
    run's MODEL span.
    """
    rows: list[Any] = []
    for run in sorted({activity[0] for activity in activities}):
        model = len(rows)
        rows.append((run, int(Level.MODEL), 0, -1, 0, 10_000))
        for _, layer, start, end in (one for one in activities if one[0] == run):
            rows.append((run, int(Level.LAYER), layer, model, start, 0))
            rows.append((run, int(Level.KERNEL), 0, len(rows) - 1, start, end - start))
    names = [f"layer{index}" for index in range(layers)]
    return {
        "spans": pd.DataFrame(
            rows, columns=["run", "level", "detail", "parent", "start_ns", "duration_ns"]
        ),
        "layers": pd.DataFrame({"name": names, "phase": "forward"}),
    }


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 50), st.integers(1, 20)).map(
            lambda one: (one[0], one[1], one[2], one[2] + one[3])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_overlaps_are_those_of_the_definition(activities: list[Activity]) -> None:
    """An activity overlaps if one of another layer, in the same run, shares any time with it."""
    found = find_overlaps(tables(activities))
    truth = sum(
        any(run == r and layer != other and s < end and start < e for r, other, s, e in activities)
        for run, layer, start, end in activities
    )
    assert len(found) == truth


def test_an_overlap_in_one_of_many_runs_is_counted() -> None:
    """The number of a run is the mean over the runs, rounded up."""
    apart, together = [(0, 0, 5), (1, 10, 15)], [(0, 0, 5), (1, 3, 8)]
    runs = [apart, apart, together]
    found = tables([(run, *each) for run, activities in enumerate(runs) for each in activities])
    assert overlapping_in_a_run(found, 1) == 2
    assert overlapping_in_a_run(found, 2) == 1
    assert overlapping_in_a_run(found, 3) == 1
    assert overlapping_in_a_run(tables([(0, *each) for each in apart]), 0) == 0


def test_no_device_work_overlaps_nothing() -> None:
    """Without kernels there is nothing to tell apart."""
    empty = tables([(0, 0, 0, 1)])
    empty["spans"] = empty["spans"][empty["spans"]["level"] < Level.KERNEL]
    assert not len(find_overlaps(empty))
    assert not len(layer_busy(empty))


def test_serialized_layers_stand_beside_what_they_took_together() -> None:
    """Two layers that shared the device are listed with their time alone, their time together, and
    the count.
    """
    together = tables(
        [(run, layer, 10 * layer, 40_000_000) for run in range(5) for layer in range(2)], layers=2
    )
    alone = pd.DataFrame(
        [(run, layer, 1, 1_000_000 * (layer + 1)) for run in range(7) for layer in range(2)],
        columns=["run", "layer", "kernels", "busy_ns"],
    )
    found = serialized_layers({**together, "serialized": alone}).set_index("name")
    assert found["device_ms"].to_dict() == pytest.approx({"layer0": 1.0, "layer1": 2.0})
    assert found["together_ms"].to_dict() == pytest.approx(
        {"layer0": 40.0, "layer1": 40.0}, rel=1e-5
    )
    assert found["overlapped"].tolist() == [1.0, 1.0]
    assert found["kernels"].tolist() == [1, 1]
    assert not len(serialized_layers(together)), "there were no serialised runs"


def test_device_is_waited_for_after_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The serialising tracer synchronises once after each call and once before each
    backward node.
    """
    waits: list[int] = []
    monkeypatch.setattr(devices, "in_use", lambda: (0,))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: waits.append(1))
    model, codes = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), Codes()
    for layer in model:
        codes.of_module(layer)
    tracer, x = LayerTracer(codes, SerializingRecorder), torch.ones(1, 2)
    tracer.start()
    try:
        output = model(x)
        assert len(waits) == 2
        output.sum().backward()
    finally:
        tracer.stop()
    events = tracer.collect()["layer_events"]
    backward = int((events["code"] >= 1 << 40).sum()) if len(events["code"]) else 0
    assert len(waits) - 2 >= max(backward, 2), "ReLU and Linear have a backward node each"
    assert np.all(events["end_ns"] >= events["start_ns"])


def test_streams_under_capture_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronising would break the capture of a CUDA graph, so nothing is waited for then."""
    monkeypatch.setattr(devices, "in_use", lambda: (0,))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: pytest.fail("waited during a capture"))
    codes, layer = Codes(), nn.ReLU()
    codes.of_module(layer)
    tracer = LayerTracer(codes, SerializingRecorder)
    tracer.start()
    try:
        layer(torch.ones(1))
    finally:
        tracer.stop()


def test_layers_that_cannot_be_measured_alone_are_said() -> None:
    """Asking for serialised runs where no kernels are traced gives a sentence, and an
    empty table.
    """
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **LAYERS, serialize=True)
    assert any(
        "without KERNEL there is nothing to measure [not-serialized]" in each
        for each in prof.warnings
    )
    assert not len(prof.serialized)
    assert not any(
        "not-serialized" in each
        for each in xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **LAYERS).warnings
    )
